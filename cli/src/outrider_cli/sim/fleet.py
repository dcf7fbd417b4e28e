"""Runs a simulated fleet: produce for a while, then wait until everything numbered is acknowledged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from outrider_cli.sim.device import Settings, SimDevice
from outrider_cli.sim.plan import Plan
from outrider_cli.sim.report import Latencies, Report, report

TICK_S = 0.2


class Fleet:
    """All devices of one run, in this process."""

    def __init__(self, plans: Sequence[Plan], settings: Settings) -> None:
        self._settings = settings
        self._latencies = Latencies()
        settings.on_acked = lambda latency_s: self._latencies.add(time.monotonic(), latency_s)
        self.devices = [SimDevice(plan, settings) for plan in plans]
        self._produced_s = 0.0
        self._stop = asyncio.Event()
        self._abandon = asyncio.Event()

    def stop(self) -> None:
        """The first call ends producing (what is un-acked is still waited for), the second one the waiting."""
        if self._stop.is_set():
            self._abandon.set()
        self._stop.set()

    def abandon(self) -> None:
        """End now, without waiting for acks."""
        self._stop.set()
        self._abandon.set()

    async def run(self, duration_s: float, drain_s: float, on_tick: Callable[[Fleet, bool], None]) -> Report:
        """Produce for `duration_s` (0: until `stop()`), wait up to `drain_s` for acks, say goodbye; returns the totals.

        `on_tick(fleet, draining)` is called five times a second.
        """
        tasks = [asyncio.create_task(device.run(), name=device.plan.name) for device in self.devices]
        try:
            begin_s = time.monotonic()
            while not self._stop.is_set() and not (duration_s and time.monotonic() - begin_s >= duration_s):
                self._produced_s = time.monotonic() - begin_s
                await self._tick(tasks, on_tick, draining=False)
            self._produced_s = time.monotonic() - begin_s
            for device in self.devices:
                device.producing = False
            end_s = time.monotonic() + drain_s
            while not self._abandon.is_set() and time.monotonic() < end_s and not self.settled:
                await self._tick(tasks, on_tick, draining=True)
            result = self.report()
            self._note_unacked()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(device.close() for device in self.devices))
        return result

    @property
    def settled(self) -> bool:
        """True when nothing of any device waits for an ack."""
        return all(device.settled for device in self.devices)

    def report(self, recent: bool = False) -> Report:
        """Totals so far; `recent`: latencies of the last ten seconds only."""
        latencies_s = self._latencies.recent(time.monotonic()) if recent else self._latencies.all()
        return report(self.devices, latencies_s, self._produced_s)

    async def _tick(
        self, tasks: Sequence[asyncio.Task[None]], on_tick: Callable[[Fleet, bool], None], *, draining: bool
    ) -> None:
        on_tick(self, draining)
        done, _ = await asyncio.wait(tasks, timeout=TICK_S, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # a device never ends by itself: this raises what ended it

    def _note_unacked(self) -> None:
        if self._settings.recorder is not None:
            for device in self.devices:
                self._settings.recorder.unacked(device.plan, device.outbox.waiting())
