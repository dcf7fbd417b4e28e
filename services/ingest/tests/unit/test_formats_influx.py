"""Line protocol where golden vectors would be clumsy: any text, any tags, any division into messages, bounded cost."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.contract.limits import DECOMPRESSED_MAX_BYTES, MESSAGE_MAX_SAMPLES, NUMBER_MAX
from outrider.contract.reasons import Reason, Refused
from outrider.contract.topics import is_metric
from outrider_ingest.formats import Decoded, decode_event, decode_log, decode_telemetry, influx

TIME_MS = 1_760_000_000_000
PLAIN_NAME = st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,8}", fullmatch=True)
TAG_VALUE = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=8).filter(
    lambda text: re.search(r"[A-Za-z0-9]", text) and "\\" not in text
)
TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
VALUE = st.integers(-NUMBER_MAX, NUMBER_MAX) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | TEXT
LINE = st.tuples(
    PLAIN_NAME,
    st.dictionaries(PLAIN_NAME.filter(lambda key: key != "host"), TAG_VALUE, max_size=3),
    st.dictionaries(PLAIN_NAME, VALUE, min_size=1, max_size=5),
    st.integers(TIME_MS - 10**10, TIME_MS),
)
ESCAPED, ESCAPE = re.compile("([,= ])"), r"\\\1"
Line = tuple[str, dict[str, str], dict[str, Any], int]


def written(line: Line) -> str:
    """The line as the specification of line protocol writes it."""
    measurement, tags, fields, ts = line
    head = measurement + "".join([f",{key}={ESCAPED.sub(ESCAPE, value)}" for key, value in tags.items()])
    return f"{head} {','.join(f'{key}={written_value(value)}' for key, value in fields.items())} {ts}000000"


def written_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{value}i" if isinstance(value, int) else repr(value)


def meant(line: Line) -> list[tuple[str, int, None, str]]:
    measurement, tags, fields, ts = line
    parts = [re.sub("[^A-Za-z0-9]+", "_", tags[key]).strip("_") for key in sorted(tags)]
    return [("_".join([measurement, *parts, key]), ts, None, repr(value)) for key, value in fields.items()]


def got(decoded: Decoded) -> list[tuple[str, int | None, int | None, str]]:
    return [(metric, ts, up, repr(value)) for metric, ts, up, value in decoded.samples]


@given(st.lists(LINE, min_size=1, max_size=4), st.sampled_from(["\n", "\r\n", "\n# a comment\n\n"]))
@settings(max_examples=100)
def test_lines_come_back_as_written(lines: list[Line], end: str) -> None:
    decoded = decode_telemetry(end.join(map(written, lines)).encode())
    assert decoded.refused == []
    assert got(decoded) == [sample for line in lines for sample in meant(line)]


@given(st.lists(LINE, min_size=1, max_size=6), st.integers(1, 6))
@settings(max_examples=50)
def test_samples_hang_neither_on_the_division_into_messages_nor_on_what_came_before(
    lines: list[Line], size: int
) -> None:
    texts = [written(line) for line in lines]
    influx._SERIES.clear()
    cold = got(decode_telemetry("\n".join(texts).encode()))
    warm = got(decode_telemetry("\n".join(texts).encode()))
    parts = [texts[at : at + size] for at in range(0, len(texts), size)]
    divided = [sample for part in parts for sample in got(decode_telemetry("\n".join(part).encode()))]
    assert cold == warm == divided


PIECES = st.sampled_from(
    ["m", "cpu,cpu=0", ",host=a", ",host=b", " ", "  ", ",", "=", '"', "\\", "\n", "\r\n", "#", "a=1", "b=2i", "c=t", "d=NaN",
     'e="x"', "1760000000000", "-1", "é", "\x00", "9" * 400, "{", "[", "up ms=1", "1e999", "t", "\t"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=30).map("".join))
@settings(max_examples=150)
def test_any_text_gives_samples_or_a_reason(text: str) -> None:
    for _ in range(2):  # unknown and known series
        try:
            decoded = decode_telemetry(text.encode())
        except Refused:
            continue
        for metric, ts, _, value in decoded.samples:
            assert is_metric(metric)
            assert ts is None or type(ts) is int
            assert type(value) in (int, float, bool, str)
        assert all(len(detail) <= 200 for _, detail in decoded.refused)


def test_line_protocol_is_for_telemetry_only() -> None:
    for decode in (decode_log, decode_event):
        with pytest.raises(Refused) as caught:
            decode(b"m a=1")
        assert caught.value.reason is Reason.NOT_JSON


def test_two_tag_sets_never_share_a_metric_for_being_long() -> None:
    lines = [f"diskio,name=sda,wwid={'x' * 120}{number} reads={number}i" for number in range(3)]
    metrics = [metric for metric, *_ in decode_telemetry("\n".join(lines).encode()).samples]
    assert len(set(metrics)) == 3
    assert {len(metric) for metric in metrics} == {128}
    assert all(metric.startswith("diskio_sda_xxx") and metric.endswith("_reads") for metric in metrics)


MIB = DECOMPRESSED_MAX_BYTES
BOMBS = {
    "line ends": b"a b=1\n" + b"\n" * (MIB - 10),
    "bad lines": b"a b=1\n" + b"a\n" * (MIB // 2 - 10),
    "open quotes": b"a b=1\n" + b'\\"\n' * (MIB // 3 - 10),
    "more open quotes": b"a b=1\n" + b'a b="\n' * (MIB // 6 - 10),
    "escaped quotes": b"a b=1\n" + b'a b="x\\"\n' * (MIB // 9 - 10),
    "a measurement": b"a" * (MIB - 10) + b" b=1",
    "a field": b"a " + b"b" * (MIB - 10) + b"=1",
    "commas": b"a b=1" + b"," * (MIB - 10),
    "fields": b"a " + b"b=1," * (MIB // 4 - 10) + b"c=1",
    "open texts": b"a " + b'b="\\",' * (MIB // 7 - 10) + b"c=1",
    "bad fields": b"a " + b"b=x," * (MIB // 4 - 10) + b"c=1",
    "tags": b"a" + b",t=1" * (MIB // 4 - 10) + b" c=1",
    "spaces": b"a" + b" " * (MIB - 10) + b"b=1",
    "backslashes": b"a" + b"\\" * (MIB - 10) + b" b=1",
    "digits": b"a b=1\na b=" + b"9" * (MIB - 20),
    "digits of an integer": b"a b=1\na b=" + b"9" * (MIB - 20) + b"i",
    "digits of a time": b"a b=1 " + b"9" * (MIB - 20),
    "comments": b"a b=1\n" + b'#"\n' * (MIB // 3 - 10),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_cost_little(name: str) -> None:
    """Fault 46: no text takes time out of proportion to its bytes."""
    payload = zstandard.compress(BOMBS[name])
    started_s = time.process_time()
    decoded = decode_telemetry(payload)
    assert time.process_time() - started_s < 2  # on a busy machine; 0.25 s at most on a quiet one
    assert len(decoded.samples) <= MESSAGE_MAX_SAMPLES


def test_what_is_remembered_is_bounded() -> None:
    for message in range(60):
        lines = [f"m{message},t=x{line} " + ",".join(f"f{line}{field}=1" for field in range(10)) for line in range(100)]
        assert decode_telemetry("\n".join(lines).encode()).refused == []
        assert influx._SERIES.chars <= influx._CACHE_MAX_CHARS
    remembered = sum(1 + len(series.metrics) for series in influx._SERIES.values())
    assert 0 < remembered < influx._CACHE_MAX_CHARS // 300
