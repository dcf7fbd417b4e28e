"""Who looked at where a device was: personal data of whoever drives, so it is in the audit, once an hour."""

from __future__ import annotations

from typing import LiteralString

import psycopg

from outrider_registry.principals import Principal
from outrider_registry.store import audit
from outrider_registry.store.rows import value

ACTION = "position.read"
METRICS = frozenset({"lat", "lon"})
RECENTLY: LiteralString = """
SELECT EXISTS (SELECT FROM registry.audit
               WHERE tenant = current_setting('outrider.tenant') AND object = %s AND actor = %s AND action = 'position.read'
                 AND at > now() - interval '1 hour')
"""


async def note_read(connection: psycopg.AsyncConnection, who: Principal, device: str | None) -> None:
    """Note that this principal reads the positions of a device (None: of all); again after an hour. Call it last."""
    tenant = who.in_tenant()
    object_ = f"device:{device}" if device is not None else f"tenant:{tenant}"
    if not await value(connection, RECENTLY, (object_, who.actor)):
        await audit.append(connection, tenant, who.actor, ACTION, object_, {}, who.address)
