"""What every request passes first: limits, security headers, metrics, who asks, and answers that are repeated.

Pure ASGI, outermost first: Guards (metrics, headers, size) → Authentication → Idempotency → routes.
"""

from __future__ import annotations

import time

from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from outrider_registry import errors
from outrider_registry.api.answers import of_error, problem_response

REQUESTS = Counter(
    "outrider_registry_http_requests", "Requests answered, by route, method and status", ["route", "method", "status"]
)
SECONDS = Histogram("outrider_registry_http_request_seconds", "Time until the answer began", ["route", "method"])

BODY_MAX_BYTES = 1024 * 1024
IMPORT_MAX_BYTES = 4 * 1024 * 1024
IMPORT_PATHS = frozenset({"/api/v1/devices/import"})
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; connect-src 'self'; object-src 'none'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=(), serial=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guards:
    """Counts requests, adds the security headers to every answer, and refuses bodies that are too large."""

    def __init__(self, app: ASGIApp, https: bool) -> None:
        self._app = app
        self._headers = dict(SECURITY_HEADERS)
        if https:
            self._headers["strict-transport-security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        is_api = scope["path"].startswith("/api/")
        status = 500
        began = False
        limited = _Limited(receive, IMPORT_MAX_BYTES if scope["path"] in IMPORT_PATHS else BODY_MAX_BYTES)

        async def send_guarded(message: Message) -> None:
            nonlocal status, began
            if message["type"] == "http.response.start":
                began = True
                status = message["status"]
                SECONDS.labels(route_of(scope), _method(scope)).observe(time.perf_counter() - started)
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                if is_api:
                    headers.setdefault("cache-control", "no-store")
            await send(message)

        try:
            limited.check(Headers(scope=scope).get("content-length"))
            await self._app(scope, limited, send_guarded)
        except Exception as error:
            problem = of_error(error)
            if not began:
                await problem_response(problem or errors.Broken())(scope, receive, send_guarded)
            if problem is None:
                raise  # uvicorn logs it with its traceback
        finally:
            REQUESTS.labels(route_of(scope), _method(scope), str(status)).inc()


class _Limited:
    """A receive that ends a body beyond the limit with TooLarge."""

    def __init__(self, receive: Receive, max_bytes: int) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._bytes = 0

    def check(self, content_length: str | None) -> None:
        """Raises TooLarge for what the request says itself."""
        if content_length is not None and content_length.isdecimal() and int(content_length) > self._max_bytes:
            raise self._too_large()

    async def __call__(self) -> Message:
        message = await self._receive()
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._max_bytes:
            raise self._too_large()
        return message

    def _too_large(self) -> HTTPException:
        # The one kind of exception that FastAPI lets through while it reads a body.
        return HTTPException(413, f"The body may have {self._max_bytes:,} bytes. Send it in parts.")


def route_of(scope: Scope) -> str:
    """The route as metrics name it: never a path as it came, which could be anything."""
    if not scope["path"].startswith("/api/"):
        return "console"
    path: str = getattr(scope.get("route"), "path", "")
    if not path or ":path}" in path:
        return "api"
    return path if path.startswith("/api/") else f"/api/v1{path}"


def _method(scope: Scope) -> str:
    method: str = scope["method"]
    return method if method in METHODS else "other"
