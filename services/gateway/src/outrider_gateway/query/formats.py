"""Columns as JSON, CSV or an Arrow stream: what goes out for each, and how it is asked for."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

import orjson
import pyarrow as pa

from outrider_gateway.query.asked import Asking, iso
from outrider_gateway.query.columns import Answer, Column, Page

Format = Literal["json", "csv", "arrow"]
MEDIA: dict[str, str] = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "arrow": "application/vnd.apache.arrow.stream",
    "geojson": "application/geo+json",
    "gpx": "application/gpx+xml",
}
_ARROW: dict[str, pa.DataType] = {
    "number": pa.float64(),
    "integer": pa.int64(),
    "boolean": pa.bool_(),
    "string": pa.string(),
    "json": pa.string(),
}
ASIDE_VALUES = 10_000
"""More are written beside the event loop: uploads wait for their acks there."""
_QUOTED = re.compile(r'[",\r\n]|^\s|\s$')


def choose(named: str | None, accept: str, offered: Sequence[str]) -> str:
    """The format that `format=` names, else the offered one that Accept likes best, else the first offered.

    Raises Asking for a format that is not offered; an Accept that fits none gets the first.
    """
    if named:
        if named.lower() in offered:
            return named.lower()
        raise Asking(f"There is no format {named[:40]!r} here: ask for {', '.join(offered)}.")
    wanted: list[tuple[float, int, str]] = []
    for at, part in enumerate(accept.lower().split(",")):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((piece[2:] for piece in parameters if piece.startswith("q=")), "1")
        wanted.append((-float(quality) if re.fullmatch(r"\d(\.\d+)?", quality) else 0.0, at, media))
    for quality_, _, media in sorted(wanted):
        if quality_ == 0:
            continue
        for name in offered:
            if media == MEDIA[name].partition(";")[0]:
                return name
        if media in ("*/*", "application/*", "text/html"):
            return offered[0]
    return offered[0]


def rendered(document: Any) -> bytes:
    """A document as JSON."""
    try:
        return orjson.dumps(document)
    except TypeError:  # an integer of more than 64 bits, as jsonb may hold
        return json.dumps(document, separators=(",", ":"), allow_nan=False, default=str).encode()


def json_of(about: dict[str, Any], columns: Sequence[Column], page: Page) -> bytes:
    """The whole answer as one document: `columns` describes, `data` holds a list per column, `ts` in epoch ms."""
    described = [
        {"name": c.name, "metric": c.metric, "kind": c.kind, "unit": c.unit, "aggregate": c.aggregate} for c in columns
    ]
    data = {"ts": page.ts} | {c.name: values for c, values in zip(columns, page.values, strict=True)}
    return rendered(about | {"columns": described, "data": data})


async def csv_of(answer: Answer) -> AsyncIterator[bytes]:
    """RFC 4180 with a line of names first; `ts` in ISO 8601, nothing between two commas where there is no value."""
    yield (",".join(["ts", *(_cell(column.name) for column in answer.columns)]) + "\r\n").encode()
    async for page in answer.pages:
        if len(page.ts) * len(answer.columns) > ASIDE_VALUES:
            yield await asyncio.to_thread(_lines, answer.columns, page)
        elif page.ts:
            yield _lines(answer.columns, page)


def _lines(columns: Sequence[Column], page: Page) -> bytes:
    cells = [_cells(column, values) for column, values in zip(columns, page.values, strict=True)]
    rows = zip(map(iso, page.ts), *cells, strict=True)
    return ("\r\n".join(map(",".join, rows)) + "\r\n").encode()


async def arrow_of(answer: Answer) -> AsyncIterator[bytes]:
    """An Arrow IPC stream, a record batch a page; `ts` is timestamp[ms, UTC], JSON its text. What the question was and
    each unit stand in the schema's metadata."""
    fields = [pa.field("ts", pa.timestamp("ms", tz="UTC"), nullable=False)]
    for column in answer.columns:
        about = {"metric": column.metric, "unit": column.unit, "aggregate": column.aggregate or "raw"}
        fields.append(pa.field(column.name, _ARROW[column.kind], metadata=about))
    schema = pa.schema(fields, metadata={"outrider": orjson.dumps(answer.about)})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        async for page in answer.pages:
            if page.ts:
                arrays = [pa.array(page.ts, fields[0].type)]
                arrays += [_array(c, values) for c, values in zip(answer.columns, page.values, strict=True)]
                writer.write_batch(pa.record_batch(arrays, schema=schema))
                yield _drained(sink)
    yield _drained(sink)


def _array(column: Column, values: list[Any]) -> pa.Array:
    if column.kind == "json":
        values = [None if value is None else rendered(value).decode() for value in values]
    return pa.array(values, _ARROW[column.kind])


def _drained(sink: io.BytesIO) -> bytes:
    data = sink.getvalue()
    sink.seek(0)
    sink.truncate()
    return data


def _cells(column: Column, values: list[Any]) -> list[str]:
    match column.kind:
        case "number" | "integer":
            return ["" if value is None else repr(value) for value in values]
        case "boolean":
            return ["" if value is None else ("true" if value else "false") for value in values]
        case "json":
            return ["" if value is None else _cell(rendered(value).decode()) for value in values]
        case _:
            return ["" if value is None else _cell(value) for value in values]


def _cell(text: str) -> str:
    """Quoted where it must be; an empty text is quoted, so that it is not taken for no value."""
    if text and not _QUOTED.search(text):
        return text
    return '"' + text.replace('"', '""') + '"'
