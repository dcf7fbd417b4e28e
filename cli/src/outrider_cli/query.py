"""`outrider query`: what is stored of a device, its last values, series over a range, logs or events."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.markup import escape
from rich.table import Table

from outrider.client import Client, GatewayError
from outrider_cli import terminal
from outrider_cli.connect import DatabaseUrlOption, DataOption
from outrider_cli.database import session
from outrider_cli.plot import plot as drawn
from outrider_cli.query_sources import Asked, Direct, NothingThere, OverGateway, Rows, Source
from outrider_cli.registry.client import TenantOption, TokenOption
from outrider_cli.since import since_option
from outrider_cli.state import NotRunning, State

LOGS = """
SELECT ts, level, message, fields, boot, seq FROM logs.line
WHERE device = %(device)s AND (%(since)s::timestamptz IS NULL OR ts >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR ts < %(until)s) ORDER BY ts DESC LIMIT %(limit)s
"""
EVENTS = """
SELECT ts, type, message, fields, boot, seq FROM telemetry.event
WHERE device = %(device)s AND (%(since)s::timestamptz IS NULL OR ts >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR ts < %(until)s) ORDER BY ts DESC LIMIT %(limit)s
"""
ROWS, POINTS = 50, 100_000
"""How many are shown where nothing is said: of samples, and of buckets or points of a plot."""

HELP = """Show what is stored of a device.

Values come from the gateway; with --database-url, or where no gateway runs, from the database, which gives samples only.
Logs and events come from the database.

Examples:

  outrider query vehicle-0001                               last value of every metric

  outrider query vehicle-0001 speed_kmh --since 10m         one metric as a table, oldest first

  outrider query vehicle-0001 speed_kmh rpm --since 6h --plot

  outrider query vehicle-0001 speed_kmh --from 30d --to 1d --step 1h --aggregate mean,max

  outrider query vehicle-0001 speed_kmh --since 1d --limit 100000 --csv

  outrider query vehicle-0001 --logs --since 1h

  outrider query sensor-0001 --events --json
