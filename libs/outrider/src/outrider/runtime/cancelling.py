"""Cancellations that are not lost.

`asyncio.wait_for` of Python 3.11 swallows a cancellation that comes in the moment its answer does (cpython issue 86296), and
every round trip of psycopg and every wait for one of its pool's connections goes through it. The task then runs on, and
whoever cancelled it waits for ever: so did 6 of 23 registries that were stopped right after their start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

AGAIN_S = 5.0
"""A task that was cancelled has so long for what it still wants to do; then it is told again."""


def heed() -> None:
    """Raises CancelledError if the running task was cancelled, though nobody told it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def end(tasks: Collection[asyncio.Task[Any]], again_s: float = AGAIN_S) -> None:
    """Cancel these tasks and wait until all have ended, however often they must be told."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=again_s)
