"""Small parts of the harness: attendance of slots, bad messages, the page made from a report."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from outrider.contract.batch import Value
from outrider.runtime.mqtt import Connection, Delivery
from outrider_ingest.messages import read
from tests.chaos import malformed, report
from tests.chaos.book import Book
from tests.chaos.devices import clock_refusals
from tests.chaos.run import Result
from tests.chaos.watch import ATTENDED, Attendance

TS = 1_790_000_000_000
TOPIC = "fleet/v1/chaos/malformed-1/telemetry"


def test_attendance_counts_the_longest_gap_of_a_slot_while_servers_are_up() -> None:
    attendance = Attendance({"a", "b"})
    for now_s, attended in ((0, {"a", "b"}), (1, {"a"}), (4, {"a"}), (5, {"a", "b"}), (6, {"a"})):
        attendance.see(now_s, attended, servers_up=True)
    assert attendance.longest_s == {"b": 3.0}
    assert attendance.max_s == 3.0


def test_attendance_begins_anew_when_the_servers_return() -> None:
    attendance = Attendance({"a"})
    for now_s, up in ((0, True), (2, True), (3, False), (9, False), (10, True), (11, True)):
        attendance.see(now_s, set(), servers_up=up)
    assert attendance.max_s == 2.0


def test_attended_slots_are_read_from_the_metrics() -> None:
    text = (
        'x 1\noutrider_session_connected{client_id="svc:ingest:0"} 1.0\noutrider_session_connected{client_id="b"} 0.0\n'
    )
    assert ATTENDED.findall(text) == ["svc:ingest:0"]


@pytest.mark.parametrize("bad", malformed.KINDS, ids=lambda bad: bad.name)
def test_malformed_is_refused_for_the_reason_it_says(bad: malformed.Bad) -> None:
    refused, stored = _outcome(TOPIC, bad.payload(5, 3, TS, 42))
    assert refused == {bad.reason} - {""}
    assert stored == [(f"m{i}", 42) for i in range(bad.rows)]


def _outcome(topic: str, payload: bytes) -> tuple[set[str], list[tuple[str, Value]]]:
    async def delivered() -> Delivery:
        return Delivery(topic, payload, 1, Connection("nobody", lambda _: None), TS, None)

    message = read(asyncio.run(delivered()))
    message.resolve({})
    stored = [(metric, value) for metric, _, _, value in message.samples.rows()]
    return {rejection.reason for rejection in message.rejections}, stored


@pytest.mark.parametrize("bad", malformed.KINDS, ids=lambda bad: bad.name)
def test_malformed_payloads_differ_from_each_other(bad: malformed.Bad) -> None:
    assert bad.payload(5, 3, TS, 42) != bad.payload(5, 4, TS, 43)


def test_book_numbers_its_messages_from_one() -> None:
    book = Book()
    assert [book.add("d", "telemetry", 1, seq, 1).number for seq in (1, 2)] == [1, 2]
    assert book.get(2) is book.entries[1]
    assert book.get(0) is book.get(3) is None
    assert [entry.number for entry in book.since(2)] == [2]
    assert len(book.unacked()) == 2


def test_clock_refusals_tell_the_times_that_no_clock_can_mean() -> None:
    now_ms = time.time_ns() // 1_000_000
    assert clock_refusals(now_ms - 3_600_000) == clock_refusals(now_ms) == frozenset()
    assert clock_refusals(5_000) == {"clock_invalid"}
    assert clock_refusals(4_070_908_800_000) == clock_refusals(now_ms + 182 * 86_400_000) == {"clock_ahead"}


def _report(**changes: object) -> dict[str, Any]:
    return {**report.as_dict(Result(seed=1), "all", 40), **changes}


def test_report_of_a_clean_run_misses_nothing() -> None:
    assert report.missed(_report()) == []
    full = {"rounds": 100, "acked": 1_000_000, "in_ledger": 1_000_000, "kills": 100}
    assert report.missed(_report(**full)) == []
    assert "## Scenarios" in report.page(_report(**full))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lost": 3}, "lost: 3"),
        ({"duplicated": 1}, "duplicated: 1"),
        ({"acked": 10, "in_ledger": 9}, "of them in the ledger: 9"),
        ({"problems": {"unnamed": 2}}, "other broken promises: 2"),
        ({"max_unattended_s": 10.1}, "longest a slot stood alone: 10.1 s"),
        ({"peak_rss_bytes": {"ingest": 200_000_001}}, "peak memory of ingest: 200 MB"),
        (
            {
                "rounds": 2,
                "peak_rss_bytes": {"ingest": 130_000_000},
                "rss_first_round_bytes": {"ingest": 70_000_000},
                "rss_last_round_bytes": {"ingest": 121_000_000},
            },
            "memory of ingest, first and last round: 70 → 121 MB",
        ),
        ({"leftover_processes": 1}, "processes left behind: 1"),
        ({"rounds": 100, "acked": 999_999, "in_ledger": 999_999, "kills": 100}, "acked samples"),
        ({"rounds": 100, "acked": 1_000_000, "in_ledger": 1_000_000, "kills": 99}, "kill -9: 99"),
        ({"aborted": "ingest is not ready"}, "the run ended early: ingest is not ready"),
        ({"failures": ["storm: no session"]}, "storm: no session"),
        ({"clean": False}, "a round was not clean"),
    ],
)
def test_report_lists_each_missed_target(changes: dict[str, object], said: str) -> None:
    (missed,) = report.missed(_report(**changes))
    assert missed.startswith(said)
