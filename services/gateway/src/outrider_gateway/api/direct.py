"""Uploads past the framework: dependencies, routing and middlewares took two thirds of what an upload costs the gateway.

The routes of `api/uploads.py` stay as the description; a POST to them is answered here, by the same function.
"""

from __future__ import annotations

from typing import NamedTuple

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from outrider.contract.batch import Stream
from outrider_gateway.access import address_of, identify
from outrider_gateway.api.uploads import upload
from outrider_gateway.context import Gateway


class _Route(NamedTuple):
    """What metrics name the request by."""

    path: str
    stream: Stream


class Direct:
    """Right behind Guards, which answers whatever is raised here."""

    def __init__(self, app: ASGIApp, gateway: Gateway, prefix: str) -> None:
        self._app = app
        self._gateway = gateway
        streams: tuple[Stream, ...] = ("telemetry", "log", "event")
        self._routes = {f"{prefix}/{stream}": _Route(f"{prefix}/{stream}", stream) for stream in streams}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        route = self._routes.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        request = Request(scope, receive)
        who = await identify(self._gateway.access, request.headers, address_of(request))
        who.require("telemetry:write")
        answer = await upload(request, who, self._gateway, route.stream)
        await answer(scope, receive, send)
