"""What happens now, as server-sent events: values of a device as they are stored, or positions of the whole fleet."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated

import orjson
from fastapi import APIRouter, FastAPI, Query, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from outrider.runtime.errors import Transient
from outrider_registry.api.authentication import TENANT_HEADER, session_cookie, who_has_session, who_has_token
from outrider_registry.api.deps import RegistryDep, needs, tenant_transaction
from outrider_registry.api.devices import missing
from outrider_registry.api.fields import Name
from outrider_registry.context import Registry
from outrider_registry.live import Hub, Stream
from outrider_registry.principals import Principal
from outrider_registry.store import devices, positions

router = APIRouter(tags=["telemetry"])

KEEPALIVE_S = 15.0
CHECK_S = 15.0
"""How long a stream goes on at most after its session or token has ended."""
SCOPES = {"presence": "devices:read", "shadow": "config:read", "command": "commands:read"}


class Live(StreamingResponse):
    """A stream's events; gives the stream back however it ends."""

    def __init__(self, hub: Hub, stream: Stream, content: AsyncIterator[bytes]) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"x-accel-buffering": "no"})
        self._hub = hub
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the reader is gone or has to go."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._hub.close(self._stream)


@router.get(
    "/live",
    summary="Live events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "Events"}},
)
async def get_live(
    registry: RegistryDep,
    who: Annotated[Principal, needs("telemetry:read")],
    request: Request,
    device: Annotated[Name | None, Query(description="One device; without it the fleet.")] = None,
) -> StreamingResponse:
    """Server-sent events, told once a second, until the session or token ends.

    With a device: `latest` {ts, values}, `presence`, `shadow` (versions), `command`; first what is known, then what changes.
    Without: `fleet` {devices: [{id, lat, lon, heading, ts_ms, presence}]} with what has changed of each.
    Watching is in the audit, as reading positions is.
    """
    async with tenant_transaction(registry, who) as connection:
        if device is not None and not await devices.exists(connection, device):
            raise missing(device)
        await positions.note_read(connection, who, device)
    hub = hub_of(request.app, registry)
    kinds = [event for event, scope in SCOPES.items() if scope in who.scopes]
    stream = hub.open(who.account, who.in_tenant(), device, kinds)
    return Live(hub, stream, _events(registry, who, request, stream))


def hub_of(app: FastAPI, registry: Registry) -> Hub:
    """The one hub of this application."""
    hub: Hub | None = getattr(app.state, "live", None)
    if hub is None:
        hub = app.state.live = Hub(registry)
    return hub


async def _events(registry: Registry, who: Principal, request: Request, stream: Stream) -> AsyncIterator[bytes]:
    yield b"retry: 2000\n\n"
    check_at = time.monotonic() + CHECK_S
    while True:
        events = await stream.take(min(KEEPALIVE_S, CHECK_S))
        text = b"".join(
            b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(data, default=str)) for name, data in events
        )
        yield text or b":keepalive\n\n"
        if time.monotonic() >= check_at:
            if not await _may_go_on(registry, who, request, stream.device):
                return
            check_at = time.monotonic() + CHECK_S


async def _may_go_on(registry: Registry, who: Principal, request: Request, device: str | None) -> bool:
    """False once the session or token has ended, or its account is another one than it was."""
    headers = request.headers
    try:
        if who.token is not None:
            found = await who_has_token(registry, headers.get("authorization", "").partition(" ")[2].strip())
        else:
            found = await who_has_session(registry, session_cookie(headers) or "")
        if found is None or found.refused or (found.role, found.tenant) != (who.role, who.home):
            return False
        if TENANT_HEADER not in headers and (found.tenant or found.acting_in) != who.tenant:
            return False
        async with tenant_transaction(registry, who) as connection:
            await positions.note_read(connection, who, device)
    except Transient:
        return True  # the database is away: what can be told is told again when it is back
    return True
