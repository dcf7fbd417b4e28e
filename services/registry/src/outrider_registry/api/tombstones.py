"""Ids of erased devices, which nobody gets unless an administrator of the platform frees one."""

from __future__ import annotations

import psycopg
from psycopg import errors as pg

from outrider_registry.api.deps import RegistryDep, home_transaction
from outrider_registry.errors import Conflict
from outrider_registry.principals import Principal
from outrider_registry.store import audit, erasures


async def check_free(connection: psycopg.AsyncConnection, device: str) -> None:
    """Raises Conflict for the id of an erased device."""
    if await erasures.is_erased(connection, device):
        raise Conflict(
            f"{device} is the id of an erased device, so nobody gets it. Choose another one; an administrator of the platform "
            "can free it with `lift_tombstone=true`."
        )


async def lift(registry: RegistryDep, who: Principal, device: str) -> None:
    """Free the id of an erased device, if it is one; audited. Raises Forbidden, Conflict."""
    who.require("platform:write")
    async with home_transaction(registry, who) as connection:
        try:
            lifted = await erasures.can(connection) and await erasures.lift(connection, device)
        except pg.ObjectInUse:
            lifted = None
        if lifted:
            await audit.append(connection, who.tenant, who.actor, "tombstone.lift", f"device:{device}", {}, who.address)
    if lifted is None:
        raise Conflict(f"{device} is still being erased. Wait until that is done (`outrider erase list`).")