"""
GatewayOption = Annotated[
    str | None,
    typer.Option(
        "--gateway-url", envvar="OUTRIDER_GATEWAY_URL", help="Gateway; by default that of the platform in --data."
    ),
]


def query(
    device: Annotated[str, typer.Argument(help="Device name.")],
    metrics: Annotated[
        list[str] | None, typer.Argument(metavar="[METRIC]...", help="Metrics; without any the last value of each.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", "--from", help="Only newer ones: 30s, 10m, 2h, 7d ago, or an ISO 8601 time."),
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="Only older ones, likewise.")] = None,
    step: Annotated[
        str | None, typer.Option(help="Buckets so wide instead of samples: 30s, 5m, 1h, 1d, or all.")
    ] = None,
    aggregate: Annotated[
        list[str] | None,
        typer.Option(help="Of each bucket: mean (default), min, max, sum, count, first, last; several at once."),
    ] = None,
    plot: Annotated[
        bool, typer.Option("--plot", help="Draw numbers; a table where the output is no terminal.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"At most so many rows, the newest; {ROWS} samples by default.")
    ] = None,
    logs: Annotated[bool, typer.Option("--logs", help="Log lines instead.")] = False,
    events: Annotated[bool, typer.Option("--events", help="Events instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV with a header.")] = False,
    url: DatabaseUrlOption = None,
    gateway_url: GatewayOption = None,
    token: TokenOption = None,
    tenant: TenantOption = None,
    data: DataOption = Path(".outrider"),
) -> None:
    """Show what is stored of a device."""
    if logs + events + bool(metrics) > 1:
        raise typer.BadParameter("choose one of METRIC, --logs and --events")
    if as_json + as_csv + plot > 1:
        raise typer.BadParameter("choose one of --json, --csv and --plot")
    if (step or aggregate or plot) and not metrics:
        raise typer.BadParameter("name a metric, or several")
    out = _Output(as_json, as_csv)
    if logs or events:
        asked = {"device": device, "since": since_option(since), "until": since_option(until)}
        with session(url, data) as database:
            rows = database.execute(LOGS if logs else EVENTS, asked | {"limit": limit or ROWS}).fetchall()
            if not rows:
                what = "log lines" if logs else "events"
                raise _nothing(f"No {what} of {device}. Devices: {Direct(database).devices()}")
        out.records(rows[::-1])
        return
    aggregates = [name for value in aggregate or () for name in value.split(",")]
    many = plot or step is not None or bool(aggregates)
    question = Asked(
        device,
        list(dict.fromkeys(metrics or ())),
        since_option(since),
        since_option(until),
        limit or (POINTS if many else ROWS),
        step,
        aggregates,
    )
    try:
        with _source(question, url, gateway_url, token, tenant, data) as source:
            if not metrics:
                out.latest(device, source.latest(device))
            else:
                found = source.series(question)
                for note in found.notes:
                    typer.echo(note, err=True)
                if not (plot and _plotted(found)):
                    out.series(found, alone=question.raw and len(found.columns) == 1)
    except NothingThere as error:
        raise _nothing(str(error)) from None
    except GatewayError as error:
        typer.echo(f"{error}", err=True)
        raise typer.Exit(1 if error.status == 404 else 2) from None


@contextmanager
def _source(
    asked: Asked, url: str | None, gateway_url: str | None, token: str | None, tenant: str | None, data: Path
) -> Iterator[Source]:
    """The gateway that is named or runs, else the database. Ends the command where neither can answer."""
    try:
        state = State.load(data.absolute())
    except NotRunning:
        state = None
    if gateway_url is None and url is None and state is not None:
        gateway_url = state.gateway_url or None
    own_token = token or (state.api_token if state else "")
    if gateway_url and own_token and (url is None or not asked.raw):
        acts_in = tenant or (state.tenant if state and not token else None)
        with Client(gateway_url, own_token, tenant=acts_in) as client:
            yield OverGateway(client)
        return
    if not asked.raw:
        typer.echo(
            "--step and --aggregate need the gateway: `outrider scale gateway=1` starts one, or name one with "
            "--gateway-url and --token (OUTRIDER_GATEWAY_URL, OUTRIDER_TOKEN).",
            err=True,
        )
        raise typer.Exit(2)
    with session(url, data) as database:
        yield Direct(database)


def _nothing(message: str) -> typer.Exit:
    typer.echo(message, err=True)
    return typer.Exit(1)


def _plotted(found: Rows) -> bool:
    """Draw each column that holds numbers; False where nothing can be drawn, or nobody looks."""
    console = terminal.console()
    if not console.is_terminal:
        return False
    done = False
    for n, column in enumerate(found.columns):
        points = [(at, float(values[n])) for at, values in found.rows if isinstance(values[n], int | float)]
        if len(points) < 2:
            continue
        unit = f" ({found.units[column]})" if found.units.get(column) else ""
        console.print(f"[bold]{escape(column)}[/]{escape(unit)}")
        for line in drawn(points, columns=min(console.width, 160)):
            console.print(line, markup=False)
        done = True
    return done


class _Output:
    """Prints rows as a table, JSON lines or CSV."""

    def __init__(self, as_json: bool, as_csv: bool) -> None:
        self._as_json = as_json
        self._as_csv = as_csv

    def latest(self, device: str, rows: Sequence[dict[str, Any]]) -> None:
        """The last value of each metric."""
        if self._as_json or self._as_csv:
            self.records(rows)
        else:
            terminal.console().print(_latest_table(device, rows))

    def series(self, found: Rows, *, alone: bool) -> None:
        """Values over time; of one metric alone the column is called `value`."""
        names = ["value"] if alone else found.columns
        self.records([{"ts": at, **dict(zip(names, values, strict=True))} for at, values in found.rows])

    def records(self, rows: Sequence[dict[str, Any]]) -> None:
        """Rows with the same members."""
        if self._as_json:
            for row in rows:
                sys.stdout.buffer.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        elif self._as_csv:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(rows[0])
            for row in rows:
                writer.writerow([_plain(value) for value in row.values()])
        else:
            terminal.console().print(_rows_table(rows))


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
    table = Table(box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, no_wrap=name == "ts", overflow="fold")
    for row in rows:
        table.add_row(*(_time(value) if name == "ts" else _shown(value) for name, value in row.items()))
    return table


def _time(moment: datetime) -> str:
    return moment.astimezone().isoformat(sep=" ", timespec="milliseconds")


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.10g}"
    return "" if value is None else orjson.dumps(value).decode()


def _shown(value: Any) -> str:
    return escape(_plain(value))


def register(app: typer.Typer) -> None:
    """Add `query` to the app."""
    app.command(help=HELP)(query)
