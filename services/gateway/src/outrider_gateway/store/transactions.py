"""Transactions that see one tenant. Without a tenant no row is seen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from outrider.contract import topics
from outrider.runtime.database import Database

SET_TENANT = "SELECT set_config('outrider.tenant', %s, true)"


@asynccontextmanager
async def of_tenant(database: Database, tenant: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """A transaction that sees this tenant's rows only; committed when the block ends.

    Raises ValueError for what is no tenant's name, Transient as `Database.transaction` does.
    """
    if not topics.is_name(tenant):
        raise ValueError(f"not a tenant: {tenant!r}")
    async with database.transaction() as connection:
        await connection.execute(SET_TENANT, (tenant,))
        yield connection
