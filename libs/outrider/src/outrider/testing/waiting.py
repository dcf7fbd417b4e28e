"""Waiting for a condition with a deadline, instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(condition: Callable[[], T], timeout_s: float = 20.0, *, interval_s: float = 0.05) -> T:
    """The condition's first truthy value. Raises AssertionError with its last value when the time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = await asyncio.to_thread(condition)
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s; last value: {value!r}")
        await asyncio.sleep(interval_s)
