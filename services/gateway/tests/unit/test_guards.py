"""Bodies that are too slow or too long do not get through; slow answers do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from outrider.contract.limits import DEVICE_MESSAGE_MAX_BYTES
from outrider_gateway.api import guards
from outrider_gateway.api.guards import Guards

POST = {"type": "http", "method": "POST", "path": "/x", "headers": []}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Reads a body, then waits whether the asker goes away, as a long answer does."""
    while (await receive()).get("more_body"):
        pass
    try:
        async with asyncio.timeout(3 * guards.BODY_S):
            await receive()
    except TimeoutError:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def status_of(*parts: bytes, pause_s: float = 0.0, ends: bool = True) -> int:
    """What a body in these parts, each after a pause, is answered with."""
    left = list(parts)
    said: list[Any] = []

    async def receive() -> Any:
        if not left:
            await asyncio.Event().wait()
        await asyncio.sleep(pause_s)
        body = left.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(left) or not ends}

    async def send(message: Any) -> None:
        said.append(message)

    async with asyncio.timeout(5):
        await Guards(app, https=False)(dict(POST), receive, send)
    return int(said[0]["status"])


async def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "BODY_S", 0.05)
    assert await status_of(b"a", ends=False) == 408
    assert await status_of(*[b"a"] * 100, pause_s=0.01) == 408, "each part in time is not enough"
    assert await status_of(b"a", b"b") == 204
    assert await status_of(b"a" * DEVICE_MESSAGE_MAX_BYTES, b"b") == 413
