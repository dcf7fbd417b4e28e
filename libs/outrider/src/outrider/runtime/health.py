"""`/metrics`, `/healthz` and `/readyz` over HTTP, from a thread: they answer even while the event loop is busy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import orjson
from prometheus_client import REGISTRY, make_wsgi_app

LOOP_STALL_S = 30.0
"""An event loop that did not tick for this long is reported unhealthy, so that a supervisor can restart it."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing per request in the log."""


class Health:
    """Liveness from the event loop's ticks, readiness from named checks.

    A check returns None when all is well, else one sentence that says what is missing.
    """

    def __init__(self) -> None:
        self.checks: dict[str, Callable[[], str | None]] = {}
        self._ticked = time.monotonic()
        self._server: WSGIServer | None = None
        self._metrics = make_wsgi_app(REGISTRY)

    def tick(self) -> None:
        """Called by the event loop about once a second."""
        self._ticked = time.monotonic()

    def serve(self, host: str, port: int) -> int:
        """Start answering; returns the port (a free one for port 0)."""
        self._server = make_server(host, port, self._answer, server_class=_Server, handler_class=_QuietHandler)
        threading.Thread(target=self._server.serve_forever, args=(0.2,), name="health", daemon=True).start()
        return int(self._server.server_port)

    def close(self) -> None:
        """Stop answering."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def problems(self) -> dict[str, str]:
        """What keeps this service from being ready, by check."""
        return {name: problem for name, check in self.checks.items() if (problem := check()) is not None}

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return self._metrics(environ, start_response)  # type: ignore[no-any-return]
        if path == "/healthz":
            stalled = time.monotonic() - self._ticked > LOOP_STALL_S
            body: dict[str, Any] = {"status": "event loop stalled" if stalled else "ok"}
            return _json(start_response, not stalled, body)
        if path == "/readyz":
            problems = self.problems()
            return _json(
                start_response, not problems, {"status": "not ready" if problems else "ready", "problems": problems}
            )
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"try /metrics, /healthz or /readyz\n"]


def _json(start_response: Any, good: bool, body: dict[str, Any]) -> list[bytes]:
    start_response("200 OK" if good else "503 Service Unavailable", [("Content-Type", "application/json")])
    return [orjson.dumps(body)]
