"""Cancellations reach their task, also where something swallowed them."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from outrider.runtime import cancelling


async def test_heed_raises_only_in_a_task_that_was_cancelled() -> None:
    cancelling.heed()
    went_on = False

    async def swallows() -> None:
        nonlocal went_on
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        cancelling.heed()
        went_on = True

    task = asyncio.create_task(swallows())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not went_on


async def test_end_tells_a_task_again_that_did_not_hear() -> None:
    heard = 0

    async def deaf() -> None:
        nonlocal heard
        while heard < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                heard += 1

    tasks = [asyncio.create_task(deaf()), asyncio.create_task(asyncio.sleep(60))]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await cancelling.end(tasks, 0.01)
    assert heard == 3
    assert tasks[1].cancelled()


async def test_end_of_none_returns_at_once() -> None:
    await cancelling.end([])
