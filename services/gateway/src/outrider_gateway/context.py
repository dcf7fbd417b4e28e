"""What every part of the gateway works with: built once in `app.py`, handed to the routes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from outrider.runtime.database import Database
from outrider_gateway.access import Access
from outrider_gateway.queries import Queries
from outrider_gateway.settings import Settings
from outrider_gateway.uploads import Uploads


@dataclass(frozen=True)
class Gateway:
    """The running gateway."""

    settings: Settings
    database: Database
    access: Access
    """Who a key or token is."""
    uploads: Uploads
    """Uploads in hand, on their way to the ledger."""
    queries: Queries
    """What questions are answered with."""
    url: str
    """Where it is reached, without a slash at the end."""


async def gateway_of(request: Request) -> Gateway:  # one that is not async would cost each request a trip to a thread
    """The running gateway."""
    gateway: Gateway = request.app.state.gateway
    return gateway


GatewayDep = Annotated[Gateway, Depends(gateway_of)]
