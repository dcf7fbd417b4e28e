"""Rows as dicts."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

Row = dict[str, Any]


async def many(connection: psycopg.AsyncConnection, statement: LiteralString, values: Any = None) -> list[Row]:
    """All rows of a statement."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, values)
        return await cursor.fetchall()


async def one(connection: psycopg.AsyncConnection, statement: LiteralString, values: Any = None) -> Row | None:
    """The first row of a statement, if there is one."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, values)
        return await cursor.fetchone()


async def value(connection: psycopg.AsyncConnection, statement: LiteralString, values: Any = None) -> Any:
    """The first column of the first row; None if there is no row."""
    row = await (await connection.execute(statement, values)).fetchone()
    return row[0] if row else None
