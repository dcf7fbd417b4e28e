"""Sequence arithmetic and verdicts: what a batch adds to the accounting, and what its devices are told."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.contract.batch import Header, Range
from outrider.contract.reasons import Reason
from outrider.runtime import metrics
from outrider.runtime.accounting import Counted, _text_array, multirange, to_ranges
from outrider.runtime.acks import Acknowledger
from outrider.runtime.rejects import Rejection
from outrider.runtime.verdicts import Verdicts, acknowledge, count

SEQS = st.lists(st.integers(1, 200) | st.integers(2**53 - 20, 2**53 - 1))
KEY = ("demo", "van-1", "telemetry", 7)


def numbers(ranges: list[Range]) -> set[int]:
    return {seq for first, last in ranges for seq in range(first, last + 1)}


@given(SEQS)
def test_ranges_hold_exactly_the_numbers_sorted_and_disjoint(seqs: list[int]) -> None:
    ranges = to_ranges(seqs)
    assert numbers(ranges) == set(seqs)
    assert all(first <= last for first, last in ranges)
    assert all(left[1] + 1 < right[0] for left, right in itertools.pairwise(ranges))


@given(SEQS, st.lists(st.tuples(st.integers(1, 50), st.integers(0, 9)).map(lambda r: (r[0], r[0] + r[1]))))
def test_multirange_text_holds_the_numbers_and_the_ranges(seqs: list[int], ranges: list[Range]) -> None:
    text = multirange(seqs, ranges)
    assert re.fullmatch(r"\{(\[\d+,\d+\](,\[\d+,\d+\])*)?\}", text)
    written = [(int(first), int(last)) for first, last in re.findall(r"\[(\d+),(\d+)\]", text)]
    assert numbers(written) == set(seqs) | numbers(ranges)


def header(seq: int | None, boot: int | None = 7, **more: Any) -> Header:
    return Header("demo", "van-1", "telemetry", boot, seq, 0, **more)


def rejection(reason: Reason) -> Rejection:
    return Rejection("demo", "van-1", "telemetry", 7, 1, reason, "", "t", b"", 0)


COUNTS: dict[str, tuple[list[Header], dict[str, Any], dict[Any, Counted]]] = {
    "nothing": ([], {}, {}),
    "unnumbered": ([header(None, None)], {}, {}),
    "fresh": ([header(1), header(2)], {}, {KEY: Counted(stored=[1, 2])}),
    "stale": ([header(1)], {"stale": {0}}, {KEY: Counted(duplicates=1)}),
    "too many gaps": ([header(9)], {"full": {0}, "refused": {0: Reason.TOO_MANY_GAPS}}, {KEY: Counted(rejected=1)}),
    "refused here": ([header(1)], {"refused": {0: Reason.BAD_VALUE}}, {KEY: Counted(stored=[1], rejected=1)}),
    "refused by ingest": ([header(1, reasons=["no_time"])], {}, {KEY: Counted(stored=[1], rejected=1)}),
    "refused by ingest, again": (
        [header(1, reasons=["no_time"])],
        {"stale": {0}},
        {KEY: Counted(duplicates=1)},
    ),
    "conflict": (
        [header(1)],
        {"refused": {0: Reason.CONFLICT}},
        {KEY: Counted(stored=[1], conflicts=1, rejected=1)},
    ),
    "cloned": (
        [header(1)],
        {"stale": {0}, "refused": {0: Reason.CONFLICT}},
        {KEY: Counted(duplicates=1, conflicts=1)},
    ),
    "gone": ([header(None, gone=[(1, 3)])], {}, {KEY: Counted(gone=[(1, 3)])}),
    "two boots": ([header(1), header(1, boot=8)], {}, {KEY: Counted(stored=[1]), (*KEY[:3], 8): Counted(stored=[1])}),
}


@pytest.mark.parametrize("case", COUNTS.values(), ids=COUNTS.keys())
def test_count(case: Any) -> None:
    headers, judged, expected = case
    assert count(Verdicts(headers, **judged)) == expected


@pytest.mark.parametrize(
    ("headers", "judged", "expected"),
    [
        ([header(None, None)], {}, []),
        ([header(2), header(1), header(4)], {}, [{"seq": [[1, 2], [4, 4]], "rejected": []}]),
        ([header(1)], {"stale": {0}}, [{"seq": [[1, 1]], "rejected": []}]),
        (
            [header(1, reasons=["no_time", "bad_name"]), header(2)],
            {"refused": {1: Reason.CONFLICT}},
            [{"seq": [[1, 2]], "rejected": [[1, "no_time"], [2, "conflict"]]}],
        ),
        ([header(None, gone=[(1, 3)])], {}, [{"seq": [], "rejected": [], "gone": [[1, 3]]}]),
    ],
)
async def test_devices_are_told_what_is_settled(headers: list[Header], judged: Any, expected: list[Any]) -> None:
    published: list[Any] = []

    async def publish(messages: Sequence[tuple[str, bytes]]) -> None:
        assert {topic for topic, _ in messages} <= {"fleet/v1/demo/van-1/ack"}
        published.extend(json.loads(payload) for _, payload in messages)

    acks = Acknowledger(publish)
    acknowledge(Verdicts(headers, **judged), acks, "ledger-1")
    await acks.flush()
    common = {"ledger": "ledger-1", "stream": "telemetry", "boot": 7, "need": []}
    assert published == [{**common, **ack} for ack in expected]


def test_the_first_reason_of_a_message_stays_and_every_refused_part_is_kept() -> None:
    verdicts = Verdicts([header(1)])
    verdicts.refuse(0, Reason.BAD_VALUE, rejection(Reason.BAD_VALUE))
    verdicts.refuse(0, Reason.CONFLICT, rejection(Reason.CONFLICT))
    assert verdicts.refused == {0: Reason.BAD_VALUE}
    assert [kept.reason for kept in verdicts.rejections] == ["bad_value", "conflict"]


def test_every_numbered_message_is_counted_under_one_outcome() -> None:
    def value(outcome: str) -> float:
        return metrics.SEQUENCE.labels("telemetry", outcome)._value.get()

    outcomes = ("stored", "duplicate", "conflict", "bad_value", "gone")
    before = [value(outcome) for outcome in outcomes]
    headers = [header(1), header(2), header(2), header(3), header(4), header(5), header(None, gone=[(7, 9)])]
    judged: Any = {"stale": {3, 4}, "refused": {4: Reason.CONFLICT, 5: Reason.BAD_VALUE}}

    async def publish(messages: Sequence[tuple[str, bytes]]) -> None:
        """Nobody listens."""

    acknowledge(Verdicts(headers, **judged), Acknowledger(publish), "ledger-1")
    assert [value(outcome) - was for outcome, was in zip(outcomes, before, strict=True)] == [2, 2, 1, 1, 3]


@given(st.lists(st.text("abc-019", max_size=5) | st.text(max_size=5), max_size=5))
def test_text_arrays_hold_any_text(items: list[str]) -> None:
    text = _text_array(items)
    parts = re.findall(r'"((?:[^"\\]|\\.)*)"', text, re.DOTALL)
    assert text == ("{" + ",".join(f'"{part}"' for part in parts) + "}")
    assert [re.sub(r"\\(.)", r"\1", part, flags=re.DOTALL) for part in parts] == items
