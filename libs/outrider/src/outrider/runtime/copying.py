"""COPY that survives a poison row: on an error about the data the rows are bisected until only the bad ones are left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg import errors as pg

BAD_ROW = (pg.DataError, pg.ProgramLimitExceeded, UnicodeEncodeError, OverflowError)

Row = tuple[int, tuple[Any, ...]]
"""(the caller's number for the row, its columns)"""


async def copy_rows(
    connection: psycopg.AsyncConnection,
    statement: str,
    rows: Sequence[Row],
    on_bad: Callable[[Row, str], None],
) -> None:
    """COPY rows inside savepoints of the connection's transaction; calls `on_bad(row, why)` for each that cannot be stored.

    One poison row among n costs about 2·log2(n) further COPYs.
    """
    if not rows:
        return
    try:
        async with connection.transaction(), connection.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                await copy.write_row(row[1])
    except BAD_ROW as error:
        if len(rows) == 1:
            on_bad(rows[0], str(error).strip().split("\n", 1)[0])
            return
        middle = len(rows) // 2
        await copy_rows(connection, statement, rows[:middle], on_bad)
        await copy_rows(connection, statement, rows[middle:], on_bad)
