"""The bad network: what it does to a connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.chaos.proxy import Proxy


@asynccontextmanager
async def _echo_behind_proxy() -> AsyncIterator[Proxy]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    proxy = Proxy("127.0.0.1", server.sockets[0].getsockname()[1], seed=1)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def _connected(proxy: Proxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(b"hello")
        assert await reader.read(100) == b"hello"
        yield reader, writer
    finally:
        writer.transport.abort()


async def _ended(reader: asyncio.StreamReader) -> bool:
    """True when the connection was closed or reset without another byte."""
    async with asyncio.timeout(5):
        with suppress(ConnectionResetError):
            return await reader.read(100) == b""
    return True


async def test_proxy_forwards_and_delays() -> None:
    async with _echo_behind_proxy() as proxy, _connected(proxy) as (reader, writer):
        proxy.delay_s = 0.1
        began_s = time.monotonic()
        writer.write(b"again")
        assert await reader.read(100) == b"again"
        assert time.monotonic() - began_s >= 0.2


async def test_cut_resets_every_connection() -> None:
    async with _echo_behind_proxy() as proxy, _connected(proxy) as (reader, _):
        assert proxy.cut() == 1
        assert await _ended(reader)


async def test_fall_silent_keeps_the_connection_and_says_nothing_while_new_ones_work() -> None:
    async with _echo_behind_proxy() as proxy, _connected(proxy) as (reader, writer):
        assert proxy.fall_silent() == 1
        writer.write(b"anyone?")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await reader.read(100)
        async with _connected(proxy):
            assert proxy.connections == 2


async def test_refusing_closes_new_connections() -> None:
    async with _echo_behind_proxy() as proxy:
        proxy.refusing = True
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await _ended(reader)
        writer.transport.abort()


async def test_lose_reply_to_delivers_the_request_and_swallows_the_answer() -> None:
    async with _echo_behind_proxy() as proxy, _connected(proxy) as (reader, writer):
        proxy.lose_reply_to(b"COMMIT\0", 1)
        writer.write(b"Q....COMMIT\0")
        assert await _ended(reader)
        assert proxy.swallowed == 1
        async with _connected(proxy) as (other, other_writer):
            other_writer.write(b"Q....COMMIT\0")
            assert await other.read(100) == b"Q....COMMIT\0"
