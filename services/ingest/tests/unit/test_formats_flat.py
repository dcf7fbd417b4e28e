"""Flat JSON and what all formats share: names, numbering, bounded refusals. Values and reasons: golden vectors."""

from __future__ import annotations

import json
import zlib

import orjson
import pytest

from outrider.contract.reasons import Reason, Refused
from outrider_ingest.formats import decode_scalar, decode_telemetry
from outrider_ingest.formats.names import METRICS, MetricNames


@pytest.mark.parametrize(
    ("payload", "names"),
    [
        (b'{"bad name!": 5, "good": 1}', "'bad name!'"),
        (b'{"engine": {"oil": {"bad!": 5}}}', "'engine_oil_bad!'"),
        (b'{"a\\u0000b": 5}', r"'a\x00b'"),
        (b'{"x": "\\u0000"}', "'x'"),
        (b'{"x": 1e400}', "'x'"),
        (b'{"v": 1, "t0": 1, "series": {"cpu!": [[0], [1]]}}', "'cpu!'"),
        (b'[{"bn": "engine/", "n": "oil", "v": "hot"}]', "'engine/oil'"),
    ],
)
def test_refusal_names_the_metric(payload: bytes, names: str) -> None:
    ((_, detail),) = decode_telemetry(payload).refused
    assert f"metric {names}:" in detail


def test_refusal_detail_can_be_stored_and_is_short() -> None:
    payload = orjson.dumps({"\x00" + "x" * 5000: 1, "ok": "\x00"})
    for _, detail in decode_telemetry(payload).refused:
        assert "\x00" not in detail
        assert len(detail) <= 200
    decoded = decode_telemetry(b'{"\\ud800": 1, "n": %s}' % (b"7" * 5000))
    for _, detail in decoded.refused:
        detail.encode()
        assert len(detail) <= 200


@pytest.mark.parametrize(
    "boot", [b"9" * 30, b"9" * 300, b"-" + b"9" * 300, b"9" * 5000, b'"%s"' % (b"x" * 5000), b"{}"]
)
def test_detail_of_a_bad_number_is_short(boot: bytes) -> None:
    with pytest.raises(Refused) as caught:
        decode_telemetry(b'{"boot": %s, "seq": 1, "a": 1}' % boot)
    assert caught.value.detail.startswith("boot must be")
    assert len(caught.value.detail) <= 200


def test_refusals_are_bounded_and_keep_each_reason() -> None:
    fields: dict[str, object] = {f"bad!{i}": 1 for i in range(500)}
    decoded = decode_telemetry(orjson.dumps({**fields, "good": 1, "late": "\x00"}))
    assert [metric for metric, *_ in decoded.samples] == ["good"]
    assert len(decoded.refused) == 21
    assert {reason for reason, _ in decoded.refused} == {Reason.BAD_NAME, Reason.BAD_VALUE}
    assert "480 more refusals" in decoded.refused[-1][1]


def test_two_keys_that_become_one_metric_stay_two_samples() -> None:
    decoded = decode_telemetry(b'{"oil.temp": 1, "oil-temp": 2}')
    assert [(metric, value) for metric, _, _, value in decoded.samples] == [("oil_temp", 1), ("oil_temp", 2)]


def test_integers_beyond_64_bits_are_told_from_floats_of_the_same_size() -> None:
    decoded = decode_telemetry(
        b'{"bad": 18446744073709551616, "good": 1.8446744073709552e19, "id": "%s"}' % (b"1" * 40)
    )
    assert [(metric, value) for metric, _, _, value in decoded.samples] == [("good", 2.0**64), ("id", "1" * 40)]
    assert [reason for reason, _ in decoded.refused] == [Reason.BAD_VALUE]


