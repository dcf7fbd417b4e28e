"""The map from (device, shape) to series ids, cached per device, with the limit on metrics a device may have."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from outrider.contract import limits
from outrider.contract.batch import Header, Shape
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


DEVICE_MAX_SHAPES = 64
"""Shapes remembered of a device; one that sends ever new ones starts over."""


@dataclass(slots=True)
class _Device:
    """What is known of a device: the id of each (metric, kind), and the ids of the runs of shapes it sent."""

    ids: dict[tuple[str, str], int] = field(default_factory=dict)
    shapes: dict[Shape, NDArray[np.int32]] = field(default_factory=dict)
    size: int = 0


class SeriesMap:
    """Ids of series, created when first seen. Least recently used devices leave the cache first."""

    def __init__(self, database: Database, capacity: int) -> None:
        self._database = database
        self._capacity = capacity
        self._cache: OrderedDict[tuple[str, str], _Device] = OrderedDict()
        self.size = 0

    def forget(self) -> None:
        """Forget every id: the ledger is another one."""
        self._cache.clear()
        self.size = 0

    async def of(self, messages: Sequence[tuple[Header, Shape]]) -> list[NDArray[np.int32]]:
        """For each message the series id of each run of its shape; REFUSED for one more metric than its device may
        have. Raises Transient."""
        found: list[NDArray[np.int32] | None] = []
        unknown: dict[SeriesKey, None] = {}
        for header, shape in messages:
            device = self._cache.get((header.tenant, header.device))
            ids = device.shapes.get(shape) if device is not None else None
            found.append(ids)
            if ids is None:
                unknown.update(
                    dict.fromkeys((header.tenant, header.device, metric, kind) for metric, kind, _ in shape.runs)
                )
        ids_of = await self._ids(unknown) if unknown else {}
        complete: list[NDArray[np.int32]] = []
        for ids, (header, shape) in zip(found, messages, strict=True):
            key = (header.tenant, header.device)
            if ids is None:
                ids = np.array([ids_of[*key, metric, kind] for metric, kind, _ in shape.runs], dtype=np.int32)
                self._remember_shape(key, shape, ids)
            if key in self._cache:
                self._cache.move_to_end(key)
            complete.append(ids)
        self._shrink()
        return complete

    async def _ids(self, keys: Iterable[SeriesKey]) -> dict[SeriesKey, int]:
        found: dict[SeriesKey, int] = {}
        missing: list[SeriesKey] = []
        for key in keys:
            device = self._cache.get(key[:2])
            known = device.ids.get(key[2:]) if device is not None else None
            if known is None:
                missing.append(key)
            else:
                found[key] = known
        if missing:
            created = await self._find_or_create(missing)
            found |= created
            for key, id_ in created.items():
                if id_ != REFUSED:  # a device full today may have room after an operator removed metrics
                    device = self._cache.setdefault(key[:2], _Device())
                    device.ids[key[2:]] = id_
                    device.size += 1
                    self.size += 1
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

    def _remember_shape(self, key: tuple[str, str], shape: Shape, ids: NDArray[np.int32]) -> None:
        device = self._cache.get(key)
        if device is None or REFUSED in ids:
            return
        if len(device.shapes) >= DEVICE_MAX_SHAPES:
            self.size -= device.size - len(device.ids)
            device.size = len(device.ids)
            device.shapes.clear()
        device.shapes[shape] = ids
        device.size += len(ids)
        self.size += len(ids)

    def _shrink(self) -> None:
        while self.size > self._capacity and self._cache:
            _, dropped = self._cache.popitem(last=False)
            self.size -= dropped.size


def _columns(keys: list[SeriesKey]) -> dict[str, list[str]]:
    return {name: [key[i] for key in keys] for i, name in enumerate(("tenant", "device", "metric", "kind"))}
