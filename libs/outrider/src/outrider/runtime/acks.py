"""Application acks: coalesced per (device, stream, boot) for at most 100 ms, QoS 0; a lost one costs a resend."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import lru_cache

import orjson

from outrider.contract import limits, topics
from outrider.contract.batch import Range
from outrider.runtime import metrics
from outrider.runtime.accounting import Key, to_ranges
from outrider.runtime.errors import Transient

log = logging.getLogger(__name__)

BUSY_PER_S = 30_000
"""Messages a second at which acks wait longest: one costs broker and writer as much as half a message, so the busier
they are, the more messages it should name. Half as busy they wait half as long."""
SHORTEST_S = 0.025

Needs = Callable[[], Awaitable[tuple[str | None, list[tuple[Key, list[Range]]]]]]
"""Gives the ledger's id and the gaps to ask for, each with its key."""


class Acknowledger:
    """Collects what was committed and tells the devices. Call it only after the commit."""

    def __init__(self, publish: Callable[[Sequence[tuple[str, bytes]]], Awaitable[None]]) -> None:
        """`publish` takes (topic, payload) of many acks at once, with QoS 0."""
        self._publish = publish
        self._ledger: str | None = None
        self._seqs: dict[Key, list[int]] = {}
        self._rejected: dict[Key, dict[int, str]] = {}
        self._need: dict[Key, list[Range]] = {}
        self._gone: dict[Key, list[Range]] = {}
        self._pending = asyncio.Event()

    def stored(self, key: Key, seqs: Iterable[int], ledger: str) -> None:
        """These messages are stored or rejected."""
        self._seqs.setdefault(key, []).extend(seqs)
        self._ledger = ledger
        self._pending.set()

    def rejected(self, key: Key, seq: int, reason: str) -> None:
        """This message, or a part of it, was refused and kept. Call `stored` for it too."""
        self._rejected.setdefault(key, {})[seq] = reason

    def gone(self, key: Key, ranges: Sequence[Range], ledger: str) -> None:
        """The device's word that it discarded these is counted."""
        self._gone.setdefault(key, []).extend(ranges)
        self._ledger = ledger
        self._pending.set()

    def need(self, key: Key, ranges: Sequence[Range], ledger: str) -> None:
        """Ask the device for these."""
        self._need.setdefault(key, []).extend(ranges)
        self._ledger = ledger
        self._pending.set()

    async def run(self) -> None:
        """Publish what was collected, after 25 to 100 ms, the longer the busier it is; the last ones when cancelled."""
        longest_s = limits.ACK_COALESCE_MS / 1000
        delay_s, flushed_s = SHORTEST_S, time.monotonic()
        try:
            while True:
                await self._pending.wait()
                await asyncio.sleep(delay_s)
                messages = sum([len(seqs) for seqs in self._seqs.values()])
                await self.flush()
                elapsed_s, flushed_s = time.monotonic() - flushed_s, time.monotonic()
                delay_s = min(max(SHORTEST_S, messages / elapsed_s / BUSY_PER_S * longest_s), longest_s)
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await asyncio.shield(self.flush())

    async def ask_for_gaps(self, needs: Needs) -> None:
        """Ask the devices, again and again until cancelled, for the gaps that it is time to ask for (delivery rule 9)."""
        while True:
            await asyncio.sleep(limits.NEED_GAP_AGE_S / 4)
            with contextlib.suppress(Transient):  # the next round asks
                ledger, gaps = await needs()
                for key, ranges in gaps if ledger else ():
                    self.need(key, ranges, str(ledger))

    async def flush(self) -> None:
        """Publish everything collected now."""
        self._pending.clear()
        seqs, self._seqs = self._seqs, {}
        rejected, self._rejected = self._rejected, {}
        need, self._need = self._need, {}
        gone, self._gone = self._gone, {}
        messages: list[tuple[str, bytes]] = []
        streams: Counter[str] = Counter()
        for key in seqs.keys() | need.keys() | gone.keys():
            tenant, device, stream, boot = key
            document = {
                "ledger": self._ledger,
                "stream": stream,
                "boot": boot,
                "seq": to_ranges(seqs.get(key, ())),
                "rejected": sorted(rejected[key].items()) if key in rejected else (),
                "need": need.get(key, ()),
            }
            if key in gone:
                document["gone"] = gone[key]
            messages.append((_topic(tenant, device), orjson.dumps(document)))
            streams[stream] += 1
        if not messages:
            return
        try:
            await self._publish(messages)
        except Transient as error:
            log.warning("acks_not_published", extra={"count": len(messages), "reason": str(error)})
            return
        for stream, count in streams.items():
            metrics.ACKS.labels(stream).inc(count)


@lru_cache(maxsize=131_072)
def _topic(tenant: str, device: str) -> str:
    return str(topics.ACK.name(tenant=tenant, device=device))
