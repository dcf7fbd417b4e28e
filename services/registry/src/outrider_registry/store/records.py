"""Log lines, events and the accounting of sequence numbers, of services that may not be installed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, LiteralString

import psycopg

from outrider_registry.store.rows import Row, many
from outrider_registry.store.views import available

Kind = Literal["logs", "events"]

_KEY: LiteralString = "(ts, received_at, coalesce(boot, 0), coalesce(seq, 0), item)"
_WHERE: LiteralString = """
WHERE tenant = current_setting('outrider.tenant') AND device = %(device)s
  AND (%(before)s::timestamptz IS NULL OR ts < %(before)s)
"""
_VIEWS: dict[Kind, tuple[str, LiteralString, LiteralString]] = {
    "logs": ("logs.tenant_line", "FROM logs.tenant_line", "level"),
    "events": ("telemetry.tenant_event", "FROM telemetry.tenant_event", "type"),
}
SEQUENCES: dict[str, LiteralString] = {
    "telemetry.tenant_sequence": "SELECT * FROM telemetry.tenant_sequence",
    "logs.tenant_sequence": "SELECT * FROM logs.tenant_sequence",
}


async def page(
    connection: psycopg.AsyncConnection,
    kind: Kind,
    device: str,
    labels: Sequence[str],
    pattern: str | None,
    before: datetime | None,
    after: list[Any] | None,
    limit: int,
) -> tuple[list[Row], list[Any] | None] | None:
    """Records newest first, and the key of the last one if there are more; None where nothing stores them here."""
    view, source, label = _VIEWS[kind]
    if not await available(connection, view):
        return None
    statement: LiteralString = "SELECT ts, received_at, boot, seq, item, message, fields, " + label + " AS label "
    statement += source + _WHERE
    values: dict[str, Any] = {"device": device, "before": before, "limit": limit + 1}
    if labels:
        statement += " AND " + label + " = ANY (%(labels)s)"
        values["labels"] = list(labels)
    if pattern is not None:
        statement += " AND message ILIKE %(pattern)s"
        values["pattern"] = pattern
    if after is not None:
        statement += " AND ts <= %(ts)s::timestamptz AND " + _KEY
        statement += (
            " < (%(ts)s::timestamptz, %(received)s::timestamptz, %(boot)s::bigint, %(seq)s::bigint, %(item)s::integer)"
        )
        values |= dict(zip(("ts", "received", "boot", "seq", "item"), after, strict=True))
    statement += " ORDER BY ts DESC, received_at DESC, coalesce(boot, 0) DESC, coalesce(seq, 0) DESC, item DESC"
    rows = await many(connection, statement + " LIMIT %(limit)s", values)
    more = len(rows) > limit
    rows = rows[:limit]
    if not more:
        return rows, None
    last = rows[-1]
    key = [last["ts"].isoformat(), last["received_at"].isoformat(), last["boot"] or 0, last["seq"] or 0, last["item"]]
    return rows, key


async def sequences(
    connection: psycopg.AsyncConnection, device: str | None, gapped: bool | None, after: list[Any] | None, limit: int
) -> tuple[list[Row], list[Any] | None]:
    """What is stored of each device's numbered streams, by device, stream and boot, the newest boot first."""
    parts: list[LiteralString] = [text for view, text in SEQUENCES.items() if await available(connection, view)]
    if not parts:
        return [], None
    source: LiteralString = " UNION ALL ".join(parts)
    statement: LiteralString = (
        """
SELECT device, stream, boot, contiguous_seq, last_seq, missing, gone, duplicates, conflicts, rejected, first_at, last_at,
       (SELECT coalesce(jsonb_agg(jsonb_build_array(lower(r), upper(r) - 1) ORDER BY lower(r)), '[]') FROM unnest(gaps) r) AS gaps
FROM ("""
        + source
        + ") q WHERE tenant = current_setting('outrider.tenant')"
    )
    values: dict[str, Any] = {"limit": limit + 1}
    if device is not None:
        statement += " AND device = %(device)s"
        values["device"] = device
    if gapped is not None:
        statement += " AND gapped" if gapped else " AND NOT gapped"
    if after is not None:
        statement += " AND (device, stream, -boot) > (%(after_device)s, %(after_stream)s, %(after_boot)s::bigint)"
        values |= dict(zip(("after_device", "after_stream", "after_boot"), after, strict=True))
    rows = await many(connection, statement + " ORDER BY device, stream, -boot LIMIT %(limit)s", values)
    more = len(rows) > limit
    rows = rows[:limit]
    return rows, [rows[-1]["device"], rows[-1]["stream"], -rows[-1]["boot"]] if more else None
