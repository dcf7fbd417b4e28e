r"""InfluxDB line protocol: `cpu,cpu=cpu0,host=web usage_user=1.5,usage_idle=97i 1760000000000000000`, many lines a message.

As InfluxDB and Telegraf write it: `\` escapes commas, spaces and equals signs, texts stand in double quotes (and may hold line
ends), integers end in `i` or `u`, `#` begins a comment, lines end in LF or CRLF. Decisions:
- The metric is measurement, values of the tags in the order of their keys, and field, joined by `_`: all of a tag set make
  the series, as they do in InfluxDB, whatever else is in the message. `cpu_cpu0_usage_user`, `disk_sda1_ext4_rw_root_free`.
- Only the tag `host` is left out: the topic says whose the sample is. Lines of another host than the message's first are
  refused, so that a collector of several hosts does not mix them in one device.
- In a tag's value whatever is no letter or digit becomes one `_`, none at the ends; `/` is `root`. A value with other than
  ASCII characters, or nothing left of it, gets 8 hex digits of its SHA-256, and so does a set of tags too long for a name.
- Time is the contract's: ns, µs, ms or s by magnitude; without one, receive time.
- A line that cannot be read is refused, the others stay; so is a field whose value cannot be, and its line's others stay.
"""

from __future__ import annotations

import hashlib
import re
from typing import TypeAlias

from outrider.contract.limits import MESSAGE_MAX_SAMPLES, METRIC_MAX_CHARS, NUMBER_MAX, STRING_VALUE_MAX_BYTES
from outrider.contract.reasons import Reason, Refused
from outrider_ingest.formats.decoded import Decoded, shown
from outrider_ingest.formats.names import METRICS, name_problem
from outrider_ingest.formats.timestamps import epoch_ms
from outrider_ingest.formats.values import number_problem, text_problem

MESSAGE_MAX_LINES = MESSAGE_MAX_SAMPLES
_HOST_TAG = "host"

_KEY = r"(?:[^,= \n\\]|\\.|\\$)++"
_FLOAT = r"[+-]?+(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][+-]?+[0-9]++)?+"
_INTEGER = r"(?:[+-]?+[0-9]{1,20}+i|[0-9]{1,20}+u)"
_BOOLEAN = r"t|T|true|True|TRUE|f|F|false|False|FALSE"
_TEXT = r'"(?:[^"\\]|\\.)*+"'

# Possessive throughout: no text is read twice, however it is made.
_LOOKS_LIKE = re.compile(rf"^(?![#{{\[\"'<,]){_KEY}(?:,{_KEY}={_KEY})*+ ++{_KEY}=", re.MULTILINE)
"""Measurement, tags and the key of the first field."""
_LINE = re.compile(
    r'(?:[^ \n\\]++|\\[^\n])*+(?:[^=\n\\]++|\\[^\n]|="(?:[^"\\]|\\.)*+"|[=\\])*+',
    re.DOTALL,
)
"""A line, with the line ends inside the texts of its fields: a quote begins a text only behind a field's `=`."""
_BLANK = re.compile(r"[ \t\r\n]*+")
_HEAD = re.compile(rf"(((?:[^, \n\\]|\\.|\\$)++)((?:,{_KEY}={_KEY})*+)) ++")
_TAG = re.compile(rf",({_KEY})=({_KEY})")
_FIELD = re.compile(
    rf"({_KEY})=(?:({_INTEGER})(?=[, ]|$)|({_FLOAT})(?=[, ]|$)|({_BOOLEAN})(?=[, ]|$)|({_TEXT})(?=[, ]|$)|([^, ]*+))",
    re.DOTALL,
)
_TIME = re.compile(r" ++(-?+[0-9]++)?+ *+$")
_NUMBERS = re.compile(rf"(?:(?:{_INTEGER}|{_FLOAT}),)*+(?:{_INTEGER}|{_FLOAT})")
_KEY_ESCAPE = re.compile(r"\\([,= ])")
_TEXT_ESCAPE = re.compile(r'\\(["\\])')
_NOT_ALPHANUMERIC = re.compile(r"[^A-Za-z0-9]+")
_OTHER_ASCII = re.compile(r"[^A-Za-z0-9_\x80-\U0010ffff]")

_HOST_TAG = "host"
_TRUE = frozenset({"t", "T", "true", "True", "TRUE"})
_CACHED_MAX_CHARS = 1_000
_TIME_MAX_DIGITS = 20
_CACHE_MAX_CHARS = 4_000_000
"""What the remembered beginnings of lines and keys of fields may take, about."""


