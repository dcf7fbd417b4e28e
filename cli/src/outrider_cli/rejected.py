"""`outrider rejected`: what could not be stored, with the reason; look at it, send it again, throw it away."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import orjson
import psycopg
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from outrider.contract.reasons import EXPLANATION, Reason
from outrider.runtime import replay as replays
from outrider.runtime.errors import Transient
from outrider.runtime.mqtt import Connection
from outrider_cli import terminal
from outrider_cli.connect import DatabaseUrlOption, DataOption, MqttUrlOption, mqtt_url
from outrider_cli.database import session
from outrider_cli.since import since_option
from outrider_cli.tail_view import describe, read

CHOOSE = """
FROM rejected.message
WHERE (%(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s))
  AND (%(device)s::text IS NULL OR device = %(device)s)
  AND (%(reason)s::text IS NULL OR reason = %(reason)s)
  AND (%(since)s::timestamptz IS NULL OR rejected_at >= %(since)s)
  AND (%(replayed)s OR replayed_at IS NULL)
"""
LIST = (
    """
SELECT id, tenant, device, stream, boot, seq, reason, detail, topic, length(payload) AS bytes, service, received_at,
       rejected_at, replayed_at
"""
    + CHOOSE
    + "ORDER BY id DESC LIMIT %(limit)s"
)
COUNT = "SELECT reason, count(*) AS messages " + CHOOSE + "GROUP BY reason ORDER BY messages DESC"
OVERFLOW = "SELECT reason, messages, bytes, first_at, last_at FROM rejected.overflow ORDER BY messages DESC"
SHOW = "SELECT * FROM rejected.message WHERE id = %s"
IDS = "SELECT id " + CHOOSE + "ORDER BY id"
PAYLOADS = """
SELECT id, topic, payload, (extract(epoch FROM received_at) * 1000)::bigint AS received_ms
FROM rejected.message WHERE id = ANY (%s) ORDER BY id
"""
MARK = "UPDATE rejected.message SET replayed_at = now() WHERE id = ANY (%s)"
PURGE = "SELECT rejected.purge(%s) AS purged"

CHUNK_MESSAGES = 500
CLIENT_ID = "svc:rejected-replay"

HELP = """Look at messages that could not be stored, send them again, or throw them away.

Examples:

  outrider rejected list --since 1h

  outrider rejected list --device sensor-7 --reason bad_value --json

  outrider rejected show 4711

  outrider rejected replay --reason unknown_format      after the cause is mended

  outrider rejected purge --device old-gateway --yes
