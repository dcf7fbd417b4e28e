"""The report of a run: JSON, a table for the terminal, and the page in docs/ made from the JSON."""

from __future__ import annotations

import json
import os
import platform as machine
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from tests.chaos.run import Result, Round

MEMORY_LIMIT_BYTES = 200_000_000
GROWTH_LIMIT_BYTES = 50_000_000
"""Between the first and the last round; more than caches that fill is a leak."""
UNATTENDED_LIMIT_S = 10.0
FULL_ROUNDS = 100
"""A run of so many rounds of all scenarios is a full one, and owes the kills and the samples of a full one."""
FULL_KILLS = 100
FULL_ACKED = 1_000_000
UNDISTURBED = "undisturbed"


def as_dict(result: Result, scenario_set: str, devices: int) -> dict[str, Any]:
    """The JSON report."""
    found = result.findings
    return {
        "seed": result.seed,
        "scenarios": scenario_set,
        "rounds": len(result.rounds),
        "devices": devices,
        "duration_s": round(result.duration_s, 1),
        "clean": result.clean,
        "aborted": result.aborted,
        "messages": found.messages,
        "acked": found.acked,
        "in_ledger": found.in_ledger,
        "lost": found.problems["lost"],
        "duplicated": found.problems["duplicated"],
        "problems": dict(
            found.problems + sum((r.findings.problems for r in result.rounds), start=type(found.problems)())
        ),
        "rollup_minutes": result.minutes,
        "rejected": found.rejected,
        "conflicts": found.conflicts,
        "unnumbered": found.unnumbered,
        "unnumbered_stored": found.unnumbered_stored,
        "kills": result.counts["kill -9"],
        "faults": dict(sorted(result.counts.items())),
        "max_unattended_s": result.max_unattended_s,
        "worst_s": result.worst,
        "recovery_s": {name: _recovery(rounds) for name, rounds in _by_scenario(result.rounds)},
        "peak_rss_bytes": dict(sorted(result.peak_bytes.items())),
        "rss_first_round_bytes": dict(sorted(result.first_bytes.items())),
        "rss_last_round_bytes": dict(sorted(result.last_bytes.items())),
        "leftover_processes": len(result.leftovers),
        "failures": [f"{r.scenario.name}: {r.failure}" for r in result.rounds if r.failure],
        "examples": [text for r in result.rounds for text in r.findings.examples][:40] or found.examples,
        "versions": result.versions,
        "machine": {"cores": os.cpu_count(), "system": machine.system(), "processor": machine.machine()},
    }


def _by_scenario(rounds: Sequence[Round]) -> list[tuple[str, list[Round]]]:
    ordered = sorted(rounds, key=lambda r: r.scenario.name)
    return [(name, list(group)) for name, group in groupby(ordered, key=lambda r: r.scenario.name)]


def _recovery(rounds: Sequence[Round]) -> dict[str, Any]:
    times = sorted(r.recovery_s for r in rounds)
    return {
        "faults": sorted({fault for r in rounds for fault in r.scenario.faults}),
        "rounds": len(rounds),
        "clean": sum(r.clean for r in rounds),
        "recovery_median_s": round(median(times), 2),
        "recovery_max_s": times[-1],
        "max_unattended_s": max(r.max_unattended_s for r in rounds),
        "sent_bytes_per_row": round(sum(r.sent_bytes for r in rounds) / max(1, sum(r.acked_rows for r in rounds)), 1),
    }


