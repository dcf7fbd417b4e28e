"""Other services' views, which are not there before that service's migrations ran."""

from __future__ import annotations

from typing import LiteralString

import psycopg

AVAILABLE: LiteralString = """
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname || '.' || c.relname = %s AND has_table_privilege(c.oid, 'SELECT'))
"""


async def available(connection: psycopg.AsyncConnection, view: str) -> bool:
    """True if a view such as `logs.tenant_line` is there and this role may read it."""
    row = await (await connection.execute(AVAILABLE, (view,))).fetchone()
    return bool(row and row[0])
