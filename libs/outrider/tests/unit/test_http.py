"""The HTTP server against whoever sends slowly."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from outrider.runtime import http
from outrider.runtime.http import HttpServer, Listen

ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def slow_app(scope: Any, receive: Any, send: Any) -> None:
    """Answers after longer than a request's head may take."""
    await asyncio.sleep(0.3)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """Of a server that waits 0.1 s for a request."""
    monkeypatch.setattr(http, "HEAD_S", 0.1)
    server = HttpServer(Listen("TEST", "127.0.0.1", 0))
    server.app = slow_app
    serving = asyncio.create_task(server.run())
    yield server.port
    serving.cancel()
    await asyncio.wait([serving])


@pytest.mark.parametrize("before", [b"", ASK])
async def test_a_head_that_comes_letter_by_letter_ends_the_connection(port: int, before: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(5):
        if before:
            writer.write(before)
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.write(ASK[:-2] + b"X: ")
        said = b""
        with contextlib.suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b"a")
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    said += await asyncio.wait_for(reader.read(100), 0.02)
    assert said == b"", "it was not the head that ended it"
    writer.close()


@pytest.mark.parametrize("before", [b"", ASK], ids=["first", "pipelined"])
@pytest.mark.parametrize("between", [b"a", b"\r\nX: "], ids=["one header", "many"])
async def test_a_head_without_end_is_not_kept(
    port: int, before: bytes, between: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "HEAD_S", 60.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = 0
    async with asyncio.timeout(5):
        writer.write(before + ASK[:-2] + b"X: ")
        with contextlib.suppress(ConnectionError):
            while sent < 20_000_000 and not reader.at_eof():
                writer.write((b"a" * 20_000 + between) * 5)
                await writer.drain()
                sent += 100_000
            writer.write(b"\r\n\r\n")
            assert (await reader.read()).count(b" 200 ") <= bool(before)
    assert sent < 20_000_000
    writer.close()


async def test_who_says_nothing_is_not_waited_for(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()


async def test_a_slow_answer_is_waited_for_and_the_connection_used_again(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(5):
        for _ in range(2):
            writer.write(ASK[:10])
            await asyncio.sleep(0.01)
            writer.write(ASK[10:])
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
    writer.close()
