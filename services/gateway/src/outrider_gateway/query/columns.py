"""The shape of every answer about samples: one column of times, and one per metric and aggregate beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["number", "boolean", "string", "json"]
KINDS: tuple[Kind, ...] = ("number", "boolean", "string", "json")
"""The order in which a metric that came in several kinds is read."""
NUMERIC = frozenset({"number", "boolean"})


@dataclass(frozen=True, slots=True)
class Series:
    """One series of the ledger."""

    id: int
    device: str
    metric: str
    kind: Kind
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """What a column holds. `kind` is that of its values: the mean of a boolean is a number."""

    name: str
    metric: str
    kind: Literal["number", "integer", "boolean", "string", "json"]
    unit: str
    aggregate: str | None = None


@dataclass(slots=True)
class Page:
    """Rows as columns: `ts` (epoch ms) ascends, `values[n][row]` is None where there is none."""

    ts: list[int] = field(default_factory=list)
    values: list[list[Any]] = field(default_factory=list)


@dataclass(slots=True)
class Answer:
    """What is said about the question, its columns, and the pages of rows as they are read."""

    about: dict[str, Any]
    columns: list[Column]
    pages: AsyncIterator[Page]


def column_of(series: Series, aggregate: str | None, alone: bool) -> Column:
    """The column of a series' aggregate (None: its samples); `alone`: no other aggregate needs a name of its own."""
    name = series.metric if alone or aggregate is None else f"{series.metric}.{aggregate}"
    if aggregate == "count":
        return Column(name, series.metric, "integer", "", aggregate)
    if series.kind == "boolean" and aggregate in ("mean", "sum"):
        return Column(name, series.metric, "number", series.unit, aggregate)
    return Column(name, series.metric, series.kind, series.unit, aggregate)
