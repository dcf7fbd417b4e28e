"""SenML and `gone` where golden vectors would be clumsy: huge numbers, limits, how a pack is recognised."""

from __future__ import annotations

import orjson
import pytest

from outrider.contract.reasons import Reason, Refused
from outrider_ingest.formats import decode_event, decode_log, decode_telemetry

HUGE = b"9" * 400


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b'[{"n":"a","bv":%s,"v":1.5}]' % HUGE, Reason.BAD_VALUE),
        (b'[{"n":"a","bs":%s,"s":1.5}]' % HUGE, Reason.BAD_VALUE),
        (b'[{"n":"a","v":1,"bt":%s,"t":0.5}]' % HUGE, Reason.CLOCK_INVALID),
        (b'[{"n":"a","v":1,"bt":1.5,"t":%s}]' % HUGE, Reason.CLOCK_INVALID),
        (b'[{"n":"a","bv":1.7e308,"v":1.7e308}]', Reason.BAD_VALUE),
        (b'[{"n":"a","bv":9007199254740991,"v":1}]', Reason.BAD_VALUE),
        (b'[{"n":"a","v":1,"bt":1.7e308,"t":1.7e308}]', Reason.CLOCK_INVALID),
        (b'[{"n":"a","v":1,"bt":-1.7e308}]', Reason.CLOCK_INVALID),
        (b'[{"n":"a","v":1,"u":5}]', Reason.BAD_VALUE),
    ],
)
def test_senml_number_out_of_bounds_is_refused(payload: bytes, reason: Reason) -> None:
    decoded = decode_telemetry(payload)
    assert ([known for known, _ in decoded.refused], decoded.samples) == ([reason], [])


def test_senml_sum_whose_name_grows_too_long_leaves_the_value() -> None:
    decoded = decode_telemetry(orjson.dumps([{"n": "n" * 126, "v": 1, "s": 2}]))
    assert [metric for metric, *_ in decoded.samples] == ["n" * 126]
    assert [reason for reason, _ in decoded.refused] == [Reason.BAD_NAME]


def test_senml_pack_beyond_the_limit_is_refused_with_its_number() -> None:
    records: list[dict[str, object]] = [{"bn": "a/", "boot": 1, "seq": 2, "bt": 1_760_000_000}]
    decoded = decode_telemetry(orjson.dumps(records + [{}] * 5_001))
    assert (decoded.boot, decoded.seq) == (1, 2)
    assert [reason for reason, _ in decoded.refused] == [Reason.TOO_MANY_SAMPLES]


@pytest.mark.parametrize(
    ("records", "metrics"),
    [
        ([{"bn": "x/"}, {"n": "a", "v": 1}], ["x_a"]),
        ([{"bver": 10, "n": "a", "v": 1}], ["a"]),
        ([{"bt": 1_760_000_000, "n": "a"}, {"n": "a", "v": 1}], ["a"]),
        ([{"n": "a", "s": 1}], ["a_sum"]),
        # flat records that only look like it
        ([{"n": 5, "v": 1}], ["n", "v"]),
        ([{"v": 1, "t": 2}], ["v", "t"]),
        ([{"bt": 1}], ["bt"]),
    ],
)
def test_senml_is_told_from_flat_records(records: list[dict[str, object]], metrics: list[str]) -> None:
    assert [metric for metric, *_ in decode_telemetry(orjson.dumps(records)).samples] == metrics


@pytest.mark.parametrize("decode", [decode_telemetry, decode_log, decode_event])
@pytest.mark.parametrize("reason", [5, "\x00", {}, "x" * 1000])
def test_gone_with_a_bad_reason_is_refused(decode: object, reason: object) -> None:
    with pytest.raises(Refused) as caught:
        decode(orjson.dumps({"boot": 1, "gone": [[1, 2]], "reason": reason}))  # type: ignore[operator]
    assert caught.value.reason is Reason.BAD_VALUE


def test_gone_keeps_a_short_reason_and_says_what_does_not_belong() -> None:
    decoded = decode_log(orjson.dumps({"boot": 1, "now_ms": 5, "gone": [[1, 2]], "reason": "é" * 201, "msg": "x"}))
    assert (decoded.gone, decoded.gone_reason) == ([(1, 2)], "é" * 200)
    assert [reason for reason, _ in decoded.refused] == [Reason.UNKNOWN_FORMAT]
    assert "'msg'" in decoded.refused[0][1]


def test_gone_that_is_no_array_is_a_metric() -> None:
    assert decode_telemetry(b'{"gone": true}').samples == [("gone", None, None, True)]
