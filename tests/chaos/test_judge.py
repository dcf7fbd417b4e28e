"""The checker, held against ledgers that lose, double, misplace and invent."""

from __future__ import annotations

import pytest

from tests.chaos.book import Book, Entry
from tests.chaos.judge import Findings, Refusal, Row, compact, judge

ANCHORS = {("d", 7): 1_000_000}


def _book(*entries: Entry) -> Book:
    return Book(list(entries))


def _message(number: int = 1, **more: object) -> Entry:
    values: dict[str, object] = {"ts": 5_000, "acked": True, **more}
    return Entry(number, "d", "telemetry", 7, number, 2, **values)  # type: ignore[arg-type]


def _rows(number: int = 1, ts: int = 5_000, metrics: tuple[str, ...] = ("m0", "m1")) -> list[Row]:
    return [Row("telemetry", "d", metric, ts, number) for metric in metrics]


def _judge(book: Book, rows: list[Row], refusals: tuple[Refusal, ...] = ()) -> Findings:
    return judge(book, book.entries, rows, refusals, ANCHORS)


def test_judge_what_is_stored_once_is_clean() -> None:
    found = _judge(_book(_message()), _rows())
    assert found.clean
    assert (found.acked, found.in_ledger) == (2, 2)


def test_judge_an_uptime_lies_at_its_boots_anchor() -> None:
    assert _judge(_book(_message(ts=None, up_ms=42)), _rows(ts=1_000_042)).clean
    assert _judge(_book(_message(ts=None, up_ms=42)), _rows(ts=1_000_043)).problems == {"misplaced": 2}


@pytest.mark.parametrize(
    ("rows", "problem", "count"),
    [
        ([], "lost", 2),
        (_rows(metrics=("m0",)), "lost", 1),
        (_rows() + _rows(ts=5_001, metrics=("m0",)), "duplicated", 1),
        (_rows(ts=4_999), "misplaced", 2),
        (_rows(metrics=("m0", "m7")), "misplaced", 1),
        (_rows() + _rows(number=2), "alien", 2),
        (_rows() + _rows(number=-1, metrics=("m0",)), "alien", 1),
    ],
)
def test_judge_finds_what_is_wrong_with_an_acked_message(rows: list[Row], problem: str, count: int) -> None:
    assert _judge(_book(_message()), rows).problems == {problem: count}


def test_judge_an_unacked_message_is_named_and_may_be_stored_whole_or_not() -> None:
    for rows in ([], _rows()):
        assert _judge(_book(_message(acked=False)), rows).problems == {"unacked": 1}
    assert _judge(_book(_message(acked=False)), _rows(metrics=("m0",))).problems == {"unacked": 1, "partial": 1}


def test_judge_an_unnumbered_message_may_be_lost_but_not_doubled() -> None:
    entry = Entry(1, "d", "telemetry", 0, 0, 2, ts=5_000)
    assert _judge(_book(entry), []).clean
    assert _judge(_book(entry), _rows()).clean
    assert _judge(_book(entry), _rows() + _rows(ts=9, metrics=("m1",))).problems == {"duplicated": 1}


def test_judge_a_refused_message_is_named_and_kept() -> None:
    entry = _message(refusals=frozenset({"clock_ahead"}), named=("clock_ahead",), digest="ab")
    by_number = Refusal("d", "telemetry", 7, 1, "", "clock_ahead")
    by_digest = Refusal("d", "telemetry", 0, 0, "ab", "clock_ahead")
    assert _judge(_book(entry), [], (by_number,)).clean
    assert _judge(_book(entry), [], (by_digest,)).clean
    assert _judge(_book(entry), []).problems == {"unkept": 1}
    assert _judge(_book(entry), _rows(), (by_number,)).problems == {"alien": 1}


def test_judge_a_refusal_that_was_not_due_or_not_named() -> None:
    conflict = Refusal("d", "telemetry", 7, 1, "", "conflict")
    assert _judge(_book(_message(named=("conflict",))), [], (conflict,)).problems == {"refused_wrongly": 1}
    assert _judge(_book(_message(refusals=frozenset({"no_time"}))), []).problems == {"unnamed": 1}


def test_judge_one_of_two_twins_is_stored_and_the_other_named() -> None:
    def twins(*named: bool) -> Book:
        return _book(
            _message(1, twin=2, named=("conflict",) if named[0] else ()),
            _message(2, twin=1, named=("conflict",) if named[1] else ()),
        )

    kept = tuple(Refusal("d", "telemetry", 7, seq, "", "conflict") for seq in (1, 2))
    assert _judge(twins(False, True), _rows(1), kept).clean
    assert _judge(twins(True, False), _rows(2), kept).clean
    assert _judge(twins(False, False), _rows(1), kept).problems == {"lost": 2, "unnamed": 1}
    assert _judge(twins(True, True), [], kept).problems == {"unnamed": 1}


def test_judge_a_message_of_an_ended_boot_without_anchor_has_no_time() -> None:
    entry = _message(ts=None, up_ms=1, named=("no_time",), boot_ended=True)
    kept = Refusal("d", "telemetry", 7, 1, "", "no_time")
    assert judge(_book(entry), [entry], [], [kept], {}).clean


def test_judge_an_impossible_clock_is_corrected_by_the_anchor_or_named_where_there_is_none() -> None:
    entry = _message(ts=None, up_ms=42, unplaced=frozenset({"clock_ahead"}))
    assert _judge(_book(entry), _rows(ts=1_000_042)).clean
    named = _message(ts=None, up_ms=42, unplaced=frozenset({"clock_ahead"}), named=("clock_ahead",), boot_ended=True)
    kept = Refusal("d", "telemetry", 7, 1, "", "clock_ahead")
    assert judge(_book(named), [named], [], [kept], {}).clean
    named.boot_ended = False
    assert judge(_book(named), [named], [], [kept], {}).problems == {"refused_wrongly": 1}


def test_compact_makes_ranges() -> None:
    assert compact([7, 1, 2, 3, 2]) == "1-3, 7"
    assert compact([]) == ""