def decode(body: bytes, document: object) -> Decoded | None:
    """The samples of a text with a line in line protocol; None for anything else."""
    if document is not None or body[:1] in (b"{", b"["):
        return None
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    if not _LOOKS_LIKE.search(text):
        return None
    decoded = Decoded()
    lines = _lines(text)
    if len(lines) > MESSAGE_MAX_LINES:
        decoded.refuse_all(Reason.TOO_MANY_SAMPLES, f"more than {MESSAGE_MAX_LINES} lines in one message")
        return decoded
    reader = _Reader(decoded)
    for number, line in lines:
        try:
            reader.read(line)
        except Refused as error:
            if error.reason is Reason.TOO_MANY_SAMPLES:
                decoded.refuse_all(error.reason, error.detail)
                break
            decoded.refuse(error.reason, f"line {number}: {error.detail}")
        if len(decoded.samples) > MESSAGE_MAX_SAMPLES:
            break
    return decoded


def _lines(text: str) -> list[tuple[int, str]]:
    """The lines that are neither blank nor a comment, with their numbers; at most one more than the limit."""
    found: list[tuple[int, str]] = []
    if '="' not in text:
        for number, line in enumerate(text.split("\n"), 1):
            line = line.strip(" \t\r")
            if line and line[0] != "#":
                found.append((number, line))
                if len(found) > MESSAGE_MAX_LINES:
                    break
        return found
    at, number = 0, 1
    while len(found) <= MESSAGE_MAX_LINES:
        start = _end(_BLANK, text, at)
        number += text.count("\n", at, start)
        if start == len(text):
            break
        if text[start] == "#":
            at = text.find("\n", start)
            if at < 0:
                break
            continue
        at = _end(_LINE, text, start)
        found.append((number, text[start:at].rstrip(" \t\r")))
        number += text.count("\n", start, at)
    return found


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


class _Series:
    """What the beginning of a line, measurement and tags, stands for."""

    __slots__ = ("_measurement", "_tags", "host", "metrics")

    def __init__(self, measurement: str, tags: str) -> None:
        named = [(_unescaped(key), _unescaped(value)) for key, value in _TAG.findall(tags)]
        self.host = next((value for key, value in named if key == _HOST_TAG), None)
        self.metrics: dict[str, str] = {}
        """By the key of a field as it was sent, where it makes one. One by one: Telegraf writes them in random order."""
        self._measurement = _unescaped(measurement)
        self._tags = "".join(["_" + _tag_name(value) for key, value in sorted(named) if key != _HOST_TAG])

    def name(self, field: str) -> str:
        """What the series and a field's key, as it was sent, make: a metric if it is one."""
        field = _unescaped(field)
        name = f"{self._measurement}{self._tags}_{field}"
        if len(name) > METRIC_MAX_CHARS and self._tags:
            room = METRIC_MAX_CHARS - len(self._measurement) - len(field) - 10
            cut = self._tags[: max(0, room)].rstrip("_")
            name = f"{self._measurement}{cut}_{_digest(self._tags)}_{field}"
        name = _OTHER_ASCII.sub("_", name)
        return "_" + name if name[0].isdecimal() else name


def _tag_name(value: str) -> str:
    name = _NOT_ALPHANUMERIC.sub("_", value).strip("_")
    if value == "/":
        return "root"
    if not name or not value.isascii():
        return f"{name}_{_digest(value)}".strip("_")
    return name


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _unescaped(key: str) -> str:
    return _KEY_ESCAPE.sub(r"\1", key) if "\\" in key else key


class _KnownSeries(dict[str, _Series]):
    """`_Series` by the beginning of a line: a device sends the same ones again and again, and a bounded number is kept."""

    chars = 0

    def keep(self, head: str, series: _Series) -> None:
        """Remember a series."""
        self.spend(4 * len(head) + 500)
        self[head] = series

    def spend(self, chars: int) -> None:
        """Count what is remembered; forget all when it is too much."""
        self.chars += chars
        if self.chars > _CACHE_MAX_CHARS:
            self.clear()
            self.chars = chars


_SERIES = _KnownSeries()


