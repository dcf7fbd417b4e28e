"""The audit: append-only, one hash chain per tenant. Rows go in through `registry.audit_append` only."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.types.json import Jsonb

PLATFORM = "-"
"""The platform's own chain."""
APPEND = "SELECT registry.audit_append(%s, %s, %s, %s, %s, %s)"


async def append(
    connection: psycopg.AsyncConnection,
    tenant: str | None,
    actor: str,
    action: str,
    object_: str,
    detail: dict[str, Any] | None = None,
    address: str = "",
) -> None:
    """Note who did what, in the transaction that does it. `tenant` None: the platform. Never put a secret into `detail`.

    Writers of one tenant wait for each other from here to their commit: call it last.
    """
    await connection.execute(APPEND, (tenant or PLATFORM, actor, action, object_, Jsonb(detail or {}), address))