def totals(report: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """(what, figure, is as promised) of a report."""
    services = {name: size for name, size in report["peak_rss_bytes"].items() if name not in ("mosquitto", "postgres")}
    is_full = report["scenarios"] == "all" and report["rounds"] >= FULL_ROUNDS
    return [
        (
            "acked samples, log lines and events",
            f"{report['acked']:,}",
            not is_full or report["acked"] >= FULL_ACKED,
        ),
        ("of them in the ledger", f"{report['in_ledger']:,}", report["in_ledger"] == report["acked"]),
        ("lost", f"{report['lost']:,}", not report["lost"]),
        ("duplicated", f"{report['duplicated']:,}", not report["duplicated"]),
        ("other broken promises", f"{sum(report['problems'].values()):,}", not report["problems"]),
        ("refused with reason, and kept", f"{report['rejected']:,}", True),
        ("kill -9", f"{report['kills']:,}", not is_full or report["kills"] >= FULL_KILLS),
        (
            "rounds not clean",
            str(sum(r["rounds"] - r["clean"] for r in report["recovery_s"].values())),
            all(r["rounds"] == r["clean"] for r in report["recovery_s"].values()),
        ),
        (
            "longest a slot stood alone",
            f"{report['max_unattended_s']:.1f} s",
            report["max_unattended_s"] <= UNATTENDED_LIMIT_S,
        ),
        *(
            (f"peak memory of {name}", f"{size / 1e6:.0f} MB", size < MEMORY_LIMIT_BYTES)
            for name, size in services.items()
        ),
        *(
            (
                f"memory of {name}, first and last round",
                f"{size / 1e6:.0f} → {report['rss_last_round_bytes'].get(name, 0) / 1e6:.0f} MB",
                report["rss_last_round_bytes"].get(name, 0) - size <= GROWTH_LIMIT_BYTES,
            )
            for name, size in report["rss_first_round_bytes"].items()
            if name in services and report["rounds"] > 1
        ),
        ("processes left behind", str(report["leftover_processes"]), not report["leftover_processes"]),
    ]


def missed(report: Mapping[str, Any]) -> list[str]:
    """What is not as promised, in words; nothing when every figure is and every scenario could be played."""
    figures = [f"{what}: {figure}" for what, figure, is_well in totals(report) if not is_well]
    if report["aborted"]:
        figures.append(f"the run ended early: {report['aborted']}")
    if not figures and not report["clean"]:
        figures.append("a round was not clean")
    return figures + list(report["failures"])


def table(report: Mapping[str, Any]) -> Table:
    """The report for a terminal."""
    shown = Table(title=f"chaos, seed {report['seed']}, {report['rounds']} rounds, {report['duration_s']:.0f} s")
    shown.add_column("")
    shown.add_column("", justify="right")
    for what, figure, is_well in totals(report):
        shown.add_row(what, figure if is_well else f"[bold red]{figure}[/]")
    return shown


def page(report: Mapping[str, Any]) -> str:
    """The documentation page, in Markdown."""
    lines = [
        "# Chaos: the last full run",
        "",
        "Real processes and servers, seeded faults, devices that number their messages. The value of every sample is the",
        "number of its message, and the checker counts by value, so no key can hide a dropped or doubled one. This page is",
        "generated from the report of the run; make your own with",
        "",
        "```sh",
        f"make chaos ROUNDS={report['rounds']} SEED={report['seed']}",
        "```",
        "",
        "| | |",
        "|---|---:|",
        *(f"| {what} | {figure if is_well else f'**{figure}**'} |" for what, figure, is_well in totals(report)),
        "",
        "## Scenarios",
        "",
        "*Recovery*: from the end of the last fault until every device had an ack for something it made after it. *Alone*:",
        "the longest any slot had no consumer while broker and database were up. *Bytes*: topics and payloads that devices",
        f"sent for each sample that was acked, sendings again included; `{UNDISTURBED}` is what they send when nothing fails.",
        "",
        "| scenario | faults | rounds | clean | recovery median | max | alone | bytes |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
        *(
            f"| {name} | {', '.join(map(str, r['faults']))} | {r['rounds']} | {r['clean']} | "
            f"{r['recovery_median_s']:.1f} s | {r['recovery_max_s']:.1f} s | {r['max_unattended_s']:.1f} s | "
            f"{r['sent_bytes_per_row']:.0f} |"
            for name, r in report["recovery_s"].items()
        ),
        "",
        "## What was done",
        "",
        "| fault | times |",
        "|---|---:|",
        *(f"| {fault} | {count:,} |" for fault, count in report["faults"].items()),
        "",
        "## How long single things took",
        "",
        "| | worst |",
        "|---|---:|",
        *(f"| {what} | {seconds:.1f} s |" for what, seconds in sorted(report["worst_s"].items())),
        "",
        "## Where",
        "",
        f"{report['machine']['cores']} cores, {report['machine']['system']} on {report['machine']['processor']}; "
        + ", ".join(f"{name} {version}" for name, version in report["versions"].items())
        + f"; {report['devices']} devices; {report['duration_s'] / 60:.0f} minutes.",
        "",
    ]
    return "\n".join(lines)


def kept_runs(reports: Sequence[Mapping[str, Any]]) -> str:
    """A section of the page about the full runs whose reports are kept in docs/reports, by seed."""
    lines = [
        "## Full runs that are kept",
        "",
        "| seed | rounds | acked | lost | duplicated | kill -9 | alone | report |",
        "|---:|---:|---:|---:|---:|---:|---:|---|",
        *(
            f"| {r['seed']} | {r['rounds']} | {r['acked']:,} | {r['lost']} | {r['duplicated']} | {r['kills']} | "
            f"{r['max_unattended_s']:.1f} s | [`chaos-seed-{r['seed']}.json`](reports/chaos-seed-{r['seed']}.json) |"
            for r in sorted(reports, key=lambda r: int(r["seed"]))
        ),
        "",
    ]
    return "\n".join(lines)


def write_page(report: Mapping[str, Any], docs: Path) -> Path:
    """Writes docs/chaos.md, also from the reports kept in docs/reports; its path."""
    path = docs / "chaos.md"
    kept = [json.loads(file.read_text()) for file in docs.glob("reports/chaos-seed-*.json")]
    path.write_text(page(report) + ("\n" + kept_runs(kept) if kept else ""))
    return path
