"""The HTTP server of a service with an API: uvicorn inside the service's own event loop, on a socket that is bound at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as _HttpProtocol
except ImportError:  # slower, as good
    from uvicorn.protocols.http.h11_impl import H11Protocol as _HttpProtocol  # type: ignore[assignment]

log = logging.getLogger(__name__)

GRACE_S = 3
"""How long requests in hand may take when the service stops; live streams are cut then."""
CONNECTIONS_MAX = 2000
"""Beyond so many at once new ones get 503; live streams of the console count."""
HEAD_S = 20.0
"""A request line and headers that take longer end the connection: whoever sends them letter by letter keeps nobody out."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the service."""
        yield


HEAD_MAX_BYTES = 64 * 1024
"""Of a request line with headers, beside what comes in one piece; nothing else here limits them (h11 does so itself)."""


class _Protocol(_HttpProtocol):
    """Gives up connections that send no request, or a head without end."""

    _giving_up: asyncio.TimerHandle | None = None
    _in_head = False
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._giving_up = self.loop.call_later(HEAD_S, self._give_up)

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_MAX_BYTES:
                self.transport.close()
                return
        super().data_received(data)
        if self._waits():
            self._giving_up = self._giving_up or self.loop.call_later(HEAD_S, self._give_up)
        elif self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
        super().connection_lost(exc)

    def _waits(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _give_up(self) -> None:
        self._giving_up = None
        if self._waits() and not self.transport.is_closing():
            self.transport.close()


@dataclass(frozen=True)
class Listen:
    """Where and how a service's API is served; `prefix` is what its variables begin with, for the errors."""

    prefix: str
    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None
    trusted_proxies: str = ""
    """Addresses, with commas, whose X-Forwarded headers are believed."""


class HttpServer:
    """Serves `app`, which is set before `run`. The socket is bound by the constructor: port 0 becomes a free one there."""

    def __init__(self, listen: Listen) -> None:
        """Exits with a sentence when the address cannot be had, or one of certificate and key is missing."""
        host, port, prefix = listen.host, listen.port, listen.prefix
        if (listen.certificate is None) != (listen.key is None):
            raise SystemExit(f"Set both of {prefix}_TLS_CERTIFICATE and {prefix}_TLS_KEY, or none.")
        self.app: Any = None
        self._listen = listen
        self._server: _Server | None = None
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=512)
        except OSError as error:
            raise SystemExit(
                f"Cannot listen on {host}:{port}: {error.strerror}. Set {prefix}_HTTP_HOST and {prefix}_HTTP_PORT "
                "(0 takes a free one)."
            ) from None
        self.port: int = self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        """Where it is reached from this machine, without a slash at the end."""
        host = self._listen.host
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
        scheme = "https" if self._listen.certificate else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    async def run(self) -> None:
        """Serve until cancelled, then finish what is in hand, for GRACE_S at most."""
        listen = self._listen
        proxies = [name.strip() for name in listen.trusted_proxies.split(",") if name.strip()]
        self._server = _Server(
            uvicorn.Config(
                self.app,
                http=_Protocol,
                log_config=None,
                log_level="warning",
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                proxy_headers=bool(proxies),
                forwarded_allow_ips=proxies,
                limit_concurrency=CONNECTIONS_MAX,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=GRACE_S,
                ssl_certfile=listen.certificate,
                ssl_keyfile=listen.key,
            )
        )
        serving = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="uvicorn")
        log.info("http_started", extra={"url": self.url})
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            self._server.should_exit = True
            await serving
            raise
        finally:
            self.close()

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()

    def problem(self) -> str | None:
        """What keeps it from answering."""
        return None if self._server is not None and self._server.started else "the HTTP server has not started"