class _Reader:
    """Reads the lines of one message."""

    def __init__(self, decoded: Decoded) -> None:
        self._decoded = decoded
        self._host: str | None = None
        self._stamp = ""
        self._ts: int | None = None

    def read(self, line: str) -> None:
        """Add the samples of a line. Raises Refused for a line that cannot be read; nothing of it is added then."""
        if '"' not in line and "\\" not in line and self._read_numbers(line):
            return
        match = _HEAD.match(line)
        if match is None:
            raise Refused(
                Reason.UNKNOWN_FORMAT, f"{shown(line)} is not measurement[,tag=value…] field=value[,…] [time]"
            )
        series = _SERIES.get(match[1]) or _Series(match[2], match[3])
        if len(line) <= _CACHED_MAX_CHARS and match[1] not in _SERIES:
            _SERIES.keep(match[1], series)
        fields, at = _fields(line, match.end())
        ts = None
        if at < len(line):
            end = _TIME.match(line, at)
            if end is None:
                raise Refused(Reason.UNKNOWN_FORMAT, f"{shown(line[at:])} stands where the time or the end is expected")
            ts = self._time(end[1]) if end[1] else None
        self._check_host(series)
        for field in fields:
            self._add(series, field, ts)

    def _read_numbers(self, line: str) -> bool:
        """The short way of a line with nothing but numbers, known from others; False where the long way has to look."""
        parts = line.split(" ")
        if not 2 <= len(parts) <= 3:
            return False
        series = _SERIES.get(parts[0])
        if series is None:
            return False
        pairs = [pair.partition("=") for pair in parts[1].split(",")]
        try:
            metrics = [series.metrics[pair[0]] for pair in pairs]
        except KeyError:
            return False
        texts = [pair[2] for pair in pairs]
        if not _NUMBERS.fullmatch(",".join(texts)):
            return False
        values = [int(text[:-1]) if text[-1] in "iu" else float(text) for text in texts]
        if min(values) < -NUMBER_MAX or max(values) > NUMBER_MAX:
            return False
        ts = None
        if len(parts) == 3:
            if not (parts[2].isascii() and parts[2].isdecimal()):
                return False
            ts = self._time(parts[2])
        self._check_host(series)
        self._decoded.samples += [(metric, ts, None, value) for metric, value in zip(metrics, values, strict=True)]
        return True

    def _time(self, stamp: str) -> int:
        if stamp != self._stamp:
            try:
                if len(stamp) > _TIME_MAX_DIGITS:
                    raise ValueError("too large for a time even in nanoseconds")
                self._ts = epoch_ms(int(stamp))
            except ValueError as error:
                raise Refused(Reason.CLOCK_INVALID, f"time {shown(stamp)}: {error}") from None
            self._stamp = stamp
        assert self._ts is not None
        return self._ts

    def _check_host(self, series: _Series) -> None:
        if series.host is None or series.host == self._host:
            return
        if self._host is not None:
            raise Refused(
                Reason.BAD_VALUE,
                f"of host {shown(series.host)} in a message of host {shown(self._host)}: each host is a device of its own",
            )
        self._host = series.host

    def _add(self, series: _Series, field: Field, ts: int | None) -> None:
        """Add a field's sample, or say why not."""
        key, value, problem = field
        metric = series.metrics.get(key)
        if metric is None:
            name = series.name(key)
            metric = METRICS[name]
            if not metric:
                self._decoded.refuse(Reason.BAD_NAME, f"metric {shown(name)}: {name_problem(name)}")
                return
            _SERIES.spend(300)  # a key that makes a metric is short
            series.metrics[key] = metric
        if problem is not None:
            self._decoded.refuse(Reason.BAD_VALUE, f"metric {metric!r}: {problem}")
        else:
            self._decoded.samples.append((metric, ts, None, value))


Field: TypeAlias = tuple[str, float | int | bool | str, str | None]
"""(key as sent, value, why it cannot be stored)"""


def _fields(line: str, at: int) -> tuple[list[Field], int]:
    """The fields from an offset on, and the offset behind them."""
    found: list[Field] = []
    while True:
        match = _FIELD.match(line, at)
        if match is None:
            raise Refused(Reason.UNKNOWN_FORMAT, f"{shown(line[at:])} stands where field=value is expected")
        found.append(_field(match))
        if len(found) > MESSAGE_MAX_SAMPLES:
            raise Refused(Reason.TOO_MANY_SAMPLES, f"more than {MESSAGE_MAX_SAMPLES} fields in one line")
        at = match.end()
        if line[at : at + 1] != ",":
            return found, at
        at += 1


def _field(match: re.Match[str]) -> Field:
    key, integer, number, boolean, text, other = match.groups()
    if integer is not None:
        whole = int(integer[:-1])
        return key, whole, number_problem(whole)
    if number is not None:
        value = float(number)
        return key, value, number_problem(value)
    if boolean is not None:
        return key, boolean in _TRUE, None
    if text is not None:
        text = _TEXT_ESCAPE.sub(r"\1", text[1:-1]) if "\\" in text else text[1:-1]
        return key, text, text_problem(text, STRING_VALUE_MAX_BYTES)
    return key, 0, f"{shown(other)} is no number, no boolean and no text in double quotes"
