"""The bus batch: what is encoded comes back, and nothing but ValueError comes of anything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.contract.batch import (
    BatchNumber,
    Header,
    Record,
    Samples,
    Shape,
    decode_records,
    decode_samples,
    encode_records,
    encode_samples,
)
from outrider.contract.limits import NUMBER_MAX, TIME_MAX_MS

NAMES = st.text("abcxyz019-", min_size=1, max_size=8)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.integers(1, NUMBER_MAX)
TIMES = st.integers(0, TIME_MAX_MS)
RANGES = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=3)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-NUMBER_MAX, NUMBER_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.one_of(
    st.tuples(st.just("number"), FINITE | st.integers(-NUMBER_MAX, NUMBER_MAX)),
    st.tuples(st.just("boolean"), st.booleans()),
    st.tuples(st.just("string"), TEXT),
    st.tuples(st.just("json"), st.lists(st.integers(0, 9), max_size=3) | st.dictionaries(TEXT, TEXT, max_size=2)),
)
SAMPLES = st.tuples(NAMES, VALUES, TIMES).map(lambda s: (s[0], s[1][0], s[2], s[1][1]))
BATCH_NUMBERS = st.builds(BatchNumber, st.integers(0, 255), NUMBERS, NUMBERS)


def headers(stream: str) -> st.SearchStrategy[Header]:
    gone = st.tuples(RANGES, st.none() | TEXT.filter(bool)).map(lambda g: g if g[0] else (g[0], None))
    return st.tuples(
        NAMES, NAMES, st.none() | NUMBERS, st.none() | NUMBERS, TIMES, st.none() | TIMES, st.lists(NAMES), gone
    ).map(lambda h: Header(h[0], h[1], stream, h[2], h[3], h[4], h[5], h[6] or (), h[7][0] or (), h[7][1]))  # type: ignore[arg-type]


def typed(value: Any) -> str:
    """JSON text: 1, 1.0 and True are equal in Python and different on the wire."""
    return json.dumps(value, sort_keys=True)


@given(BATCH_NUMBERS, st.lists(st.tuples(headers("telemetry"), st.lists(SAMPLES, max_size=5)), max_size=5))
def test_samples_come_back_as_they_went(number: BatchNumber, messages: list[Any]) -> None:
    batch = decode_samples(encode_samples(number, [(header, Samples.of(rows)) for header, rows in messages]))
    assert batch.number == number
    assert batch.headers == [header for header, _ in messages]
    assert [len(samples) for samples in batch.samples] == [len(rows) for _, rows in messages]
    came = [[(*head, typed(value)) for *head, value in samples.rows()] for samples in batch.samples]
    assert came == [[(*head, typed(value)) for *head, value in rows] for _, rows in messages]


def test_devices_of_one_kind_share_a_shape_and_runs_their_times() -> None:
    header = Header("acme", "van-1", "telemetry", 7, 1, 5)
    shape = Shape.of((("a", "number", 2), ("b", "number", 2)))
    together = Samples(shape, [5, 9], [1.0, 2.0, 3.0, 4.0])
    payload = encode_samples(BatchNumber(1, 2, 3), [(header, together), (replace(header, device="van-2"), together)])
    document = json.loads(payload)
    assert document["shapes"] == [[["a", "number", 2], ["b", "number", 2]]]
    assert document["samples"]["dt"] == [[0, 4], [0, 4]]
    first, second = decode_samples(payload).samples
    assert first.shape is second.shape
    assert list(first.rows()) == [
        ("a", "number", 5, 1.0),
        ("a", "number", 9, 2.0),
        ("b", "number", 5, 3.0),
        ("b", "number", 9, 4.0),
    ]


@given(
    BATCH_NUMBERS,
    st.sampled_from(["log", "event"]).flatmap(
        lambda stream: st.lists(
            st.tuples(
                headers(stream),
                st.lists(st.builds(Record, TIMES, NAMES, TEXT, st.dictionaries(TEXT, JSON, max_size=3)), max_size=4),
            ),
            min_size=1,
            max_size=4,
        )
    ),
)
def test_records_come_back_as_they_went(number: BatchNumber, messages: list[Any]) -> None:
    batch = decode_records(encode_records(number, messages))
    assert batch.number == number
    assert batch.headers == [header for header, _ in messages]
    assert batch.records == [records for _, records in messages]


EXAMPLE = json.loads(
    encode_samples(
        BatchNumber(1, 2, 3),
        [(Header("acme", "van-1", "telemetry", 7, 1, 5, None, ["no_time"]), Samples.of([("a", "number", 5, 1.5)]))],
    )
)
EXAMPLE_RECORDS = json.loads(
    encode_records(
        BatchNumber(1, 2, 3),
        [(Header("acme", "van-1", "log", 7, 1, 5, gone=[(1, 2)]), [Record(5, "info", "text", {"a": 1})])],
    )
)


@pytest.mark.parametrize("decode", [decode_samples, decode_records])
@given(payload=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_garbage_is_a_value_error(decode: Callable[[bytes], object], payload: bytes) -> None:
    with pytest.raises(ValueError, match="not a bus batch"):
        decode(payload)


def paths(document: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document, the document itself not included."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    found = []
    for key, value in items:
        found.append((*prefix, key))
        if isinstance(value, dict | list):
            found += paths(value, (*prefix, key))
    return found


@settings(max_examples=500)
@given(data=st.data(), junk=JSON | st.integers() | st.just("9" * 5000))
def test_a_damaged_batch_is_a_value_error_or_a_batch(data: st.DataObject, junk: Any) -> None:
    for example, decode in ((EXAMPLE, decode_samples), (EXAMPLE_RECORDS, decode_records)):
        document = json.loads(json.dumps(example))
        *way, last = data.draw(st.sampled_from(paths(document)))
        target = document
        for key in way:
            target = target[key]
        if data.draw(st.booleans()):
            target[last] = junk
        else:
            del target[last]
        try:
            decode(json.dumps(document).encode())
        except ValueError:
            continue


def test_another_version_says_what_to_update() -> None:
    with pytest.raises(ValueError, match="update this service first"):
        decode_samples(json.dumps({**EXAMPLE, "v": 3}).encode())
    with pytest.raises(ValueError, match="update ingest too"):
        decode_samples(json.dumps({**EXAMPLE, "v": 1}).encode())


def test_columns_must_agree() -> None:
    damaged = json.loads(json.dumps(EXAMPLE))
    damaged["samples"]["value"].append(1)
    with pytest.raises(ValueError, match="columns of different lengths"):
        decode_samples(json.dumps(damaged).encode())
    damaged = json.loads(json.dumps(EXAMPLE))
    damaged["messages"]["shape"][0] = -1
    with pytest.raises(ValueError, match="no such shape"):
        decode_samples(json.dumps(damaged).encode())
    damaged = json.loads(json.dumps(EXAMPLE))
    damaged["samples"]["dt"][0] = [0, 1]
    with pytest.raises(ValueError, match="do not cover"):
        decode_samples(json.dumps(damaged).encode())
    damaged = json.loads(json.dumps(EXAMPLE))
    damaged["shapes"][0] = [["a", "number", 2], ["b", "number", -1]]
    with pytest.raises(ValueError, match="a run of no samples"):
        decode_samples(json.dumps(damaged).encode())
