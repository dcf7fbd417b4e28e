"""Small parts of the harness: attendance of slots, bad messages, the page made from a report."""

from __future__ import annotations

import pytest

from outrider.contract.reasons import Refused
from outrider_ingest.formats import decode_telemetry
from outrider_ingest.times import resolve_samples
from tests.chaos import malformed
from tests.chaos.book import Book
from tests.chaos.watch import ATTENDED, Attendance

TS = 1_790_000_000_000


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
    reasons, stored = _outcome(bad.payload(5, 3, TS, 42))
    assert reasons == {bad.reason}
    assert stored == [("m0", 42)] * bad.rows_if_refused


def _outcome(payload: bytes) -> tuple[set[str], list[tuple[str, object]]]:
    try:
        decoded = decode_telemetry(payload)
    except Refused as refused:
        return {refused.reason}, []
    samples, refusals = resolve_samples(decoded, TS, None)
    return {reason for reason, _ in (*decoded.refused, *refusals)}, [(sample[0], sample[3]) for sample in samples]


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
