"""The benchmark measures what it says: a short load through the real platform, and the arithmetic of the report."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from outrider.servers import ServerError
from outrider.testing.fixtures import unavailable
from outrider_ingest.formats import decode_telemetry
from tests.bench import meter, payloads, report
from tests.bench.generator import quantile
from tests.bench.ledger import read_committed
from tests.bench.loads import LOADS, Load
from tests.bench.suite import Plan, Told, growth, run
from tests.bench.targets import Target
from tests.bench.wire import Link, length_of

NOW_MS = 1_790_000_000_000


def nothing(*_: object) -> None:
    """For what is told and not looked at."""


@pytest.mark.servers
@pytest.mark.slow
async def test_a_short_load_is_measured_and_all_of_it_is_in_the_ledger() -> None:
    saved: list[Mapping[str, Any]] = []
    plan = Plan("make bench", ["b"], seconds=2, half_seconds=1, with_peers=False, devices=40)
    try:
        written = await run(plan, Told(nothing, nothing, nothing, saved.append))
    except ServerError as error:
        unavailable("Mosquitto and PostgreSQL", error)
    result = written["loads"]["b"]
    assert report.is_complete(written), result
    assert result["acked"] == result["sent"] == result["messages_counted"] > 100
    assert result["rows"] == result["acked"] * 10 == result["committed_by_metric"]
    assert result["full"]["messages"] > 0
    assert result["half"]["latency"]["p99_ms"] >= result["half"]["latency"]["p50_ms"] > 0
    found = report.measured(written)["b"]
    assert all(found.cpu_per_100k[name] > 0 for name in ("mosquitto", "ingest", "writer-timeseries", "postgres"))
    assert min(result["peak_bytes"][name] for name in (*report.COMPONENTS, report.GENERATOR)) > 1_000_000
    assert written["versions"]["mosquitto"] in report.page(written)
    assert json.loads(json.dumps(saved[-1])) == written


def result_of(letter: str = "b", **changes: Any) -> dict[str, Any]:
    """A measured load in figures that are easy to reckon with: 100,000 messages in 10 s."""
    load = LOADS[letter]
    messages = 100_000
    full = {
        "seconds": 10.0,
        "messages": messages,
        "messages_per_s": messages / 10,
        "committed": messages * load.samples,
        "samples_per_s": messages * load.samples / 10,
        "cpu_s": {"generator": 1.0, "mosquitto": 2.0, "ingest": 3.0, "writer-timeseries": 1.0, "postgres": 4.0},
        "busy_share": 0.75,
        "latency": {"count": messages, "p50_ms": 900, "p99_ms": 1_500},
    }
    return {
        "load": {"letter": letter, "title": load.title, "devices": load.devices},
        "replicas": 1,
        "full": full | changes.pop("full", {}),
        "half": {"latency": {"count": 10, "p50_ms": 70, "p99_ms": 140}},
        "peak_bytes": {"generator": 5_000_000, "mosquitto": 20_000_000, "ingest": 60_000_000},
        **dict.fromkeys(("lost", "duplicated", "unacked", "rejected", "rejections", "restarts"), 0),
        **changes,
    }


def report_of(loads: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A report with these loads, on two cores."""
    machine = {
        "cores": 2,
        "processor": "P",
        "kernel": "1",
        "system": "Linux",
        "memory_bytes": 8e9,
        "file_system": "ext4",
    }
    return {
        "command": "make bench",
        "duration_s": 60.0,
        "machine": {**machine, "commit": "abc"},
        "versions": {"mosquitto": "2.1.2"},
        "persistence": "persistence true",
        "database": {"fsync": "on"},
        "connections": 50,
        "loads": loads,
        "peers": {},
        "ceilings": {},
        "growth": [],
        "missing": [],
        **changes,
    }


def test_figures_leave_the_generator_out_of_the_cpu_but_not_of_the_machine() -> None:
    found = report.figures(result_of(), cores=2)
    assert found.cpu_per_100k_total == 10.0
    assert found.cpu_per_million == 10.0
    assert found.cpu_per_100k["generator"] == 1.0
    assert found.machine_share == 11 / 20
    assert math.isclose(found.others_share, 0.2)
    assert found.memory_bytes == 80_000_000
    assert (found.p50_ms, found.p99_ms) == (70, 140)


def test_latency_without_half_load_is_that_of_the_load() -> None:
    assert report.figures(result_of("e", half=None), cores=2).p99_ms == 1_500


def test_ratio_is_samples_per_cpu_second() -> None:
    ours = report.figures(result_of(), 2)
    theirs = report.figures(result_of(full={"cpu_s": {"telegraf": 20.0, "mosquitto": 5.0, "generator": 9.0}}), 2)
    assert report.ratio(ours, theirs) == 2.5
    assert report.ratio(ours, None) is None


def test_targets_say_met_missed_and_what_cannot_be_told() -> None:
    b = result_of("b", full={"seconds": 60.0, "samples_per_s": 300_000.0, "cpu_s": {"ingest": 120.0}})
    d = result_of("d", full={"seconds": 120.0, "samples_per_s": 600_000.0})
    verdicts = {t.what: t.verdict for t in report.targets_of(report_of({"b": b, "d": d}))}
    assert verdicts["(b) sustained"] == "met"
    assert verdicts["(d) sustained"] == "not long enough"
    assert verdicts["(a) sustained"] == "not measured"
    assert verdicts["(b) CPU per 1M samples without generator"] == "**not met**"
    assert verdicts["(b) publish→ack p99 at half load"] == "met"
    assert verdicts["lost samples, all loads"] == "met"


