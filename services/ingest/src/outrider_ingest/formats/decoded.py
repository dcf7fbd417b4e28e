"""What every format decodes to, and the reading of the keys all formats share (numbering and time)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from outrider.contract.batch import Range, Value
from outrider.contract.limits import NUMBER_MAX
from outrider.contract.reasons import Reason, Refused
from outrider_ingest.envelope import Envelope
from outrider_ingest.formats.timestamps import epoch_ms

RawSample: TypeAlias = tuple[str, int | None, int | None, Value]
"""(metric, epoch ms or None, uptime ms or None, value); the metric is normalised and valid, the value can be stored."""
RawRecord: TypeAlias = tuple[int | None, int | None, str, str, dict[str, Any]]
"""(epoch ms or None, uptime ms or None, level of a log line or type of an event, text, every other field as sent)."""

DETAIL_MAX_CHARS = 200
REFUSED_MAX_DETAILS = 20


@dataclass(slots=True)
class Decoded:
    """One device message: its numbering, what can be stored of it, and what was refused of it and why.

    `boot` alone is an unnumbered message that names its boot (so that its uptimes can be placed); `seq` never comes
    without `boot`. Times are as the device said them: `outrider_ingest.times` turns them into real ones.
    """

    boot: int | None = None
    seq: int | None = None
    now_ms: int | None = None
    samples: list[RawSample] = field(default_factory=list)
    records: list[RawRecord] = field(default_factory=list)
    refused: list[tuple[Reason, str]] = field(default_factory=list)
    gone: list[Range] = field(default_factory=list)
    gone_reason: str | None = None
    envelope: Envelope | None = None
    """What stands beside the payload."""
    refused_more: int = 0
    """Refusals counted but not listed: a message lists 20, and of further ones each reason once."""

    @property
    def numbered(self) -> bool:
        """It has a number, in the payload or beside it: it may come again, so its times must not hang on when it comes."""
        return self.seq is not None or (self.envelope is not None and self.envelope.number is not None)

    def refuse(self, reason: Reason, detail: str) -> None:
        """Note a refused part; the rest of the message stays. The detail is clipped to 200 characters."""
        if len(self.refused) < REFUSED_MAX_DETAILS or all(reason is not known for known, _ in self.refused):
            self.refused.append((reason, clip(detail)))
        else:
            self.refused_more += 1

    def refuse_all(self, reason: Reason, detail: str) -> None:
        """Refuse the whole content; only the numbering stays, so that the message can be acknowledged."""
        self.samples, self.records, self.refused, self.refused_more = [], [], [(reason, clip(detail))], 0

    def finish(self) -> None:
        """Say in the last detail how many refusals are not listed."""
        if self.refused_more:
            reason, detail = self.refused[-1]
            more = f" (and {self.refused_more} more refusals in this message)"
            self.refused[-1] = (reason, detail[: DETAIL_MAX_CHARS - len(more)] + more)


def clip(detail: str) -> str:
    """At most 200 characters of a detail."""
    return detail if len(detail) <= DETAIL_MAX_CHARS else detail[: DETAIL_MAX_CHARS - 1] + "…"


def shown(thing: object) -> str:
    """A key or value of a device for people: short, and free of NUL and surrogates, which no store of text can hold."""
    if isinstance(thing, str):
        return repr(thing if len(thing) <= 64 else thing[:63] + "…")
    if isinstance(thing, int) and not isinstance(thing, bool) and abs(thing) > 10**40:
        return "an integer of more than 40 digits"
    if isinstance(thing, (dict, list)):
        return "an object" if isinstance(thing, dict) else "an array"
    return "null" if thing is None else repr(thing)


def read_header(fields: dict[str, Any]) -> Decoded:
    """A Decoded with the numbering that `fields` carries: `boot`, `seq`, `now_ms`; null counts as absent.

    `boot` is an integer 1 … 2^53−1, `seq` likewise. Raises Refused(bad_value) for anything else and for `seq` without
    `boot`: such a message cannot be acknowledged by number. A bad `now_ms` is only noted, as it takes no number away.
    """
    boot, seq, now_ms = fields.get("boot"), fields.get("seq"), fields.get("now_ms")
    if boot is not None and (type(boot) is not int or not 1 <= boot <= NUMBER_MAX):
        raise Refused(Reason.BAD_VALUE, f"boot must be an integer from 1 to 2^53-1, not {shown(boot)}")
    if seq is not None:
        if type(seq) is not int or not 1 <= seq <= NUMBER_MAX:
            raise Refused(Reason.BAD_VALUE, f"seq must be an integer from 1 to 2^53-1, not {shown(seq)}")
        if boot is None:
            raise Refused(Reason.BAD_VALUE, "seq without boot: a sequence is counted per boot")
    decoded = Decoded(boot, seq)
    if now_ms is not None:
        if type(now_ms) is int and 0 <= now_ms <= NUMBER_MAX:
            decoded.now_ms = now_ms
        else:
            decoded.refuse(Reason.CLOCK_INVALID, f"now_ms must be an uptime in ms, not {shown(now_ms)}")
    return decoded


def check_numbering(fields: dict[str, Any], decoded: Decoded) -> None:
    """Raise Refused(bad_value) where a part of a message carries another numbering than the message."""
    for key, expected in (("boot", decoded.boot), ("seq", decoded.seq), ("now_ms", decoded.now_ms)):
        value = fields.get(key)
        if value is not None and (type(value) is not int or value != expected):
            raise Refused(
                Reason.BAD_VALUE,
                f"{key} {shown(value)} differs from the message's: a message has one boot, seq and now_ms",
            )


def read_times(fields: dict[str, Any], decoded: Decoded) -> tuple[int | None, int | None]:
    """(epoch ms or None, uptime ms or None) of a record from its `ts` and `up_ms`; null counts as absent.

    Raises Refused(clock_invalid) for a time that cannot be read, and for an uptime later than the message's `now_ms`.
    """
    ts, up_ms = fields.get("ts"), fields.get("up_ms")
    if ts is not None:
        try:
            ts = epoch_ms(ts)
        except ValueError as error:
            raise Refused(Reason.CLOCK_INVALID, f"ts {shown(ts)}: {error}") from None
    if up_ms is not None:
        if type(up_ms) is not int or not 0 <= up_ms <= NUMBER_MAX:
            raise Refused(Reason.CLOCK_INVALID, f"up_ms must be an uptime in ms, not {shown(up_ms)}")
        if decoded.now_ms is not None and up_ms > decoded.now_ms:
            raise Refused(Reason.CLOCK_INVALID, f"up_ms {up_ms} is later than now_ms {decoded.now_ms}")
    return ts, up_ms
