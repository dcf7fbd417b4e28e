"""SenML JSON packs (RFC 8428): base fields, relative time, `v vs vb vd` and sums.

Decisions where the RFC leaves the receiver free:
- The metric is base name + name, `:` becoming `_` like `.`, `-`, `/`; a leading digit (LwM2M's `3303/0/5700`) gets a
  `_` before it. A `urn:dev:…` prefix stays: two sensors behind one device must not become one metric.
- A sum `s` is the metric with suffix `_sum`; data `vd` is kept as its base64 text; `ut` is ignored.
- Numbering stands in the first record; a record may carry `up_ms`. Time relative to now (below 2^28 s, RFC 4.5.3)
  counts from receive time in a message without `boot`, and is no time in any other: a resend would move it.
- Units (`u`, `bu`) are checked to be text and not carried: names carry units until the registry keeps a catalogue.
"""

from __future__ import annotations

from typing import Any

from outrider.contract.limits import MESSAGE_MAX_SAMPLES, METRIC_MAX_CHARS, NUMBER_MAX
from outrider.contract.reasons import Reason, Refused
from outrider_ingest.formats.decoded import Decoded, check_numbering, read_header, read_times, shown
from outrider_ingest.formats.names import METRICS, name_problem
from outrider_ingest.formats.values import check_value, number_problem

VERSION_MAX = 10
"""RFC 8428 is version 10; a pack of a later one must not be guessed at (4.4)."""
RELATIVE_BELOW_S = 2**28
_NAME_MAX_CHARS = 4 * METRIC_MAX_CHARS
_PLAIN = frozenset({"n", "u", "v", "t"})
_NUMBER_TYPES = frozenset({int, float})
_VALUES = ("v", "vs", "vb", "vd")
_VALUE_TYPES = {"v": (int, float), "vs": (str,), "vb": (bool,), "vd": (str,)}


def decode(body: bytes, document: object) -> Decoded | None:
    """The samples of an array whose first object has SenML's base fields, or a text `n` beside a value; else None."""
    if type(document) is not list or not document or type(document[0]) is not dict or not _is_senml(document[0]):
        return None
    return decode_pack(document)


def decode_pack(document: list[Any]) -> Decoded:
    """The samples of a pack whose first record is an object."""
    decoded = read_header(document[0])
    if len(document) > MESSAGE_MAX_SAMPLES + 1:
        decoded.refuse_all(Reason.TOO_MANY_SAMPLES, f"{len(document)} records in one message")
        return decoded
    base = _Base()
    for record in document:
        if type(record) is dict and _PLAIN.issuperset(record) and _read_plain(record, base, decoded):
            continue
        try:
            if type(record) is not dict:
                raise Refused(Reason.UNKNOWN_FORMAT, f"{shown(record)} stands where a SenML record is expected")
            check_numbering(record, decoded)
            base.update(record)
            _read_record(record, base, decoded)
        except _WrongVersion as error:
            decoded.refuse_all(error.reason, error.detail)
            return decoded
        except Refused as error:
            decoded.refuse(error.reason, error.detail)
    return decoded


def _is_senml(first: dict[str, Any]) -> bool:
    if type(first.get("bn")) is str or "bver" in first:
        return True
    names_values = any(key in first for key in ("v", "vs", "vb", "vd", "s"))
    return (type(first.get("n")) is str and names_values) or ("bt" in first and ("n" in first or "bu" in first))


class _WrongVersion(Refused):
    """The pack says it is of a version this decoder does not know."""


class _Base:
    """Base fields in force; each holds from the record that has it on (RFC 8428 section 4.1)."""

    def __init__(self) -> None:
        self.name = ""
        self.metrics: dict[str, str] = {}
        """Metrics by `n`, as long as the base name holds."""
        self.time: int | float = 0
        self.value: int | float = 0
        self.sum: int | float = 0

    def update(self, record: dict[str, Any]) -> None:
        version = record.get("bver", VERSION_MAX)
        if type(version) is not int or version > VERSION_MAX:
            raise _WrongVersion(Reason.UNKNOWN_FORMAT, f"SenML version {shown(version)}, known is up to {VERSION_MAX}")
        name = record.get("bn", self.name)
        if type(name) is not str:
            raise Refused(Reason.BAD_NAME, f"bn must be text, not {shown(name)}")
        if name != self.name:
            self.name, self.metrics = name, {}
        self.time = _number(record, "bt", self.time, Reason.CLOCK_INVALID)
        self.value = _number(record, "bv", self.value, Reason.BAD_VALUE)
        self.sum = _number(record, "bs", self.sum, Reason.BAD_VALUE)


def _number(record: dict[str, Any], key: str, default: int | float, reason: Reason) -> int | float:
    value = record.get(key)
    if value is None:
        return default
    if type(value) not in (int, float):
        raise Refused(reason, f"{key} must be a number, not {shown(value)}")
    if problem := number_problem(value):
        raise Refused(reason, f"{key} {problem}")
    return value  # type: ignore[no-any-return]


