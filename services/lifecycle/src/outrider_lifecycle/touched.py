"""Reads a touch log: which buckets of which series changed, without reading any row twice into memory."""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np
import psycopg
from numpy.typing import NDArray

from outrider_lifecycle.context import Lifecycle

PAGE_BYTES = 8 * 1024 * 1024
PAGE_ROWS = 5_000
# pg_column_size tells the size of an array that is stored apart without fetching it.
PAGE = """
COPY (
    SELECT id, extract(epoch FROM bucket)::bigint, series FROM (
        SELECT *, sum(pg_column_size(series)) OVER (ORDER BY bucket, id) - pg_column_size(series) AS bytes_before FROM (
            SELECT id, bucket, series FROM {table}
            WHERE bucket < to_timestamp({before}) AND id <= {last_id} AND (bucket, id) > (to_timestamp({bucket}), {id})
            ORDER BY bucket, id LIMIT {rows}) AS page) AS measured
    WHERE bytes_before < {bytes} ORDER BY bucket, id
) TO STDOUT (FORMAT binary)
"""
_SIGNATURE_BYTES = 19
# Field count, then length and value of id and bucket, the array's length, its five header fields (PostgreSQL: array_send).
_ROW = struct.Struct(">hiqiqi5i")
_EMPTY_ROW = struct.Struct(">hiqiqi3i")
_THREE_FIELDS = b"\0\3"
BEGINNING = (-(10**10), 0)


@dataclass(slots=True)
class Touched:
    """Distinct pairs of bucket (start, epoch seconds) and series id, by bucket; `ids`: the rows of the log they are of."""

    ids: list[int]
    bucket: NDArray[np.int64]
    series: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.series)


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass over a log does: buckets that begin before `before_s`, rows up to `last_id`."""

    table: str
    before_s: int
    last_id: int


async def gather(lifecycle: Lifecycle, of: Pass, enough: int) -> Touched:
    """Whole buckets, oldest first, until they are `enough` pairs; empty when there are none. Raises Transient.

    All rows of a bucket come together, however many transactions wrote them, so that each series of it is rolled up once.
    """
    ids: list[int] = []
    found: list[tuple[int, NDArray[np.int32]]] = []
    pending: list[NDArray[np.int32]] = []
    bucket: int | None = None
    total = 0
    async with aclosing(_rows(lifecycle, of)) as rows:
        async for id_, of_bucket, series in rows:
            if of_bucket != bucket:
                if bucket is not None:
                    found.append((bucket, np.unique(np.concatenate(pending))))
                    total += len(found[-1][1])
                    if total >= enough:
                        return _joined(ids, found)
                bucket, pending = of_bucket, []
            ids.append(id_)
            pending.append(series)
            if len(pending) > 256:
                pending = [np.unique(np.concatenate(pending))]
    if bucket is not None:
        found.append((bucket, np.unique(np.concatenate(pending))))
    return _joined(ids, found)


def _joined(ids: list[int], found: list[tuple[int, NDArray[np.int32]]]) -> Touched:
    if not found:
        return Touched(ids, np.zeros(0, np.int64), np.zeros(0, np.int32))
    buckets = np.repeat([bucket for bucket, _ in found], [len(series) for _, series in found])
    return Touched(ids, buckets, np.concatenate([series for _, series in found]))


async def _rows(lifecycle: Lifecycle, of: Pass) -> AsyncGenerator[tuple[int, int, NDArray[np.int32]], None]:
    bucket, id_ = BEGINNING
    while True:
        async with lifecycle.transaction() as connection:
            page = await _page(connection, of, bucket, id_)
        for id_, bucket, series in page:
            yield id_, bucket, series
        if not page:
            return


async def _page(
    connection: psycopg.AsyncConnection, of: Pass, bucket: int, id_: int
) -> list[tuple[int, int, NDArray[np.int32]]]:
    statement = PAGE.format(
        table=of.table,
        before=of.before_s,
        last_id=of.last_id,
        bucket=bucket,
        id=id_,
        rows=PAGE_ROWS,
        bytes=PAGE_BYTES,
    )
    async with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        raw = b"".join([bytes(block) async for block in copy])
    rows: list[tuple[int, int, NDArray[np.int32]]] = []
    at = _SIGNATURE_BYTES
    while True:
        if raw[at : at + 2] != _THREE_FIELDS:
            return rows
        _, _, id_, _, bucket, _, dimensions, *_ = _EMPTY_ROW.unpack_from(raw, at)
        if dimensions == 0:
            rows.append((id_, bucket, np.zeros(0, np.int32)))
            at += _EMPTY_ROW.size
            continue
        count = _ROW.unpack_from(raw, at)[9]
        at += _ROW.size
        elements = np.frombuffer(raw, ">i4", 2 * count, at)  # length, value, length, value …
        rows.append((id_, bucket, elements[1::2].astype(np.int32)))
        at += 8 * count
