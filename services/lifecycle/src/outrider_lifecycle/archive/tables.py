"""What is archived of each table: its columns as Parquet, how they are read from the database and put back."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from psycopg import sql

from outrider_lifecycle.context import Expiring

TIME = pa.timestamp("us", tz="UTC")
POSTGRES_EPOCH_US = 946_684_800_000_000
READ_ROWS = 20_000
_WORDS = ("device", "metric", "kind", "type", "level")
_TIMES = ("ts", "received_at")

OF_DAYS = """
SELECT {tenant}, (p.ts AT TIME ZONE 'UTC')::date, count(*) FROM {source}
WHERE p.ts >= %(start)s AND p.ts < %(end)s AND {tenant} <> ALL (%(but_not)s)
  AND (%(tenants)s::text[] IS NULL OR {tenant} = ANY (%(tenants)s))
GROUP BY 1, 2 ORDER BY 1, 2
"""
SELECT = "SELECT {columns} FROM {source} WHERE {tenant} = %(tenant)s AND p.ts >= %(start)s AND p.ts < %(end)s ORDER BY {order}"
SERIES = "SELECT id, device, metric, kind FROM telemetry.series WHERE tenant = %(tenant)s ORDER BY device, metric, kind"
COPY_NUMBERS = """
COPY (SELECT p.series_id, p.ts, p.value FROM telemetry.sample p JOIN telemetry.series s ON s.id = p.series_id
      WHERE s.tenant = %(tenant)s AND p.ts >= %(start)s AND p.ts < %(end)s ORDER BY p.series_id, p.ts)
TO STDOUT (FORMAT binary)
"""
# One row of a binary COPY: field count, then length and value of each field, big-endian (PostgreSQL docs, "COPY").
_ROW = np.dtype(
    [("fields", ">i2"), ("l1", ">i4"), ("series", ">i4"), ("l2", ">i4"), ("ts", ">i8"), ("l3", ">i4"), ("value", ">f8")]
)
_HEADER_BYTES = 19


@dataclass(frozen=True)
class Table:
    """A table of the database and of the schema `restored`. `columns`: name, Arrow type, and how it is read."""

    name: str
    columns: tuple[tuple[str, pa.DataType, str], ...]
    source: str
    tenant: str
    order: str

    @property
    def schema(self) -> pa.Schema:
        """Columns of a file."""
        return pa.schema([(name, type_) for name, type_, _ in self.columns])

    @property
    def restored(self) -> str:
        """Name of the table in the schema `restored`."""
        return self.name.split(".")[1]

    async def days(self, connection: psycopg.AsyncConnection, expiring: Expiring) -> list[tuple[str, date, int]]:
        """(tenant, day, rows) of what expires."""
        statement = OF_DAYS.format(tenant=self.tenant, source=self.source)
        tenants = list(expiring.tenants) if expiring.tenants is not None else None
        arguments = {"start": midnight(expiring.start), "end": midnight(expiring.end), "tenants": tenants}
        arguments["but_not"] = list(expiring.but_not)
        return await (await connection.execute(statement.encode(), arguments)).fetchall()

    async def parts(
        self, connection: psycopg.AsyncConnection, tenant: str, day: date, size: int
    ) -> AsyncIterator[pa.Table]:
        """All rows of a tenant's day, `size` at a time, as this transaction sees them."""
        span = {"tenant": tenant, "start": midnight(day), "end": midnight(day + timedelta(days=1))}
        if self is SAMPLE:
            async for part in _numbers(connection, span, size):
                yield part
            return
        columns = ", ".join(expression for _, _, expression in self.columns)
        statement = SELECT.format(columns=columns, source=self.source, tenant=self.tenant, order=self.order)
        async with connection.cursor("archive") as cursor:
            await cursor.execute(statement.encode(), span)
            rows: list[tuple[Any, ...]] = []
            while found := await cursor.fetchmany(min(READ_ROWS, size - len(rows))):
                rows += found
                if len(rows) >= size:
                    yield self.table(rows)
                    rows = []
            if rows:
                yield self.table(rows)

    def table(self, rows: Sequence[tuple[Any, ...]]) -> pa.Table:
        """Rows in the order of the columns."""
        columns = list(zip(*rows, strict=True)) or [()] * len(self.columns)
        arrays = [pa.array(column, type_) for column, (_, type_, _) in zip(columns, self.columns, strict=True)]
        return pa.Table.from_arrays(arrays, schema=self.schema)

    async def restore(self, connection: psycopg.AsyncConnection, rows: pa.Table, tenant: str, archive: str) -> None:
        """Put the rows of a file into the schema `restored`."""
        names = [name for name, _, _ in self.columns]
        statement = sql.SQL("COPY restored.{} (tenant, archive, {}) FROM STDIN").format(
            sql.Identifier(self.restored), sql.SQL(", ").join(map(sql.Identifier, names))
        )
        async with connection.cursor() as cursor, cursor.copy(statement) as copy:
            for batch in rows.to_batches(READ_ROWS):
                for row in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
                    await copy.write_row((tenant, archive, *row))


