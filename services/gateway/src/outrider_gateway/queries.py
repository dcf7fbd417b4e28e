"""What the query routes work with: the store, the cache, and who has been noted as a reader of positions."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from prometheus_client import Counter, Histogram

from outrider.runtime.database import Database
from outrider.runtime.metrics import SECONDS as BUCKETS
from outrider_gateway import changes as hearing
from outrider_gateway.access import Principal
from outrider_gateway.cache import Cache
from outrider_gateway.changes import Changes
from outrider_gateway.query.store import Store
from outrider_gateway.settings import Settings

ASKED = Counter(
    "outrider_gateway_queries", "Questions answered, by route and the tier they were read from", ["route", "tier"]
)
SECONDS = Histogram("outrider_gateway_query_seconds", "Time until the first rows were read", ["route"], buckets=BUCKETS)
ROWS = Counter("outrider_gateway_query_rows", "Rows in answers, by route", ["route"])

POSITION = frozenset({"lat", "lon"})
"""Metrics that say where somebody was: reading them is in the audit."""
NOTED_S = 600.0
NOTED_MAX = 50_000


class Queries:
    """Built once, beside the uploads."""

    def __init__(self, settings: Settings, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database_url = settings.database_url
        self._name = database.application_name
        self._clock = clock
        self._noted: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self.store = Store(database, settings.gateway_queries_at_once, settings.gateway_query_timeout_s)
        self.changes = Changes()
        ttl_s = {
            "status": settings.gateway_cache_status_s,
            "recent": settings.gateway_cache_recent_s,
            "aggregates": settings.gateway_cache_aggregates_s,
        }
        self.cache = Cache(self.changes, ttl_s, settings.gateway_cache_url, settings.gateway_cache_max_bytes)

    async def listen(self) -> None:
        """Hear of changes until cancelled; while it cannot, nothing is cached."""
        try:
            await hearing.listen(self._database_url, self._name, self.changes)
        finally:
            await asyncio.shield(self.cache.close())

    async def note_read(self, who: Principal, object_: str) -> None:
        """Whoever reads where a device (`device:ID`) or the fleet (`tenant:NAME`) was is in the audit, once an hour."""
        key = (who.tenant, who.actor, object_)
        if self._noted.get(key, float("-inf")) > self._clock():
            return
        await self.store.note_read(who.tenant, who.actor, object_, who.address)
        self._noted[key] = self._clock() + NOTED_S
        self._noted.move_to_end(key)
        if len(self._noted) > NOTED_MAX:
            self._noted.popitem(last=False)


def count(route: str, tier: str, rows: int, started: float) -> None:
    """Note an answer in the metrics; `started` by time.perf_counter()."""
    ASKED.labels(route, tier).inc()
    SECONDS.labels(route).observe(time.perf_counter() - started)
    ROWS.labels(route).inc(rows)
