"""The map from (device, metric, kind) to series id, cached per device, with the limit on metrics a device may have."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from outrider.contract import limits
from outrider.runtime.database import Database

SeriesKey = tuple[str, str, str, str]
"""(tenant, device, metric, kind)"""

REFUSED = 0
"""Stands for the id of a series that its device may not have: it has DEVICE_MAX_METRICS distinct metrics already."""

FIND = """
SELECT s.tenant, s.device, s.metric, s.kind, s.id
FROM unnest(%(tenant)s::text[], %(device)s::text[], %(metric)s::text[], %(kind)s::text[]) AS k(tenant, device, metric, kind)
JOIN telemetry.series s USING (tenant, device, metric, kind)
"""
METRICS = """
SELECT s.tenant, s.device, s.metric FROM telemetry.series s
WHERE (s.tenant, s.device) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
"""
CREATE = """
INSERT INTO telemetry.series (tenant, device, metric, kind)
SELECT * FROM unnest(%(tenant)s::text[], %(device)s::text[], %(metric)s::text[], %(kind)s::text[])
ORDER BY 1, 2, 3, 4
ON CONFLICT DO NOTHING
"""


class SeriesMap:
    """Ids of series, created when first seen. Least recently used devices leave the cache first."""

    def __init__(self, database: Database, capacity: int) -> None:
        self._database = database
        self._capacity = capacity
        self._cache: OrderedDict[tuple[str, str], dict[tuple[str, str], int]] = OrderedDict()
        self.size = 0

    def forget(self) -> None:
        """Forget every id: the ledger is another one."""
        self._cache.clear()
        self.size = 0

    async def ids(self, keys: Iterable[SeriesKey]) -> dict[SeriesKey, int]:
        """The id of each series; REFUSED for one more metric than its device may have. Raises Transient."""
        found: dict[SeriesKey, int] = {}
        missing: list[SeriesKey] = []
        for key in keys:
            device = self._cache.get(key[:2])
            known = device.get(key[2:]) if device is not None else None
            if known is None:
                missing.append(key)
            else:
                found[key] = known
        if missing:
            created = await self._find_or_create(missing)
            found |= created
            self._remember(created)
        for device_key in {key[:2] for key in found}:
            if device_key in self._cache:
                self._cache.move_to_end(device_key)
        return found

    async def _find_or_create(self, keys: list[SeriesKey]) -> dict[SeriesKey, int]:
        async with self._database.transaction() as connection:
            found = {
                (tenant, device, metric, kind): int(id_)
                for tenant, device, metric, kind, id_ in await (
                    await connection.execute(FIND, _columns(keys))
                ).fetchall()
            }
            new = [key for key in keys if key not in found]
            if not new:
                return found
            devices = sorted({key[:2] for key in new})
            cursor = await connection.execute(METRICS, ([t for t, _ in devices], [d for _, d in devices]))
            metrics: dict[tuple[str, str], set[str]] = {device: set() for device in devices}
            for tenant, device, metric in await cursor.fetchall():
                metrics[tenant, device].add(metric)
            allowed: list[SeriesKey] = []
            for key in new:
                known = metrics[key[:2]]
                if key[2] in known or len(known) < limits.DEVICE_MAX_METRICS:
                    known.add(key[2])
                    allowed.append(key)
            if allowed:
                await connection.execute(CREATE, _columns(allowed))
                cursor = await connection.execute(FIND, _columns(allowed))
                found |= {(t, d, m, k): int(id_) for t, d, m, k, id_ in await cursor.fetchall()}
        return {key: found.get(key, REFUSED) for key in keys}

    def _remember(self, found: dict[SeriesKey, int]) -> None:
        for key, id_ in found.items():
            if id_ == REFUSED:
                continue  # a device full today may have room after an operator removed metrics
            device = self._cache.setdefault(key[:2], {})
            if key[2:] not in device:
                device[key[2:]] = id_
                self.size += 1
        while self.size > self._capacity and self._cache:
            _, dropped = self._cache.popitem(last=False)
            self.size -= len(dropped)


def _columns(keys: list[SeriesKey]) -> dict[str, list[str]]:
    return {name: [key[i] for key in keys] for i, name in enumerate(("tenant", "device", "metric", "kind"))}
