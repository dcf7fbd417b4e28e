"""`outrider tail`: a live view of the broker's traffic."""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import aiomqtt
import orjson
import typer
from rich.console import Console

from outrider.runtime.backoff import Backoff
from outrider_cli.connect import DataOption, MqttUrlOption, mqtt_url
from outrider_cli.tail_view import describe, read

HELP = """Show messages as they pass the broker, readable and in colour; compressed ones are unpacked.

Examples:

  outrider tail                                         all devices

  outrider tail 'fleet/v1/demo/vehicle-0001/#'          one device and what it is told

  outrider tail 'fleet/v1/+/+/ack'                      application acks

  outrider tail 'outrider/v1/#'                         batches between the services

  outrider tail --json | jq .payload.speed_kmh
"""


def tail(
    topic_filter: Annotated[str, typer.Argument(metavar="FILTER", help="MQTT topic filter.")] = "fleet/#",
    raw: Annotated[bool, typer.Option("--raw", help="Topic and payload as they are.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a message.")] = False,
    count: Annotated[int, typer.Option(min=0, help="End after so many messages; 0: until Ctrl-C.")] = 0,
    url: MqttUrlOption = None,
    data: DataOption = Path(".outrider"),
) -> None:
    """Show messages as they pass the broker."""
    if raw and as_json:
        raise typer.BadParameter("choose one of --raw and --json")
    broker = mqtt_url(url, data)
    with suppress(KeyboardInterrupt, BrokenPipeError):
        asyncio.run(_tail(broker, topic_filter, _Printer(raw, as_json), count))


class _Printer:
    """Prints one message in the chosen form."""

    def __init__(self, raw: bool, as_json: bool) -> None:
        self._raw, self._json = raw, as_json
        self._console = Console(highlight=False, soft_wrap=True)

    def show(self, message: aiomqtt.Message) -> None:
        """One line for one message."""
        topic, payload = str(message.topic), message.payload
        body = bytes(payload) if isinstance(payload, bytes | bytearray) else str(payload or "").encode()
        if self._json:
            line = {
                "received_ms": time.time_ns() // 1_000_000,
                "topic": topic,
                "qos": message.qos,
                "retain": message.retain,
                "bytes": len(body),
                "payload": read(body),
            }
            sys.stdout.write(orjson.dumps(line).decode() + "\n")
            sys.stdout.flush()
        elif self._raw:
            sys.stdout.buffer.write(topic.encode() + b" " + body + b"\n")
            sys.stdout.flush()
        else:
            clock = datetime.now().astimezone().strftime("%H:%M:%S.%f")[:-3]
            retained = " [yellow]retained[/]" if message.retain else ""
            self._console.print(f"[dim]{clock}[/] {describe(topic, body)}{retained}")


async def _tail(url: str, topic_filter: str, printer: _Printer, count: int) -> None:
    """Print until `count` messages came (0: for ever); a lost connection is made again."""
    parts = urlsplit(url)
    tls = parts.scheme in ("mqtts", "ssl")
    backoff = Backoff()
    shown = 0
    while True:
        try:
            async with aiomqtt.Client(
                parts.hostname or "127.0.0.1",
                parts.port or (8883 if tls else 1883),
                username=unquote(parts.username) if parts.username else None,
                password=unquote(parts.password) if parts.password else None,
                protocol=aiomqtt.ProtocolVersion.V5,
                tls_context=ssl.create_default_context() if tls else None,
            ) as client:
                await client.subscribe(topic_filter)
                backoff.reset()
                async for message in client.messages:
                    printer.show(message)
                    shown += 1
                    if shown == count:
                        return
        except aiomqtt.MqttError as error:
            typer.echo(f"{error}; trying again …", err=True)
            await asyncio.sleep(backoff.next_s())


def register(app: typer.Typer) -> None:
    """Add `tail` to the app."""
    app.command(help=HELP)(tail)