def test_the_fleets_target_needs_its_rate_kept() -> None:
    def verdict(rate: float) -> str:
        cpu = {"generator": 0.5, "ingest": 1.0}
        loads = {"e": result_of("e", half=None, full={"messages_per_s": rate, "cpu_s": cpu})}
        return target(report_of(loads), "(e) share of the machine, generator included").verdict

    assert verdict(333.0) == "met"
    assert verdict(300.0) == "**not met**"


def target(written: Mapping[str, Any], what: str) -> Target:
    """The target of that name."""
    return next(t for t in report.targets_of(written) if t.what == what)


def test_page_shows_loads_peers_ceilings_growth_and_failures() -> None:
    peer = result_of(full={"cpu_s": {"telegraf": 20.0, "mosquitto": 5.0, "postgres": 5.0, "generator": 1.0}})
    written = report_of(
        {"b": result_of(), "c": {"load": {}, "failure": "the broker closed a connection"}},
        peers={"telegraf": {"b": peer}},
        ceilings={"broker": 100_000.0, "copy": 500_000.0},
        growth=[result_of()],
        missing=["no such peer"],
    )
    page = report.page(written)
    assert re.search(r"\| \(b\) 10 samples a message \| 10,000 \| 100,000 \|.*\| 3.0 × \| 10% \| 20% \|", page)
    assert "not measured: the broker closed a connection" in page
    assert "| (b) | 1,000 | 1 | 10,000 | 100,000 |" in page
    assert "not measured: no such peer" in page
    assert not report.is_complete(written)
    assert report.is_complete(report_of({"b": result_of()}))


@pytest.mark.parametrize("what", ["lost", "duplicated", "unacked", "rejected", "rejections", "restarts"])
def test_nothing_wrong_passes_for_complete(what: str) -> None:
    assert not report.is_complete(report_of({"b": result_of("b", **{what: 1})}))


@pytest.mark.parametrize("load", LOADS.values(), ids=lambda load: load.letter)
def test_payloads_hold_the_samples_they_say_and_no_key_comes_twice(load: Load) -> None:
    head = payloads.head(load.encoding, boot=7)
    tails = payloads.tails(load.encoding, load.metrics, load.frames)
    start_ms = payloads.start_ms(load.encoding, NOW_MS)
    step_ms = payloads.time_step_ms(load.encoding, load.frames)
    keys: set[tuple[str, int | None]] = set()
    for seq in (1, 2, 3):
        decoded = decode_telemetry(head % (seq, start_ms + seq * step_ms) + tails[seq])
        assert (decoded.boot, decoded.seq, decoded.refused) == (7, seq, [])
        assert len(decoded.samples) == load.samples
        keys |= {(metric, ts) for metric, ts, _, _ in decoded.samples}
    assert len(keys) == 3 * load.samples
    assert len(set(tails)) > payloads.VARIANTS / 2


def test_link_counts_pubacks_and_finds_messages_in_whatever_pieces_they_come() -> None:
    seen: list[tuple[bytes, bytes]] = []
    body = b"\x00\x01t" + b"x" * 300
    stream = b"\x40\x02\x00\x01" + b"\x30" + length_of(len(body)) + body + b"\x40\x02\x00\x02"
    for size in (1, 3, 200, len(stream)):
        link = Link("link", 1, lambda topic, payload, _: seen.append((topic, payload)))
        for start in range(0, len(stream), size):
            link.handle(stream[start : start + size])
        assert link.pubacked == 2
        assert seen == [(b"t", b"x" * 300)]
        seen.clear()


def test_quantiles_of_a_histogram() -> None:
    counts = [0] * 200
    counts[10], counts[150] = 99, 1
    assert quantile(counts, 0.5) == quantile(counts, 0.99) == 10
    assert quantile(counts, 0.995) == 150
    assert quantile([0, 0], 0.5) is None


def test_what_was_used_is_the_difference_of_two_readings() -> None:
    before = meter.Reading(10.0, {"ingest": 1.0}, busy=100, ticks=1_000)
    used = meter.used(before, meter.Reading(12.0, {"ingest": 2.5}, busy=250, ticks=1_200))
    assert (used.seconds, used.cpu_s, used.busy_share) == (2.0, {"ingest": 1.5}, 0.75)


def test_committed_samples_are_read_from_the_metrics() -> None:
    assert read_committed("# HELP x\noutrider_writer_timeseries_samples_total 1.5e+06\nother 1\n") == 1_500_000
    with pytest.raises(ValueError, match="do not say"):
        read_committed("other_total 1\n")


def test_growth_varies_devices_then_replicas() -> None:
    assert [(load.devices, replicas) for load, replicas in growth(LOADS["b"])] == [
        *((devices, 1) for devices in (100, 1_000, 10_000, 100_000)),
        *((1_000, replicas) for replicas in (2, 4)),
    ]


def test_the_page_is_written_where_it_belongs(tmp_path: Path) -> None:
    path = report.write_page(report_of({"b": result_of()}), tmp_path)
    assert path.name == "bench.md"
    assert path.read_text().startswith("# Benchmark")
