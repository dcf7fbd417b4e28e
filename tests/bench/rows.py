"""Counts the values of a table that only grows, without reading all of it every time."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

COLUMNS = """
SELECT attname FROM pg_attribute
WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
BLOCKS = "SELECT pg_relation_size(to_regclass(%s)) / current_setting('block_size')::integer"
COUNT = """
SELECT coalesce(sum(n) FILTER (WHERE ctid < {settled}::tid), 0)::bigint, coalesce(sum(n), 0)::bigint
FROM (SELECT ctid, {values} AS n FROM {table} WHERE ctid >= {start}::tid) AS rows
"""
ARGUMENTS_MAX = 100
"""Of one function call in PostgreSQL."""
UNSETTLED_BLOCKS = 512
"""The end of the table that is read anew: more than a transaction under way, and the blocks PostgreSQL adds ahead, fill."""


class GrowingTable:
    """A plain table, by name, that one connection appends to; it may not be there yet, and may get columns.

    Its values are what is not NULL in the columns other than `without`.
    """

    def __init__(self, schema: str, name: str, *, without: Sequence[str]) -> None:
        self._name = sql.Identifier(schema, name)
        self._text = f'"{schema}"."{name}"'
        self._without = frozenset(without)
        self._settled_blocks = self._settled = 0
        self._last: int | None = None
        self._is_exact = False

    async def values(self, connection: psycopg.AsyncConnection) -> int:
        """Values committed now. Reads the table's end while it grows, and all of it once when it has stopped growing."""
        found = await self._read(connection)
        if found != self._last:
            self._last, self._is_exact = found, False
        elif not self._is_exact:
            self._settled_blocks = self._settled = 0
            self._last, self._is_exact = await self._read(connection), True
        return self._last

    async def _read(self, connection: psycopg.AsyncConnection) -> int:
        rows = await (await connection.execute(COLUMNS, (self._text,))).fetchall()
        columns = [sql.Identifier(name) for (name,) in rows if name not in self._without]
        blocks = await (await connection.execute(BLOCKS, (self._text,))).fetchone()
        if not columns or blocks is None:
            return 0
        # known before the rows are read: what a transaction adds behind it meanwhile is not settled by mistake
        settled_blocks = max(self._settled_blocks, blocks[0] - UNSETTLED_BLOCKS)
        parts = [columns[start : start + ARGUMENTS_MAX] for start in range(0, len(columns), ARGUMENTS_MAX)]
        values = sql.SQL(" + ").join(sql.SQL("num_nonnulls({})").format(sql.SQL(", ").join(part)) for part in parts)
        query = sql.SQL(COUNT).format(
            settled=f"({settled_blocks},0)", start=f"({self._settled_blocks},0)", values=values, table=self._name
        )
        row = await (await connection.execute(query)).fetchone()
        assert row is not None
        found = self._settled + int(row[1])
        self._settled += int(row[0])
        self._settled_blocks = settled_blocks
        return found