def _read_plain(record: dict[str, Any], base: _Base, decoded: Decoded) -> bool:
    """The short way of a record with a name, a number and a real time and nothing to object to; False for any other."""
    name, time_s = record.get("n"), record.get("t", 0)
    value: Any = record.get("v")
    if type(value) not in _NUMBER_TYPES or type(time_s) not in _NUMBER_TYPES or type(record.get("u", "")) is not str:
        return False
    metric = base.metrics.get(name) if type(name) is str else None
    if metric is None:
        return False
    value += base.value
    time_ms = (base.time + time_s) * 1000
    if not (-NUMBER_MAX <= value <= NUMBER_MAX and RELATIVE_BELOW_S * 1000 <= time_ms <= NUMBER_MAX):
        return False
    decoded.samples.append((metric, round(time_ms), None, value))
    return True


def _read_record(record: dict[str, Any], base: _Base, decoded: Decoded) -> None:
    for key in record:
        if key.endswith("_"):
            # Section 4.4: a label ending in "_" must be understood or the record refused.
            raise Refused(Reason.UNKNOWN_FORMAT, f"SenML label {shown(key)} is not known")
    present = [key for key in _VALUES if record.get(key) is not None]
    if not present and record.get("s") is None:
        if record.get("n") is not None and not any(key in record for key in _VALUES):
            raise Refused(Reason.BAD_VALUE, f"metric {shown(record['n'])}: a SenML record needs v, vs, vb, vd or s")
        return
    key, metric = _metric(record, base)
    try:
        for unit in ("u", "bu"):
            if type(record.get(unit, "")) is not str:
                raise Refused(Reason.BAD_VALUE, f"{unit} must be text")
        ts, up_ms = _times(record, base, decoded)
        if len(present) > 1:
            raise Refused(Reason.BAD_VALUE, "a SenML record has one of v, vs, vb, vd")
        if present:
            decoded.samples.append((metric, ts, up_ms, _value(record, present[0], base)))
        if record.get("s") is not None:
            total = _number(record, "s", 0, Reason.BAD_VALUE) + base.sum
            check_value(total)
            if not METRICS[metric + "_sum"]:
                raise Refused(Reason.BAD_NAME, name_problem(metric + "_sum"))
            decoded.samples.append((metric + "_sum", ts, up_ms, total))
    except Refused as error:
        raise Refused(error.reason, f"metric {shown(key)}: {error.detail}") from None


def _metric(record: dict[str, Any], base: _Base) -> tuple[str, str]:
    name = record.get("n", "")
    if type(name) is not str:
        raise Refused(Reason.BAD_NAME, f"n must be text, not {shown(name)}")
    key = base.name + name
    if len(key) > _NAME_MAX_CHARS:
        raise Refused(Reason.BAD_NAME, f"metric {shown(key)}: {name_problem(key)}")
    plain = key.replace(":", "_")
    if plain[:1].isdecimal():
        plain = "_" + plain
    metric = METRICS[plain]
    if not metric:
        raise Refused(Reason.BAD_NAME, f"metric {shown(key)}: {name_problem(plain)}")
    base.metrics[name] = metric
    return key, metric


def _value(record: dict[str, Any], key: str, base: _Base) -> Any:
    value = record[key]
    if type(value) not in _VALUE_TYPES[key]:
        raise Refused(Reason.BAD_VALUE, f"{shown(value)} does not belong in {key}")
    if key == "v":
        value = _number(record, "v", 0, Reason.BAD_VALUE) + base.value
    check_value(value)
    return value


def _times(record: dict[str, Any], base: _Base, decoded: Decoded) -> tuple[int | None, int | None]:
    """(epoch ms, uptime ms) of a record; for time relative to now an uptime whose "now" is the message's."""
    _, up_ms = read_times({"up_ms": record.get("up_ms")}, decoded)
    if base.time == 0 and record.get("t") is None:
        return None, up_ms
    time_s = base.time + _number(record, "t", 0, Reason.CLOCK_INVALID)
    if time_s >= RELATIVE_BELOW_S:
        if time_s * 1000 > NUMBER_MAX:
            raise Refused(Reason.CLOCK_INVALID, "the time is too large for seconds since 1970")
        return round(time_s * 1000), up_ms
    if time_s * 1000 < -NUMBER_MAX:
        raise Refused(Reason.CLOCK_INVALID, "the time is too long ago")
    if up_ms is not None:
        return None, up_ms
    if decoded.boot is not None:
        raise Refused(Reason.NO_TIME, "a numbered message needs real time or up_ms, not a time relative to now")
    # Without a boot nothing else reads now_ms: at an uptime of 0 "now", the sample's uptime is its relative time.
    if decoded.now_ms is None:
        decoded.now_ms = 0
    return None, decoded.now_ms + round(time_s * 1000)
