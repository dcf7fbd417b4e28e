"""The short way reads nothing otherwise than the long way, and it is the way of the messages most devices send."""

from __future__ import annotations

import json
from typing import Any

import pytest
import zstandard
from hypothesis import event, given, settings
from hypothesis import strategies as st

from outrider.contract.limits import MESSAGE_MAX_SAMPLES, METRIC_MAX_CHARS, NUMBER_MAX
from outrider_ingest.formats import Decoded, decode_telemetry, plain
from outrider_ingest.times import resolve_samples

RECEIVED = 1_760_000_000_000
NUMBERS = (
    st.integers(-(2**70), 2**70)
    | st.sampled_from([NUMBER_MAX, NUMBER_MAX + 1, -NUMBER_MAX - 1, 2**64, 10**19, 1e300, -0.0, 2.0**53])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-5, 5)
)
VALUES = st.one_of(NUMBERS, st.booleans(), st.booleans() | st.integers(-5, 5), st.none() | st.just("x") | st.just([]))
PLAIN_VALUES = st.one_of(st.integers(-5, 5), st.floats(-1e6, 1e6), st.booleans())
METRICS = st.sampled_from(["a", "b", "c", "oil.temp", "oil_temp", "v", "gone", "values", "records", "1x", "", "up ms"])
TIMES = st.sampled_from([RECEIVED, RECEIVED - 60_000, RECEIVED // 1000, RECEIVED + 300_001, 5, 1.5, "x", None, True])
NUMBERING = st.fixed_dictionaries(
    {},
    optional={
        "boot": st.sampled_from([1, 7, NUMBER_MAX, NUMBER_MAX + 1, 0, None, True, 1.0]),
        "seq": st.sampled_from([1, 2, NUMBER_MAX + 1, 0, None, False]),
        "now_ms": st.sampled_from([5, None]),
        "up_ms": st.sampled_from([5, None]),
    },
)
FLAT = st.tuples(
    NUMBERING,
    st.fixed_dictionaries({}, optional={"ts": TIMES | st.just(RECEIVED)}),
    st.dictionaries(METRICS, PLAIN_VALUES, max_size=4) | st.dictionaries(METRICS, VALUES, max_size=4),
).map(lambda parts: {**parts[0], **parts[1], **parts[2]})
STEPS = st.lists(st.integers(0, 1000), max_size=4) | st.lists(
    st.sampled_from([0, -5, 10**6, 1.0, True, None]), max_size=3
)


def columns(steps: list[Any]) -> st.SearchStrategy[list[Any]]:
    values = st.lists(PLAIN_VALUES, min_size=len(steps), max_size=len(steps)) | st.lists(VALUES, max_size=4)
    return values.map(lambda column: [steps, column])


SERIES = st.lists(st.tuples(METRICS, STEPS), max_size=3).flatmap(
    lambda named: st.tuples(*(st.tuples(st.just(metric), columns(steps)) for metric, steps in named))
)
COMPACT = st.tuples(
    NUMBERING,
    st.fixed_dictionaries({"v": st.sampled_from([1, 1, 1, 2, True]), "t0": TIMES | st.just(RECEIVED)}),
    SERIES,
).map(lambda parts: {**parts[0], **parts[1], "series": dict(parts[2])})


def rows(payload: bytes) -> list[tuple[Any, ...]] | None:
    """What the short way reads, with the kind of each value; None where it leaves the message to the long way."""
    found = plain.read(payload, RECEIVED)
    if found is None:
        return None
    number, samples = found
    return [number or (None, None), *((*row, type(row[3])) for row in samples.rows())]


def rows_of_the_long_way(payload: bytes) -> list[tuple[Any, ...]]:
    decoded: Decoded = decode_telemetry(payload)
    samples, late = resolve_samples(decoded, RECEIVED, None)
    assert (decoded.refused, decoded.gone, decoded.now_ms, decoded.records, late) == ([], [], None, [], [])
    return [(decoded.boot, decoded.seq), *((*row, type(row[3])) for row in samples)]


@settings(max_examples=600)
@given(FLAT | COMPACT, st.booleans())
def test_what_it_reads_the_long_way_reads_alike(document: dict[str, Any], compressed: bool) -> None:
    payload = json.dumps(document).encode()
    if compressed:
        payload = zstandard.compress(payload)
    short = rows(payload)
    event("left to the long way" if short is None else "read")
    if short is not None:
        assert short == rows_of_the_long_way(payload)


@given(st.binary(max_size=80) | st.text(max_size=40).map(str.encode))
def test_garbage_is_left_to_the_long_way(payload: bytes) -> None:
    short = rows(payload)
    if short is not None:
        assert short == rows_of_the_long_way(payload)


@pytest.mark.parametrize(
    "document",
    [
        {"ts": RECEIVED, "a": 1},
        {"boot": 7, "seq": 1, "ts": RECEIVED, "a": 1.5, "ok": True, "b": 2},
        {"a": 1, "boot": 7, "seq": 1, "ts": RECEIVED},
        {"boot": None, "seq": None, "ts": RECEIVED, "a": NUMBER_MAX},
        {"v": 1, "boot": 7, "seq": 1, "t0": RECEIVED, "series": {"a": [[0, 5], [1, 2]], "b": [[0, 5], [True, False]]}},
        {"v": 1, "boot": 7, "seq": 1, "t0": RECEIVED, "series": {"a": [[0, 5], [1, 2]], "b": [[3], [1.5]]}},
        {"ts": RECEIVED, **{f"m{i}": i for i in range(1000)}},
    ],
)
def test_the_messages_of_most_devices_go_the_short_way(document: dict[str, Any]) -> None:
    payload = json.dumps(document).encode()
    assert rows(payload) == rows_of_the_long_way(payload)


@pytest.mark.parametrize(
    "document",
    [
        {"boot": 7, "ts": RECEIVED, "a": 1},
        {"boot": 7, "seq": 1, "ts": RECEIVED, "up_ms": 5, "a": 1},
        {"boot": 7, "seq": 1, "a": 1},
        {"ts": RECEIVED, "a": None},
        {"ts": RECEIVED, "a": 2**53},
        {"ts": RECEIVED, "a": "text"},
        {"ts": RECEIVED, "1a": 1},
        {"ts": RECEIVED},
        {"v": 1, "boot": 7, "seq": 1, "t0": 5000, "series": {"a": [[0], [1]]}},
        {"v": 1, "t0": RECEIVED, "series": {"a": [[0, 1], [1, 2]], "b": [[0.0, 1.0], [1, 2]]}},
        {"v": 1, "t0": RECEIVED, "series": {"a": [[0, 1], [1, 2]], "b": [[False, True], [1, 2]]}},
        {"v": 1, "t0": RECEIVED, "series": {"a": [[0] * (MESSAGE_MAX_SAMPLES + 1), [1] * (MESSAGE_MAX_SAMPLES + 1)]}},
    ],
)
def test_what_needs_a_closer_look_is_left_to_the_long_way(document: dict[str, Any]) -> None:
    assert rows(json.dumps(document).encode()) is None


def test_what_devices_make_up_is_not_remembered_beyond_its_bound() -> None:
    for number in range(50):
        plain.read(json.dumps({"ts": RECEIVED, f"no metric {number} " + "x" * 60_000: 1}).encode(), RECEIVED)
    assert max(len(key) for keys in plain._KEYS for key in keys) <= METRIC_MAX_CHARS
    for number in range(2 * plain._KEYS_MAX_NAMES // 1000):
        plain.read(json.dumps({"ts": RECEIVED, **{f"m{number}_{i}": 1 for i in range(1000)}}).encode(), RECEIVED)
    assert sum(map(len, plain._KEYS)) <= plain._KEYS_MAX_NAMES + 1000
