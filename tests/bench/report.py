"""The report of a benchmark: derived figures, tables for the terminal, and the page in docs/ made from the JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.bench.loads import CONNECTIONS_MAX, LOADS
from tests.bench.targets import Target, targets

GENERATOR = "generator"
TELEGRAF = "telegraf-narrow"
"""Telegraf with tables of the ledger's shape: the one that the targets name."""
PEERS_NOTE = (
    "The same broker, payloads and PostgreSQL. *telegraf-narrow* has tables of the ledger's shape, a row a sample under a "
    "primary key, and acknowledges a message when all its rows are written; *telegraf-unpivot* fills the same table with "
    "less CPU and acknowledges a message when it is read, so a crash loses what it holds; *telegraf-wide*, its native shape, "
    "has a row a message in a table without key, and nothing there keeps a redelivered message out. Its window is the "
    "broker's `max_inflight_messages` of 1,000, of which a batch takes half. Its rows are counted twice a second, which is in "
    "the CPU of its PostgreSQL. The last three of the CPU columns are per 100k messages."
)
COMPONENTS = ("mosquitto", "ingest", "writer-timeseries", "writer-logs", "postgres")


@dataclass(frozen=True)
class Figures:
    """What follows from the raw figures of one measured load."""

    messages_per_s: float
    samples_per_s: float
    cpu_per_100k: dict[str, float]
    """CPU seconds per 100,000 messages, by component."""
    cpu_per_100k_total: float
    """Without the generator."""
    cpu_per_million: float
    """CPU seconds per 1,000,000 samples, without the generator."""
    machine_share: float
    """Of all cores, generator included, other processes not."""
    others_share: float
    """Of all cores, by processes that are no part of the benchmark."""
    p50_ms: float | None
    p99_ms: float | None
    memory_bytes: int
    """Sum of the components' peaks, without the generator."""
    lost: int


def figures(result: Mapping[str, Any], cores: int) -> Figures:
    """The figures of one load. Latency is that at half load, where there was a half load."""
    full = result["full"]
    cpu: Mapping[str, float] = full["cpu_s"]
    per_second = {name: seconds / full["seconds"] for name, seconds in cpu.items()}
    total = sum(share for name, share in per_second.items() if name != GENERATOR)
    latency = (result.get("half") or full)["latency"]
    machine_share = sum(per_second.values()) / cores
    return Figures(
        full["messages_per_s"],
        full["samples_per_s"],
        {name: _per(share, full["messages_per_s"], 100_000) for name, share in per_second.items()},
        _per(total, full["messages_per_s"], 100_000),
        _per(total, full["samples_per_s"], 1_000_000),
        machine_share,
        max(0.0, full["busy_share"] - machine_share),
        latency["p50_ms"],
        latency["p99_ms"],
        sum(size for name, size in result["peak_bytes"].items() if name != GENERATOR),
        result["lost"],
    )


def _per(cpu_share: float, rate: float, unit: int) -> float:
    """CPU seconds for `unit` of what comes at this rate (1/s)."""
    return cpu_share / rate * unit if rate else float("nan")


