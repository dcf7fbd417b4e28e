"""The map from (device, shape) to series ids, cached per device, with the limit on metrics a device may have."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from outrider.contract import limits
from outrider.contract.batch import Header, Kind, Shape
from outrider.runtime.database import Database

SeriesKey = tuple[str, str, str, Kind]
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


DEVICE_MAX_SHAPES = 16
"""Shapes remembered of a device; those of one that sends ever new combinations of its metrics become one."""
SHAPE_SIZE = 32
"""What a remembered shape takes beside its ids, in ids (about 8 bytes each)."""


class _Device(dict[Shape, NDArray[np.int32]]):
    """The ids of the runs of the shapes a device sent. An id takes four bytes: a fleet has a million series."""

    def known(self) -> dict[tuple[str, Kind], int]:
        """The id of each (metric, kind), from all shapes."""
        return {
            (metric, kind): id_
            for shape, ids in self.items()
            for (metric, kind, _), id_ in zip(shape.runs, ids.tolist(), strict=True)
        }

    @property
    def size(self) -> int:
        """In ids."""
        return sum(SHAPE_SIZE + len(ids) for ids in self.values())


class SeriesMap:
    """Ids of series, created when first seen. Least recently used devices leave the cache first."""

    def __init__(self, database: Database, capacity: int) -> None:
        self._database = database
        self._capacity = capacity
        self._cache: OrderedDict[tuple[str, str], _Device] = OrderedDict()
        self.size = 0

    def forget(self) -> None:
        """Forget every id: the ledger is another one. What is looked up at this moment is not remembered either."""
        self._cache = OrderedDict()
        self.size = 0

    async def of(self, messages: Sequence[tuple[Header, Shape]]) -> list[NDArray[np.int32]]:
        """For each message the series id of each run of its shape; REFUSED for one more metric than its device may
        have. Raises Transient."""
        found: list[NDArray[np.int32] | None] = []
        unknown: dict[tuple[str, str], list[Shape]] = {}
        for header, shape in messages:
            key = (header.tenant, header.device)
            device = self._cache.get(key)
            ids = device.get(shape) if device is not None else None
            found.append(ids)
            if ids is None:
                unknown.setdefault(key, []).append(shape)
            else:
                self._cache.move_to_end(key)
        if unknown:
            new = await self._ids(unknown)
            for i, (header, shape) in enumerate(messages):
                if found[i] is None:
                    found[i] = new[header.tenant, header.device][shape]
        return [ids for ids in found if ids is not None]

    async def _ids(self, unknown: dict[tuple[str, str], list[Shape]]) -> dict[tuple[str, str], _Device]:
        """The ids of these shapes; remembered where none is refused."""
        cache = self._cache
        known = {key: self._cache[key].known() if key in self._cache else {} for key in unknown}
        missing = {
            (*key, metric, kind): None
            for key, shapes in unknown.items()
            for shape in shapes
            for metric, kind, _ in shape.runs
            if (metric, kind) not in known[key]
        }
        if missing:
            for (tenant, name, metric, kind), id_ in (await self._find_or_create(list(missing))).items():
                known[tenant, name][metric, kind] = id_
        found: dict[tuple[str, str], _Device] = {}
        for key, shapes in unknown.items():
            found[key] = device = _Device()
            for shape in shapes:
                device[shape] = np.array([known[key][run[:2]] for run in shape.runs], dtype=np.int32)
            if cache is self._cache:
                self._remember(key, {shape: ids for shape, ids in device.items() if REFUSED not in ids})
        return found

    def _remember(self, key: tuple[str, str], shapes: dict[Shape, NDArray[np.int32]]) -> None:
        # A device full today may have room after an operator removed metrics: nothing refused is remembered.
        device = self._cache.setdefault(key, _Device())
        self.size -= device.size
        device.update(shapes)
        if len(device) > DEVICE_MAX_SHAPES:
            known = device.known()
            device.clear()
            device[Shape(tuple([(metric, kind, 1) for metric, kind in known]))] = np.array(
                list(known.values()), dtype=np.int32
            )
        self.size += device.size
        self._cache.move_to_end(key)
        while self.size > self._capacity and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self.size -= dropped.size

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


def _columns(keys: list[SeriesKey]) -> dict[str, list[str]]:
    return {name: [key[i] for key in keys] for i, name in enumerate(("tenant", "device", "metric", "kind"))}
