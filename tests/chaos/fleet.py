"""All devices of a run behind one bad network, in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from random import Random
from urllib.parse import urlsplit

from tests.chaos.book import Book
from tests.chaos.devices import Device, Load, Unnumbered, plan
from tests.chaos.proxy import Proxy

RECONNECT_EVERY_S = 5.0
"""While a round settles, devices that wait for acks reconnect so often: waiting for the 30 s of a resend is no test."""


class Fleet:
    """`count` devices of all kinds; `network` lies between them and the broker."""

    def __init__(self, book: Book, *, count: int, load: Load, seed: int, mqtt_url: str) -> None:
        address = urlsplit(mqtt_url)
        self.book = book
        self.network = Proxy(address.hostname or "127.0.0.1", address.port or 1883, seed=seed)
        self.random = Random(seed)
        self.devices: list[Device] = [
            kind(f"{kind.kind}-{number}", book, load, Random(f"{seed} {number}"), self._url)
            for number, kind in enumerate(plan(count))
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._clock_jumps = 0

    async def start(self) -> None:
        """Opens the network; the devices connect."""
        await self.network.start()
        self._tasks = [asyncio.create_task(device.run(), name=device.name) for device in self.devices]

    async def stop(self) -> None:
        """Ends every device and the network."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(device.close() for device in self.devices))
        await self.network.stop()

    def produce(self, producing: bool) -> None:
        """Let all devices measure, or stop; a device that died says so here."""
        for task in self._tasks:
            if task.done():
                task.result()
        for device in self.devices:
            device.producing = producing

    async def settle(self, timeout_s: float) -> float:
        """Waits until nothing waits for an application ack; seconds it took, at most `timeout_s`."""
        began_s = time.monotonic()
        next_s = began_s + RECONNECT_EVERY_S
        while (waited_s := time.monotonic() - began_s) < timeout_s and not all(d.settled for d in self.devices):
            if time.monotonic() > next_s:
                next_s += RECONNECT_EVERY_S
                for device in self.devices:
                    if not device.settled:
                        device.reconnect()
            await asyncio.sleep(0.1)
        return waited_s

    def served_since(self, since_s: float) -> bool:
        """True when every numbering device has an ack for a message that it made after `since_s` (monotonic)."""
        return all(d.acked_made_s > since_s for d in self.devices if not isinstance(d, Unnumbered))

    def some(self, share: float, *, kind: type[Device] | None = None) -> Sequence[Device]:
        """A random share of the devices (of exactly this kind), at least one."""
        candidates = [device for device in self.devices if kind in (None, type(device))]
        return self.random.sample(candidates, max(1, round(share * len(candidates))))

    def reboot(self, share: float) -> int:
        """A share of the devices starts again; how many."""
        chosen = self.some(share)
        for device in chosen:
            device.reboot()
        return len(chosen)

    def jump_clocks(self, share: float, by_s: float) -> int:
        """The clocks of a share of the devices with a clock are off by `by_s`; how many."""
        # Another day each time: a clock set back twice would otherwise meet its own samples.
        self._clock_jumps += 1
        offset_ms = int(by_s * 1000) - 86_400_000 * self._clock_jumps
        chosen = self.some(share, kind=Device)
        for device in chosen:
            device.jump_clock(offset_ms)
        return len(chosen)

    def set_clocks(self) -> None:
        """All clocks are right again."""
        for device in self.devices:
            device.jump_clock(0)

    def _url(self) -> str:
        return f"mqtt://127.0.0.1:{self.network.port}"
