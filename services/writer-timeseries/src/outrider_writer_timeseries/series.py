"""The map from (device, shape) to series ids, cached per device, with the limit on metrics a device may have."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence

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


DEVICE_MAX_SHAPES = 8
"""Shapes remembered of a device; one that sends more combinations of its metrics is looked up metric by metric."""
# What things take in memory, in units of about 8 bytes.
DEVICE_SIZE, SHAPE_SIZE, RUN_SIZE, METRIC_SIZE = 40, 40, 24, 24


class _Device:
    """The ids of the runs of the shapes a device sent (four bytes an id: a fleet has a million series), or of each of
    its metrics where it sends ever new shapes."""

    __slots__ = ("metrics", "shapes")

    def __init__(self) -> None:
        self.shapes: dict[Shape, NDArray[np.int32]] = {}
        self.metrics: dict[tuple[str, Kind], int] | None = None

    def ids(self, shape: Shape) -> NDArray[np.int32] | None:
        """The ids of the runs of this shape, None where one is not known."""
        if self.metrics is None:
            return self.shapes.get(shape)
        ids = [self.metrics.get((metric, kind)) for metric, kind, _ in shape.runs]
        return None if None in ids else np.array(ids, dtype=np.int32)

    def known(self) -> dict[tuple[str, Kind], int]:
        """The id of each metric and kind."""
        if self.metrics is not None:
            return dict(self.metrics)
        return {
            (metric, kind): id_
            for shape, ids in self.shapes.items()
            for (metric, kind, _), id_ in zip(shape.runs, ids.tolist(), strict=True)
        }


class SeriesMap:
    """Ids of series, created when first seen. Least recently used devices leave the cache first."""

    def __init__(self, database: Database, capacity: int) -> None:
        self._database = database
        self._capacity = capacity
        self.forget()

    def forget(self) -> None:
        """Forget every id: the ledger is another one. What is looked up at this moment is not remembered either."""
        self._cache: OrderedDict[tuple[str, str], _Device] = OrderedDict()
        self._holders: Counter[Shape] = Counter()
        self.size = 0

    async def of(self, messages: Sequence[tuple[Header, Shape]]) -> list[NDArray[np.int32]]:
        """For each message the series id of each run of its shape; REFUSED for one more metric than its device may
        have. Raises Transient."""
        found: list[NDArray[np.int32] | None] = []
        unknown: dict[tuple[str, str], set[Shape]] = {}
        for header, shape in messages:
            key = (header.tenant, header.device)
            device = self._cache.get(key)
            ids = device.ids(shape) if device is not None else None
            found.append(ids)
            if ids is None:
                unknown.setdefault(key, set()).add(shape)
            else:
                self._cache.move_to_end(key)
        if unknown:
            new = await self._look_up(unknown)
            for i, (header, shape) in enumerate(messages):
                if found[i] is None:
                    found[i] = new[header.tenant, header.device, shape]
        return [ids for ids in found if ids is not None]

    async def _look_up(
        self, unknown: Mapping[tuple[str, str], Iterable[Shape]]
    ) -> dict[tuple[str, str, Shape], NDArray[np.int32]]:
        cache = self._cache
        known = {key: cache[key].known() if key in cache else {} for key in unknown}
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
        found: dict[tuple[str, str, Shape], NDArray[np.int32]] = {}
        for key, shapes in unknown.items():
            for shape in shapes:
                ids = np.array([known[key][metric, kind] for metric, kind, _ in shape.runs], dtype=np.int32)
                found[*key, shape] = ids
                if cache is self._cache:
                    self._remember(key, shape, ids)
        return found

    def _remember(self, key: tuple[str, str], shape: Shape, ids: NDArray[np.int32]) -> None:
        if REFUSED in ids:  # a device full today may have room after an operator removed metrics: only the rest is kept
            kept = ids != REFUSED
            shape = Shape.of(tuple([run for run, is_kept in zip(shape.runs, kept.tolist(), strict=True) if is_kept]))
            ids = ids[kept]
        device = self._cache.setdefault(key, _Device())
        self._drop(device)
        if device.metrics is None:
            device.shapes[shape] = ids
            if len(device.shapes) > DEVICE_MAX_SHAPES:
                device.metrics = device.known()
                device.shapes.clear()
        else:
            device.metrics.update(
                {(metric, kind): id_ for (metric, kind, _), id_ in zip(shape.runs, ids.tolist(), strict=True)}
            )
        self._add(device)
        self._cache.move_to_end(key)
        while self.size > self._capacity and len(self._cache) > 1:
            self._drop(self._cache.popitem(last=False)[1])

    def _add(self, device: _Device) -> None:
        self.size += DEVICE_SIZE + METRIC_SIZE * len(device.metrics or ())
        for shape in device.shapes:
            self._holders[shape] += 1
            self.size += SHAPE_SIZE + len(shape.runs) * (1 if self._holders[shape] > 1 else 1 + RUN_SIZE)

    def _drop(self, device: _Device) -> None:
        if not device.shapes and device.metrics is None:
            return  # not added yet
        self.size -= DEVICE_SIZE + METRIC_SIZE * len(device.metrics or ())
        for shape in device.shapes:
            self.size -= SHAPE_SIZE + len(shape.runs) * (1 if self._holders[shape] > 1 else 1 + RUN_SIZE)
            self._holders[shape] -= 1
            if not self._holders[shape]:
                del self._holders[shape]

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
