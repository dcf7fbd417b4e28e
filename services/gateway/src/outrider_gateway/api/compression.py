"""Answers are compressed as the asker can read them: zstd, else gzip. Pure ASGI; a long answer goes out as it is read."""

from __future__ import annotations

import asyncio
import re
import zlib
from typing import Protocol

import zstandard
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LEAST_BYTES = 1000
"""Less is sent as it is: it fits into one packet either way."""
ASIDE_BYTES = 64 * 1024
"""More is compressed beside the event loop."""
GZIP_LEVEL, ZSTD_LEVEL = 5, 3
_TYPES = re.compile(r"(text/|application/(json|problem\+json|geo\+json|gpx\+xml|vnd\.apache\.arrow\.stream))")


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def finish(self) -> bytes: ...

    def push(self) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        self._made = zlib.compressobj(GZIP_LEVEL, wbits=31)

    def compress(self, data: bytes, /) -> bytes:
        return self._made.compress(data)

    def push(self) -> bytes:
        return self._made.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        return self._made.flush()


class _Zstd:
    def __init__(self) -> None:
        self._made = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj()

    def compress(self, data: bytes, /) -> bytes:
        return self._made.compress(data)

    def push(self) -> bytes:
        return self._made.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)

    def finish(self) -> bytes:
        return self._made.flush()


def choose(accept_encoding: str) -> str | None:
    """`zstd` or `gzip`, whichever the asker takes; None for neither."""
    taken: dict[str, float] = {}
    for part in accept_encoding.lower().split(","):
        name, _, quality = part.strip().partition(";q=")
        taken[name.strip()] = float(quality) if re.fullmatch(r"[01](\.\d{0,3})?", quality) else 1.0
    for name in ("zstd", "gzip"):
        if taken.get(name, 0.0) > 0:
            return name
    return None


class Compression:
    """Compresses what the inner application answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        coding = choose(Headers(scope=scope).get("accept-encoding", "")) if scope["type"] == "http" else None
        if coding is None or scope["method"] not in ("GET", "POST"):
            await self._app(scope, receive, send)
            return
        await self._app(scope, receive, _Answer(send, coding))


class _Answer:
    def __init__(self, send: Send, coding: str) -> None:
        self._send = send
        self._coding = coding
        self._start: Message | None = None
        self._compressor: _Compressor | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        if self._start is not None:
            start, self._start = self._start, None
            headers = MutableHeaders(scope=start)
            long = message.get("more_body", False) or len(message.get("body", b"")) >= LEAST_BYTES
            if long and _TYPES.match(headers.get("content-type", "")) and "content-encoding" not in headers:
                self._compressor = _Gzip() if self._coding == "gzip" else _Zstd()
                headers["content-encoding"] = self._coding
                headers.add_vary_header("Accept-Encoding")
                if "content-length" in headers:
                    del headers["content-length"]
            await self._send(start)
        if self._compressor is None:
            await self._send(message)
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if len(body) > ASIDE_BYTES:
            packed = await asyncio.to_thread(self._pack, body, more)
        else:
            packed = self._pack(body, more)
        await self._send({"type": "http.response.body", "body": packed, "more_body": more})

    def _pack(self, body: bytes, more: bool) -> bytes:
        assert self._compressor is not None
        return self._compressor.compress(body) + (self._compressor.push() if more else self._compressor.finish())
