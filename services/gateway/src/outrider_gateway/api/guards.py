"""What every request passes first: metrics, the size of its body, security headers, and an answer to whatever went wrong.

Pure ASGI, because it is in the way of every upload.
"""

from __future__ import annotations

import asyncio
import time

from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from outrider.contract.limits import DEVICE_MESSAGE_MAX_BYTES
from outrider_gateway import errors
from outrider_gateway.api.answers import of_error, problem_response

REQUESTS = Counter(
    "outrider_gateway_http_requests", "Requests answered, by route, method and status", ["route", "method", "status"]
)
SECONDS = Histogram("outrider_gateway_http_request_seconds", "Time until the answer began", ["route", "method"])
BODY_S = 60.0
"""A body that takes longer to come is given up: what is slower sends less at once."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SECURITY_HEADERS = {"x-content-type-options": "nosniff", "cross-origin-resource-policy": "same-origin"}


class Guards:
    """Counts requests, adds headers to every answer, and refuses bodies that are larger than a device's message may be."""

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
        status = 500
        began = False
        limited = _Limited(receive)

        async def send_guarded(message: Message) -> None:
            nonlocal status, began
            if message["type"] == "http.response.start":
                began = True
                status = message["status"]
                SECONDS.labels(route_of(scope), _method(scope)).observe(time.perf_counter() - started)
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
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
    """A receive that ends a body beyond the limit with 413, and one that does not come with 408."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._bytes = 0
        self._until_s: float | None = None
        self._ended = False

    def check(self, content_length: str | None) -> None:
        """Raises 413 for what the request says itself."""
        if content_length is not None and content_length.isdecimal() and int(content_length) > DEVICE_MESSAGE_MAX_BYTES:
            raise self._too_large()

    async def __call__(self) -> Message:
        if self._ended:  # what comes now is that the asker has gone
            return await self._receive()
        if self._until_s is None:
            self._until_s = asyncio.get_running_loop().time() + BODY_S
        try:
            async with asyncio.timeout_at(self._until_s):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, f"The body did not come within {BODY_S:g} s. Send it in smaller parts.") from None
        self._ended = not message.get("more_body", False)
        self._bytes += len(message.get("body", b""))
        if self._bytes > DEVICE_MESSAGE_MAX_BYTES:
            raise self._too_large()
        return message

    def _too_large(self) -> HTTPException:
        # The one kind of exception that FastAPI lets through while it reads a body.
        return HTTPException(
            413,
            f"A body may have {DEVICE_MESSAGE_MAX_BYTES:,} bytes, compressed or not. Compress it (gzip or zstd), or send "
            "it in parts.",
        )


def route_of(scope: Scope) -> str:
    """The route as metrics name it: never a path as it came, which could be anything."""
    path: str = getattr(scope.get("route"), "path", "")
    if not path:
        return "none"
    return path if path.startswith("/api/") else f"/api/v1{path}"


def _method(scope: Scope) -> str:
    method: str = scope["method"]
    return method if method in METHODS else "other"
