"""What is gone already: rows that come after those of their day were removed are told apart from live ones (delivery rule 17).

Lifecycle moves a horizon under a lock before it removes anything. Whoever stores old rows takes that lock shared, so until
its transaction ends no horizon moves. Rows of the last hours need neither: no horizon is younger.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date

import psycopg

RECENT_MS = 12 * 3_600_000
"""What is younger has no horizon before it, which is a midnight at least 24 hours ago by the database's clock; half a day is for
clocks that differ."""

HORIZONS = "SELECT name, tenant, before FROM runtime.horizons(%s)"
NOTE = """
INSERT INTO runtime.expired (name, tenant, day)
SELECT * FROM unnest(%s::text[], %s::text[], %s::date[]) ORDER BY 1, 2, 3 ON CONFLICT DO NOTHING
"""

Expired = tuple[str, str, date]
"""(table, tenant, day)"""


class Horizons:
    """Per table and tenant the time before which rows are gone, as it stays until the end of the transaction."""

    def __init__(self, before_ms: dict[tuple[str, str], int]) -> None:
        self._before_ms = before_ms

    def __bool__(self) -> bool:
        return bool(self._before_ms)

    def before_ms(self, name: str, tenant: str) -> int:
        """Epoch ms; 0 where nothing is gone."""
        found = self._before_ms.get((name, tenant))
        return self._before_ms.get((name, "*"), 0) if found is None else found


async def ask(connection: psycopg.AsyncConnection, names: Sequence[str]) -> Horizons:
    """The horizons of these tables (schema.table); none of them moves before this transaction ends."""
    rows = await (await connection.execute(HORIZONS, (list(names),))).fetchall()
    return Horizons({(name, tenant): int(before.timestamp() * 1000) for name, tenant, before in rows})


async def note(connection: psycopg.AsyncConnection, expired: Collection[Expired]) -> None:
    """Say that rows were stored although they are before a horizon: lifecycle archives and removes them again."""
    if expired:
        names, tenants, days = zip(*sorted(expired), strict=True)
        await connection.execute(NOTE, (list(names), list(tenants), list(days)))
