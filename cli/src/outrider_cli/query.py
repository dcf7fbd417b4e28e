"""`outrider query`: what is stored of a device, its last values or one series, logs or events."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.markup import escape
from rich.table import Table

from outrider_cli import terminal
from outrider_cli.connect import DatabaseUrlOption, DataOption
from outrider_cli.database import session
from outrider_cli.since import since_option

LATEST = """
SELECT tenant, metric, kind, value, ts FROM telemetry.latest WHERE device = %(device)s ORDER BY tenant, metric, kind
"""
SERIES = """
SELECT ts, value, kind FROM (
    SELECT x.ts, to_jsonb(x.value) AS value, s.kind FROM telemetry.series s JOIN telemetry.sample x ON x.series_id = s.id
    WHERE s.device = %(device)s AND s.metric = %(metric)s AND s.kind = 'number'
      AND (%(since)s::timestamptz IS NULL OR x.ts >= %(since)s)
    UNION ALL
    SELECT x.ts, to_jsonb(x.value <> 0), s.kind FROM telemetry.series s JOIN telemetry.sample x ON x.series_id = s.id
    WHERE s.device = %(device)s AND s.metric = %(metric)s AND s.kind = 'boolean'
      AND (%(since)s::timestamptz IS NULL OR x.ts >= %(since)s)
    UNION ALL
    SELECT x.ts, to_jsonb(x.value), s.kind FROM telemetry.series s JOIN telemetry.sample_text x ON x.series_id = s.id
    WHERE s.device = %(device)s AND s.metric = %(metric)s AND s.kind = 'string'
      AND (%(since)s::timestamptz IS NULL OR x.ts >= %(since)s)
    UNION ALL
    SELECT x.ts, x.value, s.kind FROM telemetry.series s JOIN telemetry.sample_json x ON x.series_id = s.id
    WHERE s.device = %(device)s AND s.metric = %(metric)s AND s.kind = 'json'
      AND (%(since)s::timestamptz IS NULL OR x.ts >= %(since)s)
) samples ORDER BY ts DESC LIMIT %(limit)s
"""
LOGS = """
SELECT ts, level, message, fields, boot, seq FROM logs.line
WHERE device = %(device)s AND (%(since)s::timestamptz IS NULL OR ts >= %(since)s) ORDER BY ts DESC LIMIT %(limit)s
"""
EVENTS = """
SELECT ts, type, message, fields, boot, seq FROM telemetry.event
WHERE device = %(device)s AND (%(since)s::timestamptz IS NULL OR ts >= %(since)s) ORDER BY ts DESC LIMIT %(limit)s
"""
DEVICES = "SELECT DISTINCT device FROM telemetry.series ORDER BY device LIMIT 20"

HELP = """Show what is stored of a device.

Examples:

  outrider query vehicle-0001                               last value of every metric

  outrider query vehicle-0001 speed_kmh --since 10m         one metric as a table, oldest first

  outrider query vehicle-0001 speed_kmh --since 1d --limit 100000 --csv

  outrider query vehicle-0001 --logs --since 1h

  outrider query sensor-0001 --events --json
"""


def query(
    device: Annotated[str, typer.Argument(help="Device name.")],
    metric: Annotated[str | None, typer.Argument(help="Metric; without it the last value of each.")] = None,
    since: Annotated[str | None, typer.Option(help="Only newer ones: 30s, 10m, 2h, 7d, or an ISO 8601 time.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 50,
    logs: Annotated[bool, typer.Option("--logs", help="Log lines instead.")] = False,
    events: Annotated[bool, typer.Option("--events", help="Events instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV with a header.")] = False,
    url: DatabaseUrlOption = None,
    data: DataOption = Path(".outrider"),
) -> None:
    """Show what is stored of a device."""
    if logs + events + (metric is not None) > 1:
        raise typer.BadParameter("choose one of METRIC, --logs and --events")
    if as_json and as_csv:
        raise typer.BadParameter("choose one of --json and --csv")
    last_values = metric is None and not logs and not events
    statement = LOGS if logs else EVENTS if events else LATEST if last_values else SERIES
    arguments = {"device": device, "metric": metric, "since": since_option(since), "limit": limit}
    with session(url, data) as database:
        rows = database.execute(statement, arguments).fetchall()
        if not rows:
            known = [row["device"] for row in database.execute(DEVICES).fetchall()]
            what = "log lines" if logs else "events" if events else f"samples of {metric}" if metric else "samples"
            typer.echo(f"No {what} of {device}. Devices: {', '.join(known) or 'none yet'}", err=True)
            raise typer.Exit(1)
    if not last_values:
        rows.reverse()
    if as_json:
        for row in rows:
            sys.stdout.buffer.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    elif as_csv:
        _write_csv(rows)
    else:
        terminal.console().print(_latest_table(device, rows) if last_values else _rows_table(rows))


def _write_csv(rows: Sequence[dict[str, Any]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([_plain(value) for value in row.values()])


def _latest_table(device: str, rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        "metric", "value", "time", "age", title=escape(device), title_justify="left", box=None, pad_edge=False
    )
    table.columns[1].justify = "right"
    now = datetime.now(UTC)
    kinds = {row["metric"]: 0 for row in rows}
    for row in rows:
        kinds[row["metric"]] += 1
    for row in rows:
        # The rare metric that came in two kinds is two series; say which is which.
        name = row["metric"] if kinds[row["metric"]] == 1 else f"{row['metric']} ({row['kind']})"
        table.add_row(
            escape(name), _shown(row["value"]), _time(row["ts"]), f"{(now - row['ts']).total_seconds():.1f} s"
        )
    return table


def _rows_table(rows: Sequence[dict[str, Any]]) -> Table:
    columns = [name for name in rows[0] if name != "kind"]
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=name == "ts", overflow="fold")
    for row in rows:
        table.add_row(*(_time(row[name]) if name == "ts" else _shown(row[name]) for name in columns))
    return table


def _time(moment: datetime) -> str:
    return moment.astimezone().isoformat(sep=" ", timespec="milliseconds")


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str):
        return value
    return "" if value is None else orjson.dumps(value).decode()


def _shown(value: Any) -> str:
    return escape(_plain(value))


def register(app: typer.Typer) -> None:
    """Add `query` to the app."""
    app.command(help=HELP)(query)
