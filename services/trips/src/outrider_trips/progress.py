"""How far each slot has come: the clock of its vehicles' trips does not run ahead of what still waits in the broker."""

from __future__ import annotations

import asyncio
import logging
import time

from outrider.runtime.consumer import Consumer
from outrider.runtime.errors import Transient
from outrider_trips.store import Positions

log = logging.getLogger(__name__)

LOOK_S = 1.0


class Progress:
    """Notes what was handled; a slot found idle in two looks, with nothing in between, has all that ingest received before
    the first. (One that catches up has nothing in hand either, for a moment after each window the broker sends.)"""

    consumer: Consumer

    def __init__(self, positions: Positions) -> None:
        self._positions = positions
        self._handled: dict[int, int] = {}

    def handled(self, slot: int, received_ms: int) -> None:
        """Everything of this slot that ingest received until then is stored."""
        if received_ms:
            self._handled[slot] = max(received_ms, self._handled.get(slot, 0))

    async def run(self) -> None:
        """Write it down once a second until cancelled."""
        was_idle: set[int] = set()
        looked_ms = 0
        while True:
            idle = set(self.consumer.idle())
            reached, self._handled = self._handled, {}
            reached |= dict.fromkeys(idle & was_idle - reached.keys(), looked_ms)
            try:
                await self._positions.progressed(reached)
            except Transient as error:  # the next look writes it
                log.debug("progress_not_written", extra={"reason": str(error)})
            was_idle, looked_ms = idle, time.time_ns() // 1_000_000
            await asyncio.sleep(LOOK_S)
