"""All devices of a run behind one bad network, in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from urllib.parse import urlsplit

from tests.chaos.book import Book
from tests.chaos.devices import Device, Load
from tests.chaos.kinds import Malformed, Reused, Unnumbered, plan
from tests.chaos.proxy import Proxy
from tests.identities import login

RECONNECT_EVERY_S = 5.0
"""While a round settles, devices that wait for acks reconnect so often: waiting for the 30 s of a resend is no test."""
HOUR_S, DAY_S = 3_600, 86_400
OF_2099_S = 4_070_908_800


def names(count: int) -> list[str]:
    """Of the devices of a fleet of this size, in order."""
    return [f"{kind.kind}-{number}" for number, kind in enumerate(plan(count))]


class Fleet:
    """Devices of all kinds, one for each of the `secrets` (name → secret, of `names()`); `network` lies between them and
    the broker's door for devices."""

    def __init__(self, book: Book, *, secrets: Mapping[str, str], load: Load, seed: int, device_url: str) -> None:
        address = urlsplit(device_url)
        self.book = book
        self.network = Proxy(address.hostname or "127.0.0.1", address.port or 1883, seed=seed)
        self.random = Random(seed)
        self.devices: list[Device] = [
            kind(name, book, load, Random(f"{seed} {number}"), self._url(name, secret))
            for number, (kind, (name, secret)) in enumerate(zip(plan(len(secrets)), secrets.items(), strict=True))
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

    def traffic(self) -> tuple[int, int]:
        """(bytes sent, rows acked) so far by the devices that say nothing wrong and wait for acks."""
        sound = [d for d in self.devices if not isinstance(d, Malformed | Unnumbered)]
        return sum(d.sent_bytes for d in sound), sum(d.acked_rows for d in sound)

    def some(self, share: float) -> Sequence[Device]:
        """A random share of the devices, at least one."""
        return self.random.sample(self.devices, max(1, round(share * len(self.devices))))

    def reboot(self, share: float) -> int:
        """A share of the devices starts again; how many."""
        chosen = self.some(share)
        for device in chosen:
            device.reboot()
        return len(chosen)

    def spoil_clocks(self) -> int:
        """Of all devices with a clock one in four each is in 1970, in 2099, an hour back, or half a year ahead; how many."""
        # Another hour or day each time: a clock set back twice would otherwise meet its own samples.
        count, now_s = self._clock_jumps, time.time()
        offsets_s = (
            count * HOUR_S - now_s,
            OF_2099_S + count * DAY_S - now_s,
            -HOUR_S - count * DAY_S,
            (182 + count) * DAY_S,
        )
        clocked = sorted((d for d in self.devices if d.has_clock), key=lambda device: device.kind)
        for turn, device in enumerate(clocked, count):
            device.jump_clock(round(offsets_s[turn % len(offsets_s)] * 1000))
        self._clock_jumps += 1
        return len(clocked)

    def reuse_boots(self) -> int:
        """The devices that do not renew their boot id start again; how many."""
        chosen = [device for device in self.devices if isinstance(device, Reused)]
        for device in chosen:
            device.reuse_boot()
        return len(chosen)

    def set_clocks(self) -> None:
        """All clocks are right again."""
        for device in self.devices:
            device.jump_clock(0)

    def _url(self, device: str, secret: str) -> Callable[[], str]:
        """Where a device finds the broker: through the bad network, whose port is known once it is there."""
        return lambda: login(f"mqtt://127.0.0.1:{self.network.port}", device, secret)
