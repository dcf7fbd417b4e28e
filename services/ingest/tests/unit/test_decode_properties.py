"""Decoding as properties: any bytes give samples or a reason, never another exception; encodings come back as sent."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.contract.limits import MESSAGE_MAX_RECORDS, MESSAGE_MAX_SAMPLES, NUMBER_MAX, STRING_VALUE_MAX_BYTES
from outrider.contract.reasons import Reason, Refused
from outrider.contract.topics import is_metric
from outrider_ingest.formats import Decoded, decode_event, decode_log, decode_scalar, decode_telemetry
from outrider_ingest.times import anchor_candidate, drift_ms, resolve_records, resolve_samples

RECEIVED = 1_760_000_000_000
DECODERS: list[Callable[[bytes], Decoded]] = [
    decode_telemetry,
    decode_log,
    decode_event,
    lambda payload: decode_scalar("a.b", payload),
]

# Keys and shapes that mean something to a decoder, so that random documents reach its depths.
ENVELOPE_KEYS = ["boot", "seq", "ts", "up_ms", "now_ms", "v", "t0", "series", "records", "values", "gone", "reason"]
SENML_KEYS = ["n", "bn", "bt", "bu", "bv", "bs", "bver", "vs", "vb", "vd", "s", "t", "u", "ut"]
RECORD_KEYS = ["level", "severity", "msg", "message", "type", "a", "b", "a.b", "x_"]
KEYS = st.sampled_from([*ENVELOPE_KEYS, *SENML_KEYS, *RECORD_KEYS]) | st.text(max_size=4)
NUMBERS = (
    st.integers(min_value=-(2**70), max_value=2**70)
    | st.integers(min_value=-2, max_value=12)
    | st.floats(allow_nan=False)
    | st.sampled_from([RECEIVED, RECEIVED - 1, RECEIVED / 1000, 2**53, 2**53 - 1, 2**64])
)
TEXTS = st.text(max_size=8) | st.sampled_from(["2025-10-09T08:53:20Z", "\x00", "\ud800", "warn", "x" * 5000])
LEAVES = st.none() | st.booleans() | NUMBERS | TEXTS
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=25
)


def json_bytes(document: Any) -> bytes:
    """JSON text as odd as JSON may be: escaped surrogates, integers of any size, 1e400 where a float is infinite."""
    return json.dumps(document).replace("Infinity", "1e400").encode()


def check(decoded: Decoded) -> None:
    """What every Decoded promises, so that nothing behind the decoder meets a poison value."""
    assert decoded.boot is None or 1 <= decoded.boot <= NUMBER_MAX
    assert decoded.seq is None or (1 <= decoded.seq <= NUMBER_MAX and decoded.boot is not None)
    assert len(decoded.samples) <= MESSAGE_MAX_SAMPLES
    assert len(decoded.records) <= MESSAGE_MAX_RECORDS
    assert len(decoded.refused) <= 20 + len(Reason)
    for reason, detail in decoded.refused:
        assert isinstance(reason, Reason)
        assert len(detail) <= 200
        assert "\x00" not in detail
        detail.encode()
    for metric, _, _, value in decoded.samples:
        assert is_metric(metric)
        assert type(value) in (int, float, bool, str, list)
        if type(value) is int:
            assert abs(value) <= NUMBER_MAX
        if isinstance(value, str):
            assert len(value.encode()) <= STRING_VALUE_MAX_BYTES
    assert all(1 <= first <= last <= NUMBER_MAX for first, last in decoded.gone)
    assert decoded.gone_reason is None or "\x00" not in decoded.gone_reason
    # orjson refuses surrogates, infinite numbers become null in it, and PostgreSQL knows no NUL.
    content = (decoded.samples, decoded.records, decoded.gone_reason)
    text = orjson.dumps(content)
    assert len(text) <= 4 << 20
    assert orjson.loads(text) == json.loads(json.dumps(content))
    assert b"\\u0000" not in text.replace(b"\\\\", b"")
    # Every outcome is something, and times follow without an exception.
    anchor_ms = anchor_candidate(decoded, RECEIVED)
    samples, late = resolve_samples(decoded, RECEIVED, anchor_ms)
    records, late_records = resolve_records(decoded, RECEIVED, anchor_ms)
    drift_ms(decoded, RECEIVED, anchor_ms)
    assert len(samples) <= len(decoded.samples)
    assert bool(late) == (len(samples) < len(decoded.samples))
    assert bool(late_records) == (len(records) < len(decoded.records))
    for ts in [sample[2] for sample in samples] + [record.ts for record in records]:
        assert type(ts) is int
        assert 946_684_800_000 <= ts <= RECEIVED + 300_000


def outcome(decode: Callable[[bytes], Decoded], payload: bytes) -> Decoded | Refused:
    try:
        return decode(payload)
    except Refused as refused:
        return refused


def decode_all(payload: bytes) -> None:
    for decode in DECODERS:
        result = outcome(decode, payload)
        if isinstance(result, Decoded):
            check(result)
        else:
            assert len(result.detail) <= 400
            assert "\x00" not in result.detail
            result.detail.encode()


@given(st.binary(max_size=300))
@settings(max_examples=150)
def test_any_bytes_give_samples_or_a_reason(payload: bytes) -> None:
    decode_all(payload)


@given(st.sampled_from([b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08\x00", b"\x78\x9c", b"\x08\x1d"]), st.binary(max_size=200))
def test_any_bytes_after_a_magic_number_give_samples_or_a_reason(magic: bytes, rest: bytes) -> None:
    decode_all(magic + rest)


@given(JSON)
@settings(max_examples=200)
def test_any_json_gives_samples_or_a_reason(document: Any) -> None:
    decode_all(json_bytes(document))


@given(st.dictionaries(KEYS, JSON, max_size=8), st.lists(st.dictionaries(KEYS, LEAVES, max_size=6), max_size=5))
@settings(max_examples=150)
def test_any_document_of_known_shape_gives_samples_or_a_reason(fields: dict[str, Any], records: list[Any]) -> None:
    decode_all(json_bytes(fields))
    decode_all(json_bytes(records))
    decode_all(json_bytes({**fields, "records": records}))
    decode_all(json_bytes([{"bn": "x", "bver": 10, **fields}, *records]))
    decode_all(b"\n".join(json_bytes(record) for record in records))


STEPS = st.lists(st.sampled_from([0, 1, -1, 10**15, -(10**15), 2**60, True, 1.5]) | st.integers(0, 1000), max_size=5)
COLUMNS = st.tuples(STEPS, st.lists(LEAVES, max_size=5)) | st.integers(1, 5).flatmap(
    lambda size: st.tuples(
        st.lists(st.integers(-1000, 1000), min_size=size, max_size=size),
        st.lists(NUMBERS, min_size=size, max_size=size) | st.lists(LEAVES, min_size=size, max_size=size),
    )
)


@given(
    st.dictionaries(KEYS, COLUMNS, max_size=4),
    st.dictionaries(st.sampled_from(["boot", "seq", "now_ms", "t0"]), NUMBERS),
)
@settings(max_examples=150)
def test_any_compact_batch_gives_samples_or_a_reason(series: dict[str, Any], header: dict[str, Any]) -> None:
    decode_all(json_bytes({"v": 1, "t0": RECEIVED, **header, "series": series}))


@given(
    st.binary(max_size=60), st.integers(0, 5000), st.sampled_from([b"[", b'{"a":', b'[{"a":', b"\\", b'"', b"1,", b" "])
)
@settings(max_examples=100)
def test_repetition_gives_samples_or_a_reason(end: bytes, count: int, unit: bytes) -> None:
    decode_all(unit * count + end)


@given(st.sampled_from([gzip.compress, zlib.compress, zstandard.compress]), JSON)
def test_compression_changes_nothing(compress: Callable[[bytes], bytes], document: Any) -> None:
    payload = json_bytes(document)
    for decode in DECODERS:
        packed, plain = outcome(decode, compress(payload)), outcome(decode, payload)
        if isinstance(plain, Refused):
            assert isinstance(packed, Refused)
            assert packed.reason is plain.reason
        else:
            assert packed == plain


METRIC = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True).filter(
    lambda name: name not in {"boot", "seq", "ts", "up_ms", "now_ms", "gone", "values", "records", "series"}
)
INTEGER = st.integers(-NUMBER_MAX, NUMBER_MAX)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
GOOD_TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=30)
GOOD = INTEGER | FLOAT | st.booleans() | GOOD_TEXT
HEADER = st.tuples(st.integers(1, NUMBER_MAX), st.integers(1, NUMBER_MAX))
TIME = st.integers(946_684_800_000, RECEIVED)


def typed(value: object) -> tuple[type, str]:
    """A value so that 1, 1.0 and True, 0.0 and -0.0 differ."""
    return type(value), repr(value)


@given(HEADER, TIME, st.dictionaries(METRIC, GOOD, min_size=1, max_size=20))
def test_flat_round_trip(header: tuple[int, int], ts: int, fields: dict[str, Any]) -> None:
    boot, seq = header
    decoded = decode_telemetry(orjson.dumps({"boot": boot, "seq": seq, "ts": ts, **fields}))
    assert (decoded.boot, decoded.seq, decoded.refused) == (boot, seq, [])
    assert [(m, t, u, typed(v)) for m, t, u, v in decoded.samples] == [
        (metric, ts, None, typed(value)) for metric, value in fields.items()
    ]


@given(
    HEADER, st.dictionaries(METRIC, st.lists(st.tuples(TIME, GOOD), min_size=1, max_size=10), min_size=1, max_size=5)
)
def test_compact_round_trip(header: tuple[int, int], series: dict[str, list[tuple[int, Any]]]) -> None:
    t0 = RECEIVED - 1000
    columns = {
        metric: [
            [after - before for before, after in pairwise([t0, *(time for time, _ in points)])],
            [value for _, value in points],
        ]
        for metric, points in series.items()
    }
    document = {"v": 1, "boot": header[0], "seq": header[1], "t0": t0, "series": columns}
    decoded = decode_telemetry(orjson.dumps(document))
    assert (decoded.boot, decoded.seq, decoded.refused) == (*header, [])
    assert [(m, t, u, typed(v)) for m, t, u, v in decoded.samples] == [
        (metric, time, None, typed(value)) for metric, points in series.items() for time, value in points
    ]


@given(HEADER, st.lists(st.tuples(TIME, METRIC, INTEGER | FLOAT), min_size=1, max_size=10))
def test_senml_round_trip(header: tuple[int, int], points: list[tuple[int, str, Any]]) -> None:
    records: list[dict[str, Any]] = [{"n": metric, "v": value, "t": time / 1000} for time, metric, value in points]
    records[0] |= {"boot": header[0], "seq": header[1]}
    decoded = decode_telemetry(orjson.dumps(records))
    assert (decoded.boot, decoded.seq, decoded.refused) == (*header, [])
    assert [(m, t, u, v) for m, t, u, v in decoded.samples] == [(m, t, None, v) for t, m, v in points]


@given(HEADER, st.dictionaries(METRIC, GOOD, min_size=1, max_size=8), st.sampled_from(["bad!", "1st", "", "tür"]), JSON)
def test_one_bad_metric_takes_no_neighbour(header: tuple[int, int], good: dict[str, Any], bad: str, value: Any) -> None:
    decoded = decode_telemetry(json_bytes({"boot": header[0], "seq": header[1], "ts": RECEIVED, bad: value, **good}))
    assert (decoded.boot, decoded.seq) == header
    kept = [(metric, typed(value)) for metric, _, _, value in decoded.samples]
    for metric, expected in good.items():
        assert (metric, typed(expected)) in kept


@pytest.mark.parametrize("decode", DECODERS)
def test_depth_bombs_do_not_recurse(decode: Callable[[bytes], Decoded]) -> None:
    for unit in (b"[", b'{"a":', b'[{"a":'):
        for count in (100, 1_000, 1_100, 10_000):
            with pytest.raises(Refused) as caught:
                decode(unit * count)
            assert caught.value.reason is Reason.TOO_DEEP
