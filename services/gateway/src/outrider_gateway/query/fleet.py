"""One metric over many devices: per step, or per device over the whole range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from outrider_gateway.query import store
from outrider_gateway.query.asked import Asking, Range, percentile_of, unknown_metric
from outrider_gateway.query.columns import NUMERIC, Column, Page, Series
from outrider_gateway.query.device import aggregate
from outrider_gateway.query.plan import Plan, Tier, plan, plan_rounded
from outrider_gateway.query.store import Snapshot

PER_DEVICE = "devices"
"""The aggregate that says how many devices a figure is made of."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which devices: all of these, with this tag, of this type; None does not narrow."""

    devices: tuple[str, ...] | None = None
    tag: str | None = None
    type: str | None = None

    @property
    def everybody(self) -> bool:
        """True if it does not narrow."""
        return self.devices is None and self.tag is None and self.type is None


async def names(snapshot: Snapshot, selection: Selection) -> tuple[str, ...] | None:
    """The devices of a selection; None: all."""
    if selection.everybody:
        return None
    found = await store.devices(snapshot, selection.devices, selection.tag, selection.type)
    return tuple(row["device"] for row in found)


async def series(snapshot: Snapshot, selection: Selection, metric: str) -> list[Series]:
    """The metric's series of each device of the selection: its numbers, else its booleans.

    Raises Asking for a metric that no device of the tenant has, and for text.
    """
    name, _, kind = metric.partition(":")
    found = await store.series(snapshot, await names(snapshot, selection), [name])
    numeric = [one for one in found if one.kind in NUMERIC and kind in ("", one.kind)]
    if numeric:
        first: dict[str, Series] = {}
        for one in numeric:
            first.setdefault(one.device, one)
        return list(first.values())
    if found:
        raise Asking(f"{name} is {found[0].kind}, not a number: figures over a fleet are of numbers and booleans.")
    known = await store.metrics(snapshot)
    if name not in known:
        raise Asking(
            unknown_metric(name, "No device", known).replace("No device has no metric", "No device has a metric")
        )
    return []


async def per_step(
    snapshot: Snapshot,
    of: list[Series],
    asked: Range,
    step_ms: int | None,
    aggregates: tuple[str, ...],
    forced: Tier | None,
    rounded: bool,
) -> tuple[Page, Plan]:
    """A row per step over all these series, with a column per aggregate."""
    fractions = [fraction for name in aggregates if (fraction := percentile_of(name)) is not None]
    kept = await store.kept(snapshot, None if len(of) > 100 else [one.id for one in of], asked)
    planned = plan_rounded(asked, step_ms, kept, forced) if rounded and step_ms else plan(asked, step_ms, kept, forced)
    per_device = bool(fractions) or PER_DEVICE in aggregates
    rows = []
    if of and planned.segments:
        extremes = not {"min", "max"}.isdisjoint(aggregates)
        rows = await store.fleet(snapshot, [one.id for one in of], planned, per_device, extremes, fractions)
    page = Page([t if planned.step_ms else asked.start_ms for t, *_ in rows], [[] for _ in aggregates])
    for _, devices, count, total, low, high, percentiles in rows:
        at = iter(percentiles or ())
        for column, name in zip(page.values, aggregates, strict=True):
            if name == PER_DEVICE:
                column.append(devices)
            elif percentile_of(name) is not None:
                column.append(next(at))
            else:
                column.append(aggregate((count, total, low, high, None, None), name, "number"))
    return page, planned


async def per_device(
    snapshot: Snapshot, of: list[Series], asked: Range, aggregates: tuple[str, ...], forced: Tier | None
) -> tuple[list[dict[str, Any]], Plan]:
    """A row per device over the whole range: `device`, and a member per aggregate."""
    kept = await store.kept(snapshot, None if len(of) > 100 else [one.id for one in of], asked)
    planned = plan(asked, None, kept, forced)
    edges = not {"first", "last"}.isdisjoint(aggregates)
    rows = await store.buckets(snapshot, [one.id for one in of], planned, edges) if of and planned.segments else []
    of_series = {one.id: one for one in of}
    return [
        {"device": of_series[id_].device} | {name: aggregate(tuple(values), name, "number") for name in aggregates}
        for id_, _, *values in rows
    ], planned


def columns(metric: str, unit: str, aggregates: tuple[str, ...]) -> list[Column]:
    """The columns of an answer per step."""
    whole = {"count", PER_DEVICE}
    return [
        Column(name, metric, "integer" if name in whole else "number", "" if name in whole else unit, name)
        for name in aggregates
    ]
