"""Samples as columns into the ledger: binary COPY straight in; staging only where a key is there already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import psycopg
from numpy.typing import NDArray
from psycopg import errors as pg

from outrider.contract.batch import Kind, Value
from outrider.runtime.copying import Row, copy_rows

POSTGRES_EPOCH_MS = 946_684_800_000
_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
# One row of a binary COPY: field count, then length and value of each field, big-endian (PostgreSQL docs, "COPY").
_ROW = np.dtype(
    [("fields", ">i2"), ("l1", ">i4"), ("series", ">i4"), ("l2", ">i4"), ("ts", ">i8"), ("l3", ">i4"), ("value", ">f8")]
)

COPY_NUMBERS = "COPY telemetry.sample (series_id, ts, value) FROM STDIN (FORMAT binary)"
TABLES = {"number": "sample", "boolean": "sample", "string": "sample_text", "json": "sample_json"}
TYPES = {"sample": "double precision", "sample_text": "text", "sample_json": "jsonb"}
LATE = "late_sample"
"""Where numbers go that come after those of their day were removed (delivery rule 17)."""

CREATE_STAGING = """
CREATE TEMP TABLE IF NOT EXISTS staging_{table} (n integer, fresh boolean, series_id integer, ts timestamptz, value {type})
ON COMMIT DELETE ROWS
"""
COPY_STAGING = "COPY pg_temp.staging_{table} FROM STDIN"
INSERT_FRESH = """
INSERT INTO telemetry.{table} (series_id, ts, value)
SELECT DISTINCT ON (series_id, ts) series_id, ts, value FROM pg_temp.staging_{table} WHERE fresh ORDER BY series_id, ts, n
ON CONFLICT (series_id, ts) DO NOTHING
"""
# A row that is not there now belongs to a message counted as stored before, which may add nothing.
CONFLICTS = """
SELECT s.n, t.value FROM pg_temp.staging_{table} s
LEFT JOIN telemetry.{table} t USING (series_id, ts)
WHERE t.value IS DISTINCT FROM s.value
"""


class SomeAreThere(Exception):
    """A row of a COPY has the key of a stored one."""


@dataclass(slots=True)
class Column:
    """Samples of one ledger table as parallel arrays.

    `message`: index of the message each sample belongs to; `series`: series ids; `ts`: epoch ms; `value`: float64 for
    numbers, objects else; `fresh`: False for samples of messages counted as stored before.
    """

    table: str
    message: NDArray[np.int64]
    series: NDArray[np.int32]
    ts: NDArray[np.int64]
    value: NDArray[Any]
    fresh: NDArray[np.bool_]

    def where(self, mask: NDArray[np.bool_]) -> Column:
        """The samples a mask selects."""
        return Column(
            self.table, self.message[mask], self.series[mask], self.ts[mask], self.value[mask], self.fresh[mask]
        )

    def __len__(self) -> int:
        return len(self.ts)


def numbers(values: Sequence[Value]) -> NDArray[np.float64]:
    """Float64 of JSON numbers and booleans; NaN for what is none or does not fit (a caller refuses those)."""
    try:
        found = np.array(values)
    except (ValueError, OverflowError):
        found = np.empty(0, dtype=object)
    if found.dtype.kind in "fiub":
        return found.astype(np.float64, copy=False)
    return np.array([_number(value) for value in values], dtype=np.float64)  # a text that looks like a number is none


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, int | float) else float("nan")
    except OverflowError:
        return float("nan")


def table_of(kind: Kind) -> str:
    """The ledger table of a kind of value."""
    return TABLES[kind]


async def store(
    connection: psycopg.AsyncConnection,
    column: Column,
    on_conflict: Callable[[int, Any], None],
    on_bad: Callable[[int, str], None],
    *,
    straight: bool,
) -> None:
    """Store a column in the connection's transaction.

    `straight`: numbers by COPY into the table itself; raises SomeAreThere where a key is there already, and the
    transaction must be begun anew without it.
    `on_conflict(i, stored)`: sample i differs from the stored value (None: it would add a row to a message that is
    counted as stored). `on_bad(i, why)`: sample i cannot be stored at all. Equal samples are duplicates and fine.
    """
    if column.table != "sample":
        await _through_staging(connection, column, np.arange(len(column)), on_conflict, on_bad)
        return
    if not straight:
        await _through_staging(connection, column, np.arange(len(column)), on_conflict, on_bad)
        return
    fresh = np.flatnonzero(column.fresh)
    if len(fresh):
        try:
            # No savepoint: it would cost every transaction two round trips and a transaction id for what is seldom.
            async with connection.cursor() as cursor, cursor.copy(COPY_NUMBERS) as copy:
                await copy.write(_binary(column, fresh))
        except pg.UniqueViolation as error:
            raise SomeAreThere from error
    stale = np.flatnonzero(~column.fresh)
    if len(stale):
        await _through_staging(connection, column, stale, on_conflict, on_bad)


def _binary(column: Column, rows: NDArray[np.int64]) -> bytes:
    # By series, so that the index is written in order; times of a series come in order mostly, and are left as they came.
    order = rows[np.argsort(column.series[rows], kind="stable")]
    out = np.empty(len(order), dtype=_ROW)
    out["fields"], out["l1"], out["l2"], out["l3"] = 3, 4, 8, 8
    out["series"] = column.series[order]
    out["ts"] = (column.ts[order] - POSTGRES_EPOCH_MS) * 1000
    out["value"] = column.value[order]
    return _SIGNATURE + out.tobytes() + _TRAILER


async def _through_staging(
    connection: psycopg.AsyncConnection,
    column: Column,
    rows: NDArray[np.int64],
    on_conflict: Callable[[int, Any], None],
    on_bad: Callable[[int, str], None],
) -> None:
    table = column.table
    names = {"table": table, "type": TYPES.get(table, TYPES["sample"])}

    def text(i: int) -> Any:
        value = column.value[i]
        return orjson.dumps(value).decode() if table == "sample_json" else value

    staged: list[Row] = []
    for i in rows.tolist():
        try:
            staged.append(
                (i, (i, bool(column.fresh[i]), int(column.series[i]), _timestamp(int(column.ts[i])), text(i)))
            )
        except (TypeError, ValueError) as error:  # orjson: a lone surrogate, a number out of range
            on_bad(i, str(error))
    await connection.execute(CREATE_STAGING.format(**names).encode())
    await copy_rows(connection, COPY_STAGING.format(**names), staged, lambda row, why: on_bad(row[0], why))
    await connection.execute(INSERT_FRESH.format(**names).encode())
    # The staging table is small and has no statistics: look every row up by the key, never scan the ledger.
    await connection.execute(b"SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off")
    for i, stored in await (await connection.execute(CONFLICTS.format(**names).encode())).fetchall():
        on_conflict(i, stored)
    await connection.execute(f"TRUNCATE pg_temp.staging_{table}".encode())


def _timestamp(ts_ms: int) -> str:
    seconds, milliseconds = divmod(ts_ms, 1000)
    return f"{np.datetime64(seconds, 's')}.{milliseconds:03d}+00"
