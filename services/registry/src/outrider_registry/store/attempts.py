"""Rate limits that hold over all replicas: at most so many attempts of a key in a time."""

from __future__ import annotations

import math
from datetime import datetime

import psycopg

from outrider.runtime.database import Database
from outrider_registry.errors import TooMany
from outrider_registry.store.transactions import of_platform

WINDOW_S = 900
# One at a time for each key, so that a burst cannot pass the count together.
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('outrider attempt ' || %s, 0))"
COUNT = """
SELECT count(*), extract(epoch FROM min(at) + %(window)s * interval '1 second' - now())
FROM (SELECT at FROM registry.attempt WHERE key = %(key)s AND at > now() - %(window)s * interval '1 second'
      ORDER BY at DESC LIMIT %(limit)s) newest
"""
ADD = "INSERT INTO registry.attempt (key, at) SELECT unnest(%s::text[]), statement_timestamp() RETURNING at"
FORGET = "DELETE FROM registry.attempt WHERE key = ANY(%s) AND at = %s"


class Attempt:
    """An attempt that has been counted; `forgive` takes it back."""

    def __init__(self, keys: list[str], at: datetime) -> None:
        self._keys = keys
        self._at = at

    async def forgive(self, connection: psycopg.AsyncConnection) -> None:
        """It went well: do not count it."""
        await connection.execute(FORGET, (self._keys, self._at))


async def admit(database: Database, *keys: str, limit: int, window_s: int = WINDOW_S) -> Attempt:
    """Count an attempt under each key (`name:ann`, `address:192.0.2.7`, `claim:…`) before it is made.

    Raises TooMany when one key had `limit` of them in the last `window_s` seconds; that attempt is not counted, so
    waiting helps.
    """
    async with of_platform(database) as connection:
        for key in sorted(keys):
            await connection.execute(LOCK, (key,))
            row = await (await connection.execute(COUNT, {"key": key, "window": window_s, "limit": limit})).fetchone()
            if row is not None and row[0] >= limit:
                wait_s = max(1, math.ceil(row[1]))
                raise TooMany(f"Too many attempts. Wait {_in_words(wait_s)}, then try again.", wait_s)
        row = await (await connection.execute(ADD, (sorted(keys),))).fetchone()
        assert row is not None
        return Attempt(sorted(keys), row[0])


def _in_words(seconds: int) -> str:
    return f"{seconds} s" if seconds < 120 else f"{math.ceil(seconds / 60)} minutes"
