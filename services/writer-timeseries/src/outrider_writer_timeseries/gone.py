"""Which samples come after those of their day were removed (delivery rule 17)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import psycopg
from numpy.typing import NDArray

from outrider.contract.batch import Header
from outrider.runtime import horizons
from outrider_writer_timeseries.samples import TYPES

Masks = dict[str, NDArray[np.bool_]]
"""Per table (without its schema) which samples of the transaction are before its horizon; no table where none is."""


async def look(
    connection: psycopg.AsyncConnection,
    headers: Sequence[Header],
    message: NDArray[np.int64],
    ts: NDArray[np.int64],
    now_ms: int,
) -> Masks:
    """`message[i]` and `ts[i]` (epoch ms) are of sample i, `now_ms` is the database's clock.

    What is told holds until the end of the transaction: no horizon moves before.
    """
    if not len(ts) or int(ts.min()) >= now_ms - horizons.RECENT_MS:
        return {}  # nearly always: it costs nothing
    found = await horizons.ask(connection, [f"telemetry.{table}" for table in TYPES])
    masks: Masks = {}
    for table in TYPES if found else ():
        before = [found.before_ms(f"telemetry.{table}", header.tenant) for header in headers]
        mask = ts < np.array(before, dtype=np.int64)[message]
        if mask.any():
            masks[table] = mask
    return masks


async def note(
    connection: psycopg.AsyncConnection,
    table: str,
    headers: Sequence[Header],
    message: NDArray[np.int64],
    ts: NDArray[np.int64],
) -> None:
    """Say that these samples are stored in the table although they are before its horizon: lifecycle removes them again."""
    found = {
        (f"telemetry.{table}", headers[of].tenant, datetime.fromtimestamp(at / 1000, UTC).date())
        for of, at in zip(message.tolist(), ts.tolist(), strict=True)
    }
    await horizons.note(connection, found)