@dataclass(frozen=True)
class Sheet:
    """One table, for the terminal and for the page."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def rich(self) -> Table:
        """For the terminal."""
        table = Table(title=self.title, title_justify="left")
        for number, name in enumerate(self.header):
            table.add_column(name, justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*(cell.replace("**", "") for cell in row))
        return table

    def markdown(self) -> list[str]:
        """For the page."""
        rule = "|".join(["---", *["---:"] * (len(self.header) - 1)])
        note = [self.note, ""] if self.note else []
        head = [f"## {self.title}", "", *note, f"| {' | '.join(self.header)} |", f"|{rule}|"]
        return [*head, *(f"| {' | '.join(row)} |" for row in self.rows), ""]


def sheets(report: Mapping[str, Any]) -> list[Sheet]:
    """All tables of a report."""
    made = [_loads(report), _cpu(report), _memory(report), _peers(report), _growth(report), _targets(report)]
    return [sheet for sheet in made if sheet.rows]


def measured(report: Mapping[str, Any]) -> dict[str, Figures]:
    """Figures of the loads that could be measured, by letter."""
    cores = report["machine"]["cores"]
    return {k: figures(r, cores) for k, r in report["loads"].items() if not r.get("failure")}


def peers_measured(report: Mapping[str, Any]) -> dict[str, dict[str, Figures]]:
    """Figures of the peers, by name and letter."""
    cores = report["machine"]["cores"]
    return {
        name: {k: figures(r, cores) for k, r in by_load.items() if not r.get("failure")}
        for name, by_load in report["peers"].items()
    }


def ratio(ours: Figures | None, theirs: Figures | None) -> float | None:
    """Our samples per CPU second to theirs; None where one is not measured."""
    if ours is None or theirs is None or not ours.cpu_per_million:
        return None
    return theirs.cpu_per_million / ours.cpu_per_million


def is_complete(report: Mapping[str, Any]) -> bool:
    """True when every load could be measured, nothing was lost, doubled or left without ack and no process ended."""
    results = [*report["loads"].values(), *report["growth"]]
    return all(
        not r.get("failure")
        and not (r["lost"] or r["duplicated"] or r["unacked"] or r["rejected"] or r["rejections"] or r["restarts"])
        for r in results
    )


def _loads(report: Mapping[str, Any]) -> Sheet:
    peers, ceilings = peers_measured(report), report["ceilings"]
    rows = []
    for letter, found in measured(report).items():
        result = report["loads"][letter]
        rows.append(
            [
                f"({letter}) {result['load']['title']}",
                f"{found.messages_per_s:,.0f}",
                f"{found.samples_per_s:,.0f}",
                f"{found.cpu_per_100k_total:.2f}",
                f"{found.cpu_per_million:.2f}",
                f"{_ms(found.p50_ms)} / {_ms(found.p99_ms)}",
                _mb(found.memory_bytes),
                f"{found.lost:,}",
                *(_times(ratio(found, by_load.get(letter))) for by_load in peers.values()),
                *(_share(found.messages_per_s, ceilings.get("broker")) for _ in _has(ceilings, "broker")),
                *(_share(found.samples_per_s, ceilings.get("copy")) for _ in _has(ceilings, "copy")),
            ]
        )
    rows += [
        [f"({letter}) {LOADS[letter].title}", f"not measured: {result['failure']}"]
        for letter, result in report["loads"].items()
        if result.get("failure")
    ]
    header = [
        "load",
        "messages/s",
        "samples/s",
        "CPU s per 100k messages",
        "CPU s per 1M samples",
        "publish→ack p50 / p99",
        "peak memory",
        "lost",
        *(f"samples per CPU s, to {name}" for name in peers),
        *("of the broker's ceiling" for _ in _has(ceilings, "broker")),
        *("of bare COPY" for _ in _has(ceilings, "copy")),
    ]
    note = (
        "Committed samples, counted by the writer and afterwards in the ledger. CPU and memory are of broker, services and "
        "PostgreSQL together, without the generator. Latency at half of the load's rate, in (e) at its own."
    )
    return Sheet("Loads", header, [[*row, *[""] * (len(header) - len(row))] for row in rows], note)


def _cpu(report: Mapping[str, Any]) -> Sheet:
    rows = [
        [
            f"({letter})",
            *(f"{found.cpu_per_100k.get(name, 0):.2f}" for name in COMPONENTS),
            f"{found.cpu_per_100k_total:.2f}",
            f"{found.cpu_per_100k.get(GENERATOR, 0):.2f}",
            f"{found.machine_share:.0%}",
            f"{found.others_share:.0%}",
        ]
        for letter, found in measured(report).items()
    ]
    header = ["load", *COMPONENTS, "together", GENERATOR, "of the machine", "other processes"]
    return Sheet(
        "CPU seconds per 100,000 messages",
        header,
        rows,
        "*Of the machine*: share of all cores with the generator. *Other processes*: what else ran meanwhile.",
    )


def _memory(report: Mapping[str, Any]) -> Sheet:
    rows = [
        [f"({letter})", *(_mb(result["peak_bytes"].get(name, 0)) for name in (*COMPONENTS, GENERATOR))]
        for letter, result in report["loads"].items()
        if not result.get("failure")
    ]
    note = "Proportional set size of each component's processes, the highest of a look every two seconds."
    return Sheet("Peak memory", ["load", *COMPONENTS, GENERATOR], rows, note)


def _peers(report: Mapping[str, Any]) -> Sheet:
    rows = []
    for name, by_load in peers_measured(report).items():
        for letter, found in by_load.items():
            others = {k: v for k, v in found.cpu_per_100k.items() if k not in (*COMPONENTS, GENERATOR)}
            rows.append(
                [
                    f"{name} ({letter})",
                    f"{found.messages_per_s:,.0f}",
                    f"{found.samples_per_s:,.0f}",
                    f"{found.cpu_per_100k_total:.2f}",
                    f"{found.cpu_per_million:.2f}",
                    f"{found.cpu_per_100k['mosquitto']:.2f}",
                    f"{sum(others.values()):.2f}",
                    f"{found.cpu_per_100k['postgres']:.2f}",
                    f"{found.lost:,}",
                ]
            )
        rows += [
            [f"{name} ({k})", r["failure"]] + [""] * 7 for k, r in report["peers"][name].items() if r.get("failure")
        ]
    header = [
        "peer",
        "messages/s",
        "samples/s",
        "CPU s per 100k",
        "CPU s per 1M samples",
        "of it broker",
        "peer",
        "postgres",
        "lost",
    ]
    return Sheet("Peers", header, rows, PEERS_NOTE)


def _growth(report: Mapping[str, Any]) -> Sheet:
    cores = report["machine"]["cores"]
    rows = []
    for result in report["growth"]:
        load = result["load"]
        name = [f"({load['letter']})", f"{load['devices']:,}", str(result["replicas"])]
        if result.get("failure"):
            rows.append([*name, result["failure"], *[""] * 5])
            continue
        found = figures(result, cores)
        rows.append(
            [
                *name,
                f"{found.messages_per_s:,.0f}",
                f"{found.samples_per_s:,.0f}",
                f"{found.cpu_per_million:.2f}",
                f"{_ms(found.p50_ms)} / {_ms(found.p99_ms)}",
                _mb(found.memory_bytes),
                f"{found.lost:,}",
            ]
        )
    header = [
        "load",
        "devices",
        "replicas",
        "messages/s",
        "samples/s",
        "CPU s per 1M samples",
        "p50 / p99",
        "peak memory",
        "lost",
    ]
    return Sheet("Growth with devices and replicas", header, rows)


def _targets(report: Mapping[str, Any]) -> Sheet:
    rows = [[t.what, t.limit, t.figure, t.verdict] for t in targets_of(report)]
    return Sheet("Targets", ["target", "wanted", "measured", ""], rows)


def targets_of(report: Mapping[str, Any]) -> list[Target]:
    """The targets with what was measured."""
    telegraf = peers_measured(report).get(TELEGRAF, {})
    found = measured(report)
    seconds = {letter: report["loads"][letter]["full"]["seconds"] for letter in found}
    return targets(found, seconds, {letter: ratio(found.get(letter), telegraf.get(letter)) for letter in "abc"})


def _connections(count: int | None) -> str:
    if count is None:
        return f"Each device is registered and has a connection of its own, up to {CONNECTIONS_MAX:,} devices."
    return f"The devices share {count} connections."


def page(report: Mapping[str, Any]) -> str:
    """The documentation page, in Markdown."""
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    settings = ", ".join(f"`{name} = {value}`" for name, value in report["database"].items())
    ceilings = report["ceilings"]
    lines = [
        "# Benchmark: the last full run",
        "",
        "Real broker, services and PostgreSQL on one machine; devices that number their messages and wait for the application",
        "ack. The load generator runs on the same cores and its CPU is counted apart. After every load the ledger's rows are",
        "counted: as many as were acknowledged, or the difference stands under *lost*. MQTT on loopback without TLS; the",
        "broker checks the rights of every publish and every delivery. All devices of a load are of one kind and send numbers,",
        "which is the fastest case. This page is generated from the report of the run; make your own with",
        "",
        "```sh",
        report["command"],
        "```",
        "",
        *(line for sheet in sheets(report) for line in sheet.markdown()),
        "## Where",
        "",
        f"{machine['cores']} cores of {machine['processor']}, {machine['memory_bytes'] / 1e9:.0f} GB, {machine['system']} "
        f"{machine['kernel']}, data on {machine['file_system']}; {versions}; commit {machine['commit']}.",
        f"The broker's persistence: {report['persistence']}. PostgreSQL: {settings}.",
        f"{_connections(report['connections'])} The run took {report['duration_s'] / 60:.0f} minutes.",
        "",
        *(
            f"- ceiling of the broker, 1-sample messages into one `mosquitto_sub`: {rate:,.0f} messages/s"
            for rate in [ceilings.get("broker")]
            if rate
        ),
        *(
            f"- ceiling of PostgreSQL, bare binary COPY into a table of the ledger's shape: {rate:,.0f} rows/s"
            for rate in [ceilings.get("copy")]
            if rate
        ),
        *(f"- not measured: {why}" for why in report["missing"]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def write_page(report: Mapping[str, Any], docs: Path) -> Path:
    """Writes docs/bench.md; its path."""
    path = docs / "bench.md"
    path.write_text(page(report))
    return path


def _has(ceilings: Mapping[str, Any], name: str) -> list[str]:
    return [name] if ceilings.get(name) else []


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} ×"


def _share(figure: float, ceiling: float | None) -> str:
    return f"{figure / ceiling:.0%}" if ceiling else ""


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f} ms"


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"
