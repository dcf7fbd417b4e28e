"""The device's side of the delivery contract (delivery rules 1 to 9): what to send, what to send again, what to forget.

Pure: no I/O and no clock of its own. The caller passes the monotonic time `now_s`, publishes what `due()` returns
and hands every payload of the ack topic to `on_ack()`. A message is forgotten only on its application ack.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import count
from typing import Any

from outrider.contract import limits
from outrider.contract.topics import STREAMS
from outrider.device import ranges
from outrider.device.acks import Ack, parse_ack
from outrider.device.messages import (
    Counts,
    Document,
    Encode,
    Gone,
    Key,
    Message,
    Outgoing,
    back_off,
    digest_of,
    encode_json,
    with_keys,
)

AT_ONCE = float("-inf")
STALE_LEDGER_S = 60.0
"""How long acks of a replaced ledger are ignored; one that still speaks after that is the ledger again (acks may cross)."""
STALE_LEDGERS = 16
GONE_MAX_BOOTS = 1_024
"""Losses announced at a time; a platform that asks for more boots than that gets its answer when it asks again."""


class Outbox:
    """The un-acked (and, for `keep_acked_s`, the acked) messages of one device, all streams together.

    `capacity` bounds both kinds: when it is reached, the longest acked message goes first (the platform has it), then
    the oldest that is not in flight, which is counted and announced by `gone`. It must exceed `window`.
    """

    def __init__(
        self,
        *,
        boot: int,
        now_s: float,
        capacity: int = 10_000,
        keep_acked_s: float = 24 * 3600.0,
        window: int = limits.DEVICE_WINDOW_MESSAGES,
    ) -> None:
        if not 0 < window < capacity:
            raise ValueError(f"capacity {capacity} must exceed the window of {window} messages")
        self.counts = Counts()
        self.ledgers: dict[str, str] = {}
        """The ledger that acked last, per stream; keep it beside the stored messages."""
        self._replaced_s: dict[str, float] = {}
        self._capacity = capacity
        self._keep_acked_s = keep_acked_s
        self._window = window
        self._order = count()
        self._held: dict[tuple[str, int], dict[int, Message]] = {}
        self._held_count = 0
        self._live: deque[Message] = deque()
        self._backlog: deque[Message] = deque()
        self._in_flight: dict[Key, Message] = {}
        self._kept: dict[Key, Message] = {}
        self._gone: dict[tuple[str, int, str], Gone] = {}
        self._start_boot(boot, now_s)

    def _start_boot(self, boot: int, now_s: float) -> None:
        if not 1 <= boot <= limits.NUMBER_MAX:
            raise ValueError(f"boot {boot} is not in 1 … 2^53-1")
        self.boot = boot
        self._boot_s = now_s
        self._last_seq = dict.fromkeys(STREAMS, 0)

    @property
    def unacked(self) -> int:
        """Numbered messages that have no application ack yet, in flight or waiting."""
        return self._held_count - len(self._kept)

    def waiting(self) -> list[Message]:
        """The messages that `unacked` counts, oldest first."""
        found = [message for held in self._held.values() for message in held.values() if message.key not in self._kept]
        return sorted(found, key=lambda message: message.order)

    @property
    def in_flight(self) -> int:
        """Messages sent and not acked, `gone` messages included: never more than the window."""
        return len(self._in_flight) + sum(1 for gone in self._gone.values() if gone.announced)

    @property
    def gone_pending(self) -> int:
        """Sequence numbers whose loss the platform has not noted yet."""
        return sum(ranges.size(gone.pending) for gone in self._gone.values())

    @property
    def settled(self) -> bool:
        """True when everything added is acked and every loss is noted: nothing is left to send."""
        return not self.unacked and not self._gone

    def uptime_ms(self, now_s: float) -> int:
        """Uptime of the current boot in milliseconds: the `up_ms` of a sample taken now."""
        return max(0, int((now_s - self._boot_s) * 1000))

    def add(self, stream: str, document: Document, *, clockless: bool = False, encode: Encode = encode_json) -> Message:
        """Number a message and keep it until its ack. `document` must not change afterwards.

        A clockless document carries `up_ms` for each sample; `now_ms` is put in at each sending while its boot lasts.
        Raises ValueError for an unknown stream.
        """
        if stream not in self._last_seq:
            raise ValueError(f"no such stream: {stream!r}")
        self._make_room()
        seq = self._last_seq[stream] = self._last_seq[stream] + 1
        numbered = with_keys(document, {"boot": self.boot, "seq": seq})
        message = Message(stream, self.boot, seq, next(self._order), encode(numbered))
        if clockless:
            message.clockless, message.encode = numbered, encode
        self._held.setdefault((stream, self.boot), {})[seq] = message
        self._held_count += 1
        self._live.append(message)
        self.counts.added += 1
        return message

    def reconnected(self) -> None:
        """A new connection stands: everything in flight is due at once, what waited meanwhile is backlog."""
        for message in self._in_flight.values():
            message.due_s, message.resend_s = AT_ONCE, 0.0
        for gone in self._gone.values():
            gone.due_s, gone.resend_s = AT_ONCE, 0.0
        self._backlog.extend(self._live)
        self._live.clear()

    def rebooted(self, boot: int, now_s: float) -> None:
        """The device started again as `boot` at `now_s`; held messages keep the boot they were made in.

        Raises ValueError for a boot outside 1 … 2^53-1.
        """
        self._start_boot(boot, now_s)
        self.reconnected()

    def next_due_s(self) -> float | None:
        """When `due()` will next return something: -inf for at once, None if nothing is held un-acked."""
        room = self.in_flight < self._window
        if room and (self._live or self._backlog):
            return AT_ONCE
        times = [message.due_s for message in self._in_flight.values()]
        times += [gone.due_s for gone in self._gone.values() if gone.announced or room]
        return min(times, default=None)

    def due(self, now_s: float) -> list[Outgoing]:
        """What to publish now, in order; it counts as sent. Call it only while connected.

        Resends first (their places in the window are taken already), then `gone`, live data, backlog, up to the window.
        """
        again = [message for message in self._in_flight.values() if message.due_s <= now_s]
        out = [self._send(message, now_s) for message in sorted(again, key=lambda m: m.order)]
        for gone in self._gone.values():
            if gone.due_s <= now_s and (gone.announced or self.in_flight < self._window):
                out.append(self._send_gone(gone, now_s))
        room = self._window - self.in_flight
        while room > 0 and (queue := self._live or self._backlog):
            message = queue.popleft()
            self._in_flight[message.key] = message
            out.append(self._send(message, now_s))
            room -= 1
        return out

    def on_ack(self, payload: bytes | Mapping[str, Any], now_s: float) -> list[Message]:
        """Apply a payload of the ack topic; returns the messages it acknowledged.

        Never raises: what is not an ack is counted in `acks_malformed` and changes nothing, and an ack cannot
        acknowledge what was never sent.
        """
        ack = parse_ack(payload)
        if ack is None:
            self.counts.acks_malformed += 1
            return []
        if ack.ledger is not None and not self._accept_ledger(ack.stream, ack.ledger, now_s):
            self.counts.acks_stale += 1
            return []
        acked = self._acked_by(ack)
        for message in acked:
            self._settle(message, now_s)
        self._note_gone(ack)
        for first, last in ack.need[: limits.NEED_MAX_RANGES]:
            self._answer_need(ack.stream, ack.boot, first, last)
        self._expire_kept(now_s)
        return acked

    def _send(self, message: Message, now_s: float) -> Outgoing:
        payload = message.payload
        if message.clockless is not None and message.encode is not None and message.boot == self.boot:
            payload = message.encode(with_keys(message.clockless, {"now_ms": self.uptime_ms(now_s)}))
            message.digests.add(digest_of(payload))
        if message.attempts == 0:
            message.first_sent_s = now_s
            self.counts.sent += 1
        else:
            self.counts.resent += 1
        back_off(message, now_s)
        return Outgoing(message.stream, message.boot, message.seq, payload, message.attempts)

    def _send_gone(self, gone: Gone, now_s: float) -> Outgoing:
        gone.announced = gone.pending[: limits.GONE_MAX_RANGES]
        payload = encode_json({"boot": gone.boot, "gone": gone.announced, "reason": gone.reason})
        gone.digest = digest_of(payload)
        back_off(gone, now_s)
        return Outgoing(gone.stream, gone.boot, None, payload, gone.attempts)

    def _acked_by(self, ack: Ack) -> list[Message]:
        acked: dict[Key, Message] = {}
        refused = dict.fromkeys(seq for seq, _ in ack.rejected)
        settled = ranges.merged([*ack.seq, *((seq, seq) for seq in refused)])
        for key, message in self._in_flight.items():
            if key[0] == ack.stream and key[1] == ack.boot and ranges.contains(settled, key[2]):
                acked[key] = message
        for seq, reason in ack.rejected:
            if (rejected := acked.get((ack.stream, ack.boot, seq))) is not None:
                rejected.reasons.append(reason)
        self.counts.acks_stray += bool(settled) and not acked
        for digest, reason in ack.digest:
            for key, message in self._in_flight.items():
                if key[0] == ack.stream and (digest in message.digests or digest == digest_of(message.payload)):
                    message.reasons.append(reason)
                    acked[key] = message
        return list(acked.values())

    def _settle(self, message: Message, now_s: float) -> None:
        del self._in_flight[message.key]
        self.counts.acked += 1
        self.counts.rejected += bool(message.reasons)
        self.counts.reasons.update(message.reasons)
        message.acked_s = now_s
        message.digests.clear()
        if self._keep_acked_s > 0:
            self._kept[message.key] = message
        else:
            self._forget(message)

    def _forget(self, message: Message) -> None:
        held = self._held[message.stream, message.boot]
        del held[message.seq]
        self._held_count -= 1
        if not held:
            del self._held[message.stream, message.boot]

    def _expire_kept(self, now_s: float) -> None:
        while self._kept:
            oldest = next(iter(self._kept.values()))
            if oldest.acked_s is not None and oldest.acked_s + self._keep_acked_s > now_s:
                return
            self._forget(self._kept.pop(oldest.key))

    def _make_room(self) -> None:
        if self._held_count < self._capacity:
            return
        if self._kept:
            self._forget(self._kept.pop(next(iter(self._kept))))
            return
        # Never one in flight: it may be stored already, and `gone` would name a loss that did not happen.
        message = (self._backlog or self._live).popleft()
        self._forget(message)
        self.counts.discarded += 1
        self._say_gone(message.stream, message.boot, "capacity", [(message.seq, message.seq)])

    def _say_gone(self, stream: str, boot: int, reason: str, lost: list[tuple[int, int]]) -> None:
        gone = self._gone.setdefault((stream, boot, reason), Gone(stream, boot, reason, due_s=AT_ONCE))
        gone.pending = ranges.merged([*gone.pending, *lost])

    def _note_gone(self, ack: Ack) -> None:
        for key, gone in list(self._gone.items()):
            if gone.stream != ack.stream:
                continue
            noted = list(ack.gone) if gone.boot == ack.boot else []
            if any(digest == gone.digest for digest, _ in ack.digest):
                noted += gone.announced
            # Only what was announced can be noted: ranges lost since have to be said first.
            announced = ranges.without(gone.announced, noted)
            newly = ranges.without(gone.announced, announced)
            gone.pending, gone.announced = ranges.without(gone.pending, newly), announced
            self.counts.gone_acked += ranges.size(newly)
            if not gone.pending:
                del self._gone[key]
            elif newly and not announced:
                gone.due_s, gone.resend_s = AT_ONCE, 0.0

    def _accept_ledger(self, stream: str, ledger: str, now_s: float) -> bool:
        """False for a late ack of a replaced ledger. A new one: its streams' kept messages are offered again (rule 9)."""
        known = self.ledgers.get(stream)
        if ledger == known:
            return True
        if self._replaced_s.get(ledger, AT_ONCE) + STALE_LEDGER_S > now_s:
            return False
        self.ledgers[stream] = ledger
        if known is None:
            return True
        self._replaced_s = {known: now_s, **{old: at_s for old, at_s in self._replaced_s.items() if old != ledger}}
        while len(self._replaced_s) > STALE_LEDGERS:
            self._replaced_s.popitem()
        for other, name in self.ledgers.items():
            if name == known:
                self.ledgers[other] = ledger
        restored = {name for name, current in self.ledgers.items() if current == ledger}
        again = [message for message in self._kept.values() if message.stream in restored]
        self.counts.offered_again += len(again)
        self._offer_again(again)
        return True

    def _answer_need(self, stream: str, boot: int, first: int, last: int) -> None:
        """Offer again what is kept in the range, say `gone` for what is not held, ignore what is held un-acked."""
        if boot == self.boot:
            last = min(last, self._last_seq.get(stream, 0))
        held = self._held.get((stream, boot), {})
        known = [(seq, seq) for seq in held]
        for gone in self._gone.values():
            if (gone.stream, gone.boot) == (stream, boot):
                known += gone.pending
        again = [
            message
            for seq, message in held.items()
            if first <= seq <= last and message.acked_s is not None and message.key in self._kept
        ]
        self.counts.needed += len(again)
        self._offer_again(again)
        lost = ranges.without([(first, last)], known) if first <= last else []
        if lost and len(self._gone) < GONE_MAX_BOOTS:
            self._say_gone(stream, boot, "not_kept", lost)

    def _offer_again(self, messages: list[Message]) -> None:
        for message in sorted(messages, key=lambda m: m.order):
            del self._kept[message.key]
            message.acked_s, message.resend_s = None, 0.0
            message.reasons = []
            self._backlog.append(message)
