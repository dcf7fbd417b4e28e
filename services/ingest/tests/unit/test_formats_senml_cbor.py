"""SenML CBOR: says what the same pack says in JSON, reads CBOR as cbor2 does, and costs what its bytes cost."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import cbor2
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.contract.limits import DECOMPRESSED_MAX_BYTES
from outrider.contract.reasons import Reason, Refused
from outrider_ingest.formats import Decoded, cbor, decode_event, decode_log, decode_telemetry
from outrider_ingest.formats.senml_cbor import LABELS

RECEIVED = 1_760_000_000_000
LABEL_OF = {name: label for label, name in LABELS.items()}
NAMES = st.sampled_from(["a", "b", "oil.temp", "x/", "1", "ü", "", "up_ms", "ts"])
NUMBERS = (
    st.integers(-5, 5)
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([RECEIVED / 1000, RECEIVED // 1000, -10, 2**28, 2**53, -0.0])
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
RECORD = st.fixed_dictionaries(
    {"n": NAMES},
    optional={
        "bn": NAMES,
        "bt": NUMBERS,
        "bv": NUMBERS,
        "bver": st.sampled_from([5, 10, 11, 1.5]),
        "u": TEXTS | st.just(5),
        "v": NUMBERS,
        "vs": TEXTS,
        "vb": st.booleans(),
        "s": NUMBERS,
        "t": NUMBERS,
        "boot": st.sampled_from([7, 8]),
        "seq": st.just(3),
        "later": st.lists(NUMBERS, max_size=2),
        "must_": st.just(1),
    },
) | st.fixed_dictionaries({"n": NAMES, "v": NUMBERS}, optional={"t": NUMBERS, "u": TEXTS})


def outcome(payload: bytes) -> Decoded | tuple[Reason, str]:
    try:
        return decode_telemetry(payload)
    except Refused as refused:
        return refused.reason, refused.detail


@given(st.lists(RECORD, min_size=1, max_size=5), st.booleans(), st.booleans())
@settings(max_examples=150)
def test_a_pack_says_the_same_in_cbor_as_in_json(pack: list[dict[str, Any]], indefinite: bool, texts: bool) -> None:
    pack[0]["bn"] = pack[0].get("bn", "")  # JSON needs to be told that it is SenML
    labelled = [{(key if texts else LABEL_OF.get(key, key)): value for key, value in record.items()} for record in pack]
    in_cbor = cbor2.dumps(labelled, indefinite_containers=indefinite)
    assert repr(outcome(in_cbor)) == repr(outcome(json.dumps(pack).encode()))


ITEMS = st.recursive(
    NUMBERS | st.booleans() | st.none() | TEXTS | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.integers(-30, 300) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)
EVERY_LABEL = {number: f"label {number}" for number in range(-30, 301)}


def with_labels(item: Any) -> Any:
    if isinstance(item, dict):
        return {EVERY_LABEL.get(key, key): with_labels(value) for key, value in item.items()}
    return [with_labels(value) for value in item] if isinstance(item, list) else item


@given(st.lists(ITEMS, max_size=4), st.booleans())
@settings(max_examples=100)
def test_what_cbor2_writes_is_read_back(items: list[Any], indefinite: bool) -> None:
    body = cbor2.dumps(items, indefinite_containers=indefinite)
    assert repr(cbor.load_array(body, EVERY_LABEL, 10)) == repr(with_labels(items))
    for end in range(len(body)):
        with pytest.raises(Refused):
            cbor.load_array(body[:end], EVERY_LABEL, 10)
    with pytest.raises(Refused):
        cbor.load_array(body + b"\x00", EVERY_LABEL, 10)


@given(st.integers(0x80, 0x9F), st.binary(max_size=80))
@settings(max_examples=150)
def test_any_bytes_give_samples_or_a_reason(first: int, rest: bytes) -> None:
    result = outcome(bytes([first]) + rest)
    if isinstance(result, tuple):
        assert len(result[1]) <= 400


def test_cbor_is_for_telemetry_only() -> None:
    for decode in (decode_log, decode_event):
        with pytest.raises(Refused) as caught:
            decode(cbor2.dumps([{0: "a", 2: 1}]))
        assert caught.value.reason is Reason.NOT_UTF8


@given(st.lists(RECORD, min_size=1, max_size=3), st.integers(0, 200), st.binary(min_size=1, max_size=3))
@settings(max_examples=150)
def test_a_damaged_pack_gives_samples_or_a_reason(pack: list[dict[str, Any]], at: int, damage: bytes) -> None:
    body = bytearray(cbor2.dumps([{LABEL_OF.get(key, key): value for key, value in record.items()} for record in pack]))
    at %= len(body)
    body[at : at + len(damage)] = damage
    outcome(bytes(body))


MIB = DECOMPRESSED_MAX_BYTES
HEAD = b"\x81\xa2\x00\x61a\x02"
BOMBS = {
    "arrays in arrays": b"\x81" * MIB,
    "arrays without end": b"\x9f" * MIB,
    "maps in maps": b"\x81" + b"\xa1\x00" * (MIB // 2 - 1),
    "tags in tags": b"\x81" + b"\xc4" * (MIB - 1),
    "arrays that claim 65,535 elements": b"\x9a\x00\x00\xff\xff" * (MIB // 5),
    "array that claims 2^64-1 elements": b"\x9b" + b"\xff" * 8,
    "text that claims 2^64-1 bytes": HEAD + b"\x7b" + b"\xff" * 8,
    "a million numbers": b"\x9a\x00\x0f\xff\xf0" + b"\x00" * (MIB - 16),
    "a million numbers in a record": HEAD + b"\x9a\x00\x0f\xff\xe0" + b"\x00" * (MIB - 32),
    "a million empty maps": b"\x9f" + b"\xa0" * (MIB - 2) + b"\xff",
    "half a million pairs": b"\x81\xbf\x00\x61a" + b"\x02\x01" * (MIB // 2 - 4) + b"\xff",
    "a million chunks": b"\x81\xa1\x00\x7f" + b"\x60" * (MIB - 5) + b"\xff",
    "integer of eight million bits": HEAD + b"\xc2\x5a\x00\x0f\xff\x00" + b"\xff" * 0xFFF00,
    "decimal fraction with a mantissa of eight million bits": HEAD
    + b"\xc4\x82\x00\xc2\x5a\x00\x0f\xfe\x00"
    + b"\xff" * 0xFFE00,
    "decimal fraction with an exponent of 2^63": HEAD + b"\xc4\x82\x1b\x7f" + b"\xff" * 7 + b"\x01",
    "keys that would collide": b"\x81\xbf"
    + b"".join(b"\x82\x00\x1b" + (number * (2**61 - 1)).to_bytes(8, "big") + b"\x00" for number in range(8)) * 10_000,
    "pattern that takes for ever": HEAD + b"\xd8\x23" + cbor2.dumps("(a+)+" * 1_000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_cost_little(name: str) -> None:
    """Fault 46: whatever a pack claims to be, it takes neither memory nor time beyond that of its bytes."""
    payload = zstandard.compress(BOMBS[name])
    tracemalloc.start()
    started_s = time.process_time()
    try:
        result = outcome(payload)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.process_time() - started_s < 3  # under tracemalloc on a busy machine; 0.16 s without
    assert peak_bytes < 48 << 20
    assert isinstance(result, tuple) or not result.samples