def _of_series(name: str, type_: pa.DataType, value: str) -> Table:
    words = tuple((word, pa.string(), f"s.{word}") for word in ("device", "metric", "kind"))
    return Table(
        f"telemetry.{name}",
        (*words, ("ts", TIME, "p.ts"), ("value", type_, value)),
        f"telemetry.{name} p JOIN telemetry.series s ON s.id = p.series_id",
        "s.tenant",
        "p.series_id, p.ts",
    )


def _of_records(name: str, label: str) -> Table:
    columns = (
        ("device", pa.string(), "p.device"),
        ("ts", TIME, "p.ts"),
        (label, pa.string(), f"p.{label}"),
        ("message", pa.string(), "p.message"),
        ("fields", pa.string(), "p.fields::text"),
        ("boot", pa.int64(), "p.boot"),
        ("seq", pa.int64(), "p.seq"),
        ("item", pa.int32(), "p.item"),
        ("received_at", TIME, "p.received_at"),
    )
    return Table(name, columns, f"{name} p", "p.tenant", "p.device, p.ts, p.received_at, p.boot, p.seq, p.item")


SAMPLE = _of_series("sample", pa.float64(), "p.value")
TABLES = {
    table.name: table
    for table in (
        SAMPLE,
        _of_series("sample_text", pa.string(), "p.value"),
        _of_series("sample_json", pa.string(), "p.value::text"),
        _of_records("telemetry.event", "type"),
        _of_records("logs.line", "level"),
    )
}
"""What is archived. Rollups, positions and trips are not: they are made of what is."""


async def _numbers(connection: psycopg.AsyncConnection, span: dict[str, Any], size: int) -> AsyncIterator[pa.Table]:
    # The ledger's bulk: binary COPY and numpy take a fifth of the time that rows as Python objects do.
    series = await (await connection.execute(SERIES, span)).fetchall()
    ids = np.array([id_ for id_, *_ in series], dtype=np.int32)
    order = np.argsort(ids)
    words = [pa.array([row[n] for row in series], pa.string()) for n in (1, 2, 3)]

    def table(data: bytes | bytearray) -> pa.Table:
        found = np.frombuffer(bytes(data), dtype=_ROW)
        which = pa.array(order[np.searchsorted(ids[order], found["series"].astype(np.int32))])
        ts = pa.array(found["ts"].astype(np.int64) + POSTGRES_EPOCH_US).cast(TIME)
        value = pa.array(found["value"].astype(np.float64))
        return pa.Table.from_arrays([*(word.take(which) for word in words), ts, value], schema=SAMPLE.schema)

    buffer = bytearray()
    skip = _HEADER_BYTES
    async with connection.cursor() as cursor, cursor.copy(COPY_NUMBERS, span) as copy:
        async for data in copy:
            buffer += data
            if skip and len(buffer) >= skip:
                del buffer[:skip]
                skip = 0
            if len(buffer) >= size * _ROW.itemsize and not skip:
                yield table(buffer[: size * _ROW.itemsize])
                del buffer[: size * _ROW.itemsize]
    rows = len(buffer) // _ROW.itemsize  # what is left is the trailer
    if rows:
        yield table(buffer[: rows * _ROW.itemsize])


def midnight(day: date) -> datetime:
    """The beginning of a day, UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def encode(rows: pa.Table, tenant: str, day: date, table: str) -> bytes:
    """A Parquet file of these rows, which says what it is."""
    told = {
        "outrider.version": "1",
        "outrider.tenant": tenant,
        "outrider.day": day.isoformat(),
        "outrider.table": table,
    }
    names = rows.schema.names
    sink = io.BytesIO()
    pq.write_table(
        rows.replace_schema_metadata(told),
        sink,
        compression="zstd",
        use_dictionary=[name for name in names if name in _WORDS],
        column_encoding={name: "DELTA_BINARY_PACKED" for name in names if name in _TIMES},
    )
    return sink.getvalue()


def decode(data: bytes) -> pa.Table:
    """The rows of a Parquet file. Raises pa.ArrowException for what is none."""
    return pq.read_table(pa.BufferReader(data))


def beyond(rows: pa.Table, there: Counter[tuple[Any, ...]]) -> pa.Table:
    """Those rows that are not in the multiset `there`, from which the others are taken."""
    new = []
    for row in zip(*(column.to_pylist() for column in rows.columns), strict=True):
        is_new = there[row] <= 0
        there[row] -= not is_new
        new.append(is_new)
    return rows.filter(pa.array(new, pa.bool_()))


def counted(tables: Iterable[pa.Table]) -> Counter[tuple[Any, ...]]:
    """The rows of these tables as a multiset."""
    found: Counter[tuple[Any, ...]] = Counter()
    for table in tables:
        found.update(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return found


def without(rows: pa.Table, devices: Sequence[str]) -> pa.Table:
    """The rows of other devices."""
    return rows.filter(pc.invert(pc.is_in(rows["device"], value_set=pa.array(devices, pa.string()))))


def only(rows: pa.Table, devices: Sequence[str]) -> pa.Table:
    """The rows of these devices."""
    return rows.filter(pc.is_in(rows["device"], value_set=pa.array(devices, pa.string())))
