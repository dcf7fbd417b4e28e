"""The clock of a slot does not run ahead of what still waits for it in the broker."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from outrider_trips import progress as module
from outrider_trips.progress import Progress

HOUR_MS = 3_600_000


class Positions:
    """Takes down what is noted, in the place of the database."""

    def __init__(self) -> None:
        self.noted: list[dict[int, int]] = []
        self.more = asyncio.Event()

    async def progressed(self, slots: dict[int, int]) -> None:
        self.noted.append(slots)
        self.more.set()


async def looks(backlog_ms: list[int], monkeypatch: pytest.MonkeyPatch) -> list[dict[int, int]]:
    """What is noted of slot 0, which has nothing in hand whenever it is looked at; a batch of each time comes between two
    looks."""
    monkeypatch.setattr(module, "LOOK_S", 0.001)
    positions: Any = Positions()
    progress = Progress(positions)
    consumer: Any = SimpleNamespace(idle=lambda: [0])
    progress.consumer = consumer
    running = asyncio.create_task(progress.run())
    async with asyncio.timeout(10):
        for received_ms in [*backlog_ms, 0, 0, 0]:
            positions.more.clear()
            await positions.more.wait()
            if received_ms:
                progress.handled(0, received_ms)
    running.cancel()
    await asyncio.wait([running])
    noted: list[dict[int, int]] = positions.noted
    return noted


async def test_a_slot_that_catches_up_is_never_idle_between_two_of_its_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker sends what waits in windows: for a moment after each there is nothing in hand."""
    now_ms = time.time_ns() // 1_000_000
    backlog_ms = [now_ms - HOUR_MS + n for n in range(5)]
    noted = [slots[0] for slots in await looks(backlog_ms, monkeypatch) if slots]
    assert noted[:5] == backlog_ms
    assert noted[-1] >= now_ms, "idle in the end"
