"""A TCP proxy on loopback that behaves like a bad network: cuts, delays, loses, falls silent, swallows one reply."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random

CHUNK_BYTES = 64 * 1024
RETRANSMIT_S = (0.2, 0.6)
"""What a lost segment costs: TCP hides the loss behind a retransmission timeout."""


class Proxy:
    """Forwards connections to one server. What is set here holds for all connections from then on.

    `delay_s`: added to each chunk, each way. `loss`: the share of chunks that come late, as lost segments do.
    `refusing`: new connections are closed at once.
    """

    def __init__(self, host: str, port: int, *, seed: int = 0) -> None:
        self._target = (host, port)
        self._random = Random(seed)
        self._server: asyncio.Server | None = None
        self._pairs: set[_Pair] = set()
        self.delay_s = 0.0
        self.loss = 0.0
        self.refusing = False
        self.swallowed = 0
        """Replies that were swallowed by `lose_reply_to`."""
        self._pattern = b""
        self._swallow = 0

    @property
    def port(self) -> int:
        """Where the proxy listens on 127.0.0.1."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """Connections that stand now, silent ones included."""
        return len(self._pairs)

    async def start(self) -> None:
        """Listens on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def stop(self) -> None:
        """Closes the listener and every connection; nothing is left."""
        if self._server is not None:
            self._server.close()
        self.cut()
        while self._pairs:
            await asyncio.wait([pair.task for pair in self._pairs])
        if self._server is not None:
            await self._server.wait_closed()

    def cut(self, share: float = 1.0) -> int:
        """Resets this share of the connections; returns how many."""
        chosen = [pair for pair in self._pairs if self._random.random() < share]
        for pair in chosen:
            pair.abort()
        return len(chosen)

    def fall_silent(self, share: float = 1.0) -> int:
        """Half-open: this share of the present connections forwards nothing more and is not closed; how many."""
        chosen = [pair for pair in self._pairs if self._random.random() < share]
        for pair in chosen:
            pair.silent = True
        return len(chosen)

    def lose_reply_to(self, pattern: bytes, times: int) -> None:
        """The next `times` chunks that end with `pattern` reach the server, and when it answers, the connection is cut
        and the answer lost."""
        self._pattern, self._swallow = pattern, times

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        try:
            upstream = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        pair = _Pair(self, writer, upstream[1], task)
        self._pairs.add(pair)
        try:
            await pair.run(reader, upstream[0])
        finally:
            self._pairs.discard(pair)
            pair.abort()

    def _late_s(self) -> float:
        lost = self.loss and self._random.random() < self.loss
        return self.delay_s + (self._random.uniform(*RETRANSMIT_S) if lost else 0.0)

    def _swallows(self, data: bytes) -> bool:
        if self._swallow and data.endswith(self._pattern):
            self._swallow -= 1
            return True
        return False


class _Pair:
    def __init__(
        self,
        proxy: Proxy,
        client: asyncio.StreamWriter,
        server: asyncio.StreamWriter,
        task: asyncio.Task[None],
    ) -> None:
        self.task = task
        self.silent = False
        self._proxy = proxy
        self._client = client
        self._server = server
        self._reply_is_lost = False

    def abort(self) -> None:
        self._client.transport.abort()
        self._server.transport.abort()

    async def run(self, from_client: asyncio.StreamReader, from_server: asyncio.StreamReader) -> None:
        ways = [
            asyncio.create_task(self._pump(from_client, self._server, up=True)),
            asyncio.create_task(self._pump(from_server, self._client, up=False)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.abort()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK_BYTES):
                late_s = self._proxy._late_s()
                if late_s:
                    await asyncio.sleep(late_s)
                if self.silent:
                    continue  # read on, so that the sender's window never tells it
                if up:
                    self._reply_is_lost = self._reply_is_lost or self._proxy._swallows(data)
                elif self._reply_is_lost:
                    self._proxy.swallowed += 1
                    return
                sink.write(data)
                await sink.drain()