"""

app = typer.Typer(no_args_is_help=True, help=HELP)

DeviceOption = Annotated[str | None, typer.Option(help="Only of this device.")]
ReasonOption = Annotated[str | None, typer.Option(help="Only with this reason code.")]
SinceOption = Annotated[str | None, typer.Option(help="Only rejected since: 30s, 10m, 2h, 7d, or an ISO 8601 time.")]
IdsArgument = Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="Only these messages.")]


@dataclass(frozen=True)
class Choice:
    """Which rejected messages are meant."""

    ids: list[int] | None = None
    device: str | None = None
    reason: str | None = None
    since: str | None = None
    replayed: bool = True

    def arguments(self, **more: Any) -> dict[str, Any]:
        """The parameters of the statements above. Raises typer.BadParameter for a reason or time that cannot be."""
        if self.reason is not None and self.reason not in set(Reason):
            raise typer.BadParameter(f"no reason {self.reason!r}; there are: {', '.join(Reason)}")
        return {
            "ids": self.ids or None,
            "device": self.device,
            "reason": self.reason,
            "since": since_option(self.since),
            "replayed": self.replayed,
            **more,
        }

    @property
    def everything(self) -> bool:
        """True when nothing narrows the choice."""
        return not (self.ids or self.device or self.reason or self.since)


@app.command("list")
def list_(
    device: DeviceOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    url: DatabaseUrlOption = None,
    data: DataOption = Path(".outrider"),
) -> None:
    """List rejected messages, newest first, and how many there are of each reason."""
    arguments = Choice(device=device, reason=reason, since=since).arguments(limit=limit)
    with session(url, data) as database:
        rows = database.execute(LIST, arguments).fetchall()
        counts = database.execute(COUNT, arguments).fetchall()
        overflow = database.execute(OVERFLOW).fetchall()
    if as_json:
        for row in rows:
            sys.stdout.buffer.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        return
    console = terminal.console()
    if rows:
        console.print(_table(rows))
    total = sum(row["messages"] for row in counts)
    console.print(f"{len(rows)} of {total:,} rejected messages" if total else "No rejected messages.")
    for row in counts:
        console.print(f"  {row['messages']:>8,} {row['reason']:<18} [dim]{_explanation(row['reason'])}[/]")
    for row in overflow:
        console.print(f"  [yellow]{row['messages']:>8,} {row['reason']:<18} past the quota: counted, not kept[/]")


@app.command()
def show(
    message_id: Annotated[int, typer.Argument(metavar="ID", help="As in the list.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON; the payload as text.")] = False,
    url: DatabaseUrlOption = None,
    data: DataOption = Path(".outrider"),
) -> None:
    """Show one rejected message with its payload."""
    with session(url, data) as database:
        row = database.execute(SHOW, (message_id,)).fetchone()
    if row is None:
        typer.echo(f"There is no rejected message {message_id}.", err=True)
        raise typer.Exit(1)
    payload: bytes = row.pop("payload")
    if as_json:
        row["payload"] = read(payload)
        sys.stdout.buffer.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        return
    console = terminal.console()
    for name, value in row.items():
        console.print(f"[dim]{name:<12}[/] {escape(str(value))}")
    console.print(f"[dim]{'meaning':<12}[/] {_explanation(row['reason'])}")
    console.print(f"[dim]{'readable':<12}[/] {describe(row['topic'], payload)}")
    console.print(f"[dim]{'payload':<12}[/] {len(payload):,} bytes")
    console.print(payload[:4096].decode(errors="backslashreplace"), markup=False)


@app.command()
def replay(
    ids: IdsArgument = None,
    device: DeviceOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    again: Annotated[bool, typer.Option("--again", help="Also those that were replayed before.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="All; otherwise a filter is required.")] = False,
    url: DatabaseUrlOption = None,
    mqtt: MqttUrlOption = None,
    data: DataOption = Path(".outrider"),
) -> None:
    """Publish rejected messages again on their topic, as they came, and mark them.

    They travel unnumbered with the time at which they first arrived. What is refused again is a new rejected message.
    """
    choice = Choice(ids, device, reason, since, replayed=again)
    _require_filter(choice, everything)
    broker = mqtt_url(mqtt, data)
    with session(url, data) as database:
        chosen = [row["id"] for row in database.execute(IDS, choice.arguments()).fetchall()]
        try:
            replayed, others = asyncio.run(_replay(broker, database, chosen))
        except Transient as error:
            typer.echo(f"Stopped: {error}. What was sent is marked; run this again for the rest.", err=True)
            raise typer.Exit(1) from None
    typer.echo(f"Replayed {replayed:,} messages." if replayed else "Nothing to replay.")
    if others:
        typer.echo(f"{others:,} did not come on a topic of telemetry, logs or events and stay as they are.", err=True)


@app.command()
def purge(
    ids: IdsArgument = None,
    device: DeviceOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    replayed: Annotated[bool, typer.Option("--replayed", help="Only those that were replayed.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="All; otherwise a filter is required.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: DatabaseUrlOption = None,
    data: DataOption = Path(".outrider"),
) -> None:
    """Delete rejected messages for good."""
    choice = Choice(ids, device, reason, since)
    if not replayed:
        _require_filter(choice, everything)
    statement = IDS.replace("ORDER BY", "AND replayed_at IS NOT NULL ORDER BY") if replayed else IDS
    with session(url, data) as database:
        chosen = [row["id"] for row in database.execute(statement, choice.arguments()).fetchall()]
        if chosen and not yes:
            typer.confirm(f"Delete {len(chosen):,} rejected messages for good?", abort=True)
        for at in range(0, len(chosen), CHUNK_MESSAGES * 10):
            database.execute(PURGE, (chosen[at : at + CHUNK_MESSAGES * 10],))
    typer.echo(f"Deleted {len(chosen):,} rejected messages.")


async def _replay(broker: str, database: psycopg.Connection[dict[str, Any]], chosen: Sequence[int]) -> tuple[int, int]:
    """Publish and mark in chunks, so that a stop loses no mark: how many went out, and how many have no topic that may.

    Raises Transient when the broker does not take one.
    """
    if not chosen:
        return 0, 0
    connection = await Connection.open(
        broker, CLIENT_ID, lambda delivery: None, clean_start=True, session_expiry_s=0, receive_maximum=64
    )
    console = Console(stderr=True)
    progress = Progress(console=console, transient=True)
    bar = progress.add_task("replaying", total=len(chosen))
    replayed = 0
    try:
        with progress if console.is_terminal and len(chosen) > CHUNK_MESSAGES else nullcontext():
            for at in range(0, len(chosen), CHUNK_MESSAGES):
                part = list(chosen[at : at + CHUNK_MESSAGES])
                kept = [replays.Kept(**row) for row in database.execute(PAYLOADS, (part,)).fetchall()]
                sent, problem = await replays.publish(connection, [m for m in kept if replays.can_replay(m.topic)])
                database.execute(MARK, (sent,))
                replayed += len(sent)
                if problem is not None:
                    raise problem
                progress.update(bar, advance=len(part))
    finally:
        await connection.close(end_session=True)
    return replayed, len(chosen) - replayed


def _require_filter(choice: Choice, everything: bool) -> None:
    if choice.everything and not everything:
        raise typer.BadParameter("name IDs, --device, --reason or --since; --all means every rejected message")


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table("id", "rejected", "device", "stream", "seq", "reason", "detail", "bytes", box=None, pad_edge=False)
    for row in rows:
        table.add_row(
            str(row["id"]) + (" ↻" if row["replayed_at"] else ""),
            row["rejected_at"].astimezone().strftime("%m-%d %H:%M:%S"),
            escape(row["device"]),
            row["stream"],
            str(row["seq"] or ""),
            f"[red]{escape(row['reason'])}[/]",
            escape(row["detail"]),
            f"{row['bytes']:,}",
        )
    return table


def _explanation(reason: str) -> str:
    return escape(EXPLANATION[Reason(reason)]) if reason in set(Reason) else ""


def register(main: typer.Typer) -> None:
    """Add `rejected` to the app."""
    main.add_typer(app, name="rejected")
