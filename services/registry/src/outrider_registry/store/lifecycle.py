"""Retention, storage and the archive, of the service lifecycle, which may not be installed."""

from __future__ import annotations

from datetime import date
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from outrider_registry.store.rows import Row, many, one, value
from outrider_registry.store.views import available

VIEW = "lifecycle.tenant_archive"
POLICY: LiteralString = """
SELECT to_jsonb(effective) - 'tenant' AS effective, to_jsonb(own) - 'tenant' AS own FROM lifecycle.tenant_policy()
"""
SET_POLICY: LiteralString = "SELECT lifecycle.tenant_set_policy(%s)"
STORAGE: LiteralString = "SELECT lifecycle.tenant_storage(%s)"
ARCHIVE: LiteralString = """
SELECT tenant, day, table_name, count(*) AS files, sum(rows)::bigint AS rows, sum(bytes)::bigint AS bytes,
       min(first_at) AS first_at, max(last_at) AS last_at, max(devices) AS devices, bool_and(recipients <> '{}') AS encrypted,
       min(verified_at) AS verified_at
FROM lifecycle.tenant_archive
WHERE (%(tenant)s::text IS NULL OR tenant = %(tenant)s) AND day BETWEEN %(first)s AND %(last)s
  AND (%(after_day)s::date IS NULL OR (day, tenant, table_name) > (%(after_day)s::date, %(after_tenant)s, %(after_table)s))
GROUP BY day, tenant, table_name ORDER BY day, tenant, table_name LIMIT %(limit)s
"""
TASK: LiteralString = """
SELECT id, kind, first_day, last_day, devices, keep_days, state, files, files_done, rows, problems, requested_at, finished_at
FROM lifecycle.tenant_archive_task WHERE id = %s AND tenant = current_setting('outrider.tenant')
"""
REQUEST: LiteralString = "SELECT lifecycle.tenant_request_archive_task(%s, %s, %s, %s, %s)"


async def installed(connection: psycopg.AsyncConnection) -> bool:
    """True where lifecycle's migrations have run."""
    return await available(connection, VIEW)


async def policy(connection: psycopg.AsyncConnection) -> Row:
    """What holds for this transaction's tenant (`effective`), and what it set itself (`own`)."""
    found = await one(connection, POLICY)
    assert found is not None
    return found


async def set_policy(connection: psycopg.AsyncConnection, changes: dict[str, Any]) -> None:
    """Change some values. Raises psycopg.errors.InvalidParameterValue with a sentence."""
    await connection.execute(SET_POLICY, (Jsonb(changes),))


async def storage(connection: psycopg.AsyncConnection, top: int) -> dict[str, Any]:
    """What is kept where of this transaction's tenant, as it was last measured, with the `top` largest devices."""
    found: dict[str, Any] = await value(connection, STORAGE, (top,))
    return found


async def archived(
    connection: psycopg.AsyncConnection,
    tenant: str | None,
    first: date,
    last: date,
    after: list[Any] | None,
    limit: int,
) -> tuple[list[Row], list[Any] | None]:
    """The archive by day and table, and the key of the last entry if there are more."""
    after_day, after_tenant, after_table = after or (None, None, None)
    values = {
        "tenant": tenant,
        "first": first,
        "last": last,
        "after_day": after_day,
        "after_tenant": after_tenant,
        "after_table": after_table,
        "limit": limit + 1,
    }
    rows = await many(connection, ARCHIVE, values)
    more = len(rows) > limit
    rows = rows[:limit]
    return rows, [rows[-1]["day"].isoformat(), rows[-1]["tenant"], rows[-1]["table_name"]] if more else None


async def task(connection: psycopg.AsyncConnection, id_: UUID) -> Row | None:
    """One task of this transaction's tenant."""
    return await one(connection, TASK, (id_,))


async def request_task(
    connection: psycopg.AsyncConnection, kind: str, first: date, last: date, devices: list[str] | None, keep_days: int
) -> UUID:
    """Have lifecycle verify or restore these days."""
    id_: UUID = await value(connection, REQUEST, (kind, first, last, devices, keep_days))
    return id_