@pytest.mark.parametrize("bad", [2**53, -(2**53), 2**63, -(2**63), 2**64, 10**30])
@pytest.mark.parametrize("neighbour", [1, 1.5, -1.5])
def test_integer_out_of_bounds_in_a_column_takes_no_neighbour(bad: int, neighbour: float) -> None:
    decoded = decode_telemetry(json.dumps({"v": 1, "t0": 5, "series": {"a": [[1] * 3, [neighbour, bad, 7]]}}).encode())
    assert decoded.samples == [("a", 6, None, neighbour), ("a", 8, None, 7)]
    assert [reason for reason, _ in decoded.refused] == [Reason.BAD_VALUE]


@pytest.mark.parametrize("depth", [9, 60, 64, 65, 100, 900])
@pytest.mark.parametrize("odd", [b'"\\ud800"', b"18446744073709551616", b'"[[]{\\"[["'])
def test_odd_message_that_is_too_deep_keeps_its_number_up_to_64_levels(depth: int, odd: bytes) -> None:
    nested = b"[" * (depth - 1) + odd + b"]" * (depth - 1)
    payload = b'{"boot": 1, "seq": 2, "ts": 1760000000000, "odd": %s, "brackets": "%s", "deep": %s}' % (
        odd,
        b"[" * 200,
        nested,
    )
    try:
        decoded = decode_telemetry(payload)
    except Refused as refused:
        assert (refused.reason, depth > 64) == (Reason.TOO_DEEP, True)  # noqa: PT017
    else:
        assert (decoded.boot, decoded.seq) == (1, 2)
        assert decoded.samples[-1][0] == "brackets"
        assert Reason.TOO_DEEP in [reason for reason, _ in decoded.refused]
        assert depth <= 64 or b"[[" in odd


def test_nested_values_object_below_the_top_is_an_ordinary_name() -> None:
    decoded = decode_telemetry(b'{"a": {"values": {"b": 1}}}')
    assert [metric for metric, *_ in decoded.samples] == ["a_values_b"]


def test_reserved_names_are_free_below_a_prefix() -> None:
    decoded = decode_telemetry(b'{"engine": {"boot": 1, "ts": 2}}')
    assert [metric for metric, *_ in decoded.samples] == ["engine_boot", "engine_ts"]


def test_null_numbering_counts_as_absent() -> None:
    decoded = decode_telemetry(b'{"boot": null, "seq": null, "ts": null, "now_ms": null, "up_ms": null, "a": 1}')
    assert (decoded.boot, decoded.seq, decoded.now_ms) == (None, None, None)
    assert decoded.samples == [("a", None, None, 1)]


def test_message_that_would_outgrow_the_bus_is_refused_with_its_number() -> None:
    # 5 bytes of JSON that a writer spells out in 18: the batch would pass the broker's packet limit for ever.
    body = b'{"boot":1,"seq":2,"ts":1760000000000,"a":[' + b"1e15," * 200_000 + b"1]}"
    decoded = decode_telemetry(zlib.compress(body))
    assert (decoded.boot, decoded.seq, decoded.samples) == (1, 2, [])
    assert [reason for reason, _ in decoded.refused] == [Reason.TOO_LARGE]


def test_scalar_of_an_object_says_what_to_send() -> None:
    with pytest.raises(Refused) as caught:
        decode_scalar("on", b"ON")
    assert caught.value.reason is Reason.NOT_JSON
    assert decode_scalar("a", b"{}").refused[0][1].startswith("metric 'a': the value must be a number")


def test_metric_names_normalise_and_remember() -> None:
    names = MetricNames()
    assert names["oil.temp-c/x y"] == "oil_temp_c_x_y"
    assert names["1st"] == names[""] == names["tür"] == names["ts"] == names["now-ms"] == ""
    assert "oil.temp-c/x y" in names


def test_metric_names_stay_bounded() -> None:
    names = MetricNames()
    for number in range(20_001):
        assert names[f"m{number}"]
    assert len(names) <= 20_000
    assert names["x" * 1000] == ""
    assert "x" * 1000 not in names
    assert len(METRICS) <= 20_000
