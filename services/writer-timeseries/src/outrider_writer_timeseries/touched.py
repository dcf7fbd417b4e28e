"""The touch log: which five minutes of which series a transaction changed; the rollups follow it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

BUCKET_S = 300
BUCKET_MS = BUCKET_S * 1000
INSERT_ONE = "INSERT INTO telemetry.touched (bucket, series) VALUES (to_timestamp(%s), %b)"
# One array for all five minutes of a transaction, cut apart by the server.
INSERT = """
INSERT INTO telemetry.touched (bucket, series)
SELECT to_timestamp(k.bucket), (%(series)b)[k.first : k.last]
FROM unnest(%(bucket)s::bigint[], %(first)s::integer[], %(last)s::integer[]) AS k(bucket, first, last)
"""
_INT4, _INT4_ARRAY = 23, 1007
_ELEMENT = np.dtype([("length", ">i4"), ("value", ">i4")])


@dataclass(frozen=True, slots=True)
class _Integers:
    """Goes to PostgreSQL as integer[] in its binary format: as text it would cost the writer three times as much."""

    values: NDArray[np.int32]


class _IntegersDumper(Dumper):
    oid = _INT4_ARRAY
    format = Format.BINARY

    def dump(self, obj: _Integers) -> Buffer:
        # Dimensions, no NULLs, type of the elements, their number, the first one's index (PostgreSQL: array_recv).
        head = np.array([1, 0, _INT4, len(obj.values), 1], dtype=">i4")
        elements = np.empty(len(obj.values), dtype=_ELEMENT)
        elements["length"] = 4
        elements["value"] = obj.values
        return head.tobytes() + elements.tobytes()


psycopg.adapters.register_dumper(_Integers, _IntegersDumper)


async def note(connection: psycopg.AsyncConnection, series: NDArray[np.int32], ts: NDArray[np.int64]) -> None:
    """Add the five minutes of these samples (`ts`: epoch ms) to the log, each with its distinct series."""
    if not len(ts):
        return
    first, last = int(ts.min()) // BUCKET_MS, int(ts.max()) // BUCKET_MS
    if first == last:  # nearly always
        await connection.execute(INSERT_ONE, (first * BUCKET_S, _Integers(np.unique(series))))
        return
    keys = np.unique(((ts // BUCKET_MS - first) << 32) | series)
    distinct = (keys & 0xFFFFFFFF).astype(np.int32)
    offsets, at = np.unique(keys >> 32, return_index=True)
    await connection.execute(
        INSERT,
        {
            "series": _Integers(distinct),
            "bucket": _array(((offsets + first) * BUCKET_S).tolist()),
            "first": _array((at + 1).tolist()),
            "last": _array([*at[1:].tolist(), len(keys)]),
        },
    )


def _array(numbers: list[int]) -> str:
    return "{" + ",".join(map(str, numbers)) + "}"
