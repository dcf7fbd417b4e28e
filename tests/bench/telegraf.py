"""Telegraf as a peer: mqtt_consumer → postgresql with its documented settings, on the same broker and payload."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from string import Template
from typing import Literal, TypeAlias
from urllib.parse import unquote, urlsplit

import psycopg

from outrider.runtime.errors import NotStored
from outrider.runtime.mqtt import Connection
from outrider.servers import ServerError, base
from tests.bench.rows import GrowingTable

Shape: TypeAlias = Literal["wide", "narrow", "unpivot"]
Version: TypeAlias = tuple[int, int, int]

VARIABLE = "OUTRIDER_TELEGRAF"
MINIMUM: Version = (1, 30, 0)
"""Much older ones acknowledge every message when it is read."""
CLIENT_ID = "telegraf"
FILTER = "fleet/v1/+/+/telemetry"
SCHEMA = "telegraf"
TABLE = "telemetry"
UNDELIVERED = 10_000
"""Messages in Telegraf's hands; the broker's own window (max_inflight_messages) is the narrower one as a rule."""
MESSAGES_A_BATCH = 500
"""Half of Outrider's broker window of 1,000: one half is written while the other arrives."""
ROWS_A_BATCH_MAX = 10_000
COLUMNS_BESIDE_VALUES = ("ts", "tag_id")
START_S = 30.0
PUBLISH_AGAIN_S = 3.0
STOP_S = 30.0
UNPIVOT_BUFFER = 1_000_000
"""Samples: nothing holds messages back that are acknowledged when read, so this must take all the sender has under way."""
_TEMPLATE = Path(__file__).with_name("telegraf.conf.in")

PARSE_MESSAGE = """\
  data_format = "json"
  json_time_key = "ts"
  json_time_format = "unix_ms"
  fieldexclude = ["boot", "seq"]
"""
PARSE_SAMPLES = """\
  data_format = "xpath_json"
  xpath_native_types = true
  [[inputs.mqtt_consumer.xpath]]
    metric_selection = "/*[name() != 'boot' and name() != 'seq' and name() != 'ts']"
    timestamp = "/ts"
    timestamp_format = "unix_ms"
    [inputs.mqtt_consumer.xpath.tags]
      metric = "name(.)"
    [inputs.mqtt_consumer.xpath.fields]
      value = "."
"""
KEYED = """\
  create_templates = [
    '''CREATE TABLE {{ .table }} ({{ .columns }}, PRIMARY KEY (tag_id, ts)) PARTITION BY RANGE (ts)''',
    '''CREATE TABLE {{ .table.WithSuffix "_default" }} PARTITION OF {{ .table }} DEFAULT''',
  ]
"""
UNPIVOT = """
[[processors.unpivot]]
  tag_key = "metric"
  value_key = "value"
"""


@dataclass(frozen=True)
class Program:
    """A Telegraf on this machine."""

    path: Path
    version: Version


def find() -> Program:
    """The Telegraf to use: the one named by OUTRIDER_TELEGRAF, else the one `make telegraf` built, else one on PATH.

    ServerError says how to get one.
    """
    if named := os.environ.get(VARIABLE):
        candidates = [Path(named)]
    else:
        candidates = sorted(base.cache_dir().glob("telegraf-*/telegraf"), reverse=True)
        installed = shutil.which("telegraf")
        candidates += [Path(installed)] if installed else []
    passed_over = []
    for path in candidates:
        version = version_of(path)
        if version is not None and version >= MINIMUM:
            return Program(path, version)
        passed_over.append(f"{path} is no Telegraf {'.'.join(map(str, MINIMUM))} or newer. ")
    raise ServerError(
        f"{''.join(passed_over)}No Telegraf: `make telegraf` builds one where Go is installed; "
        f"or install it, or name one with {VARIABLE}=/path/to/telegraf"
    )


def with_output(plugin: str) -> Path | None:
    """The Telegraf of `find` if it has this output, for tests of what the documentation has an agent send; else None."""
    try:
        path = find().path
    except ServerError:
        return None
    have = subprocess.run([path, "plugins", "outputs"], capture_output=True, text=True, timeout=20, check=False).stdout
    return path if f"outputs.{plugin}" in have.split() else None


def version_of(path: Path) -> Version | None:
    """The version a Telegraf names, None if it does not run or names none."""
    try:
        result = subprocess.run([str(path), "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"Telegraf (\d+)\.(\d+)\.(\d+)", result.stdout)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def configuration(shape: Shape, mqtt_url: str, postgres_url: str, samples_per_message: int) -> str:
    """The rendered configuration file.

    - `wide`, Telegraf's native shape and by far its fastest: one row a message (ts, tag_id, a column for each metric)
      in a plain table. A message of n samples is one row where the ledger has n, without key, index or partitions, and
      nothing keeps a redelivered message out: PostgreSQL has much less to do than for the ledger.
    - `narrow`, the ledger's shape and its guarantee: (tag_id, ts, value), primary key (tag_id, ts), partitioned by time.
      Rows are made by the parser that Telegraf's documentation advises: so a message is acknowledged when all of its
      rows are written. A redelivered message violates the key, and Telegraf then drops the batch.
    - `unpivot`, the same table filled through the processor of that name: less CPU, but it acknowledges a message when
      it is read, so a crash loses what Telegraf holds, and so does a buffer that overflows.
    """
    rows = 1 if shape == "wide" else samples_per_message
    broker = urlsplit(mqtt_url)
    return Template(_TEMPLATE.read_text()).substitute(
        batch=min(MESSAGES_A_BATCH * rows, ROWS_A_BATCH_MAX),
        buffer=UNPIVOT_BUFFER if shape == "unpivot" else (UNDELIVERED + MESSAGES_A_BATCH) * rows,
        broker=f"{broker.hostname}:{broker.port or 1883}",
        username=unquote(broker.username or ""),
        password=unquote(broker.password or ""),
        filter=FILTER,
        table=TABLE,
        client_id=CLIENT_ID,
        undelivered=UNDELIVERED,
        parser=PARSE_SAMPLES if shape == "narrow" else PARSE_MESSAGE,
        database=f"{postgres_url}{'&' if '?' in postgres_url else '?'}sslmode=disable",
        schema=SCHEMA,
        shape={"wide": "", "narrow": KEYED, "unpivot": KEYED + UNPIVOT}[shape],
    )


class Telegraf:
    """One Telegraf that writes into tables of its own; a fresh session and fresh tables with every start."""

    def __init__(
        self,
        program: Program,
        shape: Shape,
        mqtt_url: str,
        postgres_url: str,
        folder: Path,
        samples_per_message: int,
    ) -> None:
        self.name = f"telegraf-{shape}"
        self.program = program
        self.shape = shape
        self._mqtt_url = mqtt_url
        self._postgres_url = postgres_url
        self._config = folder / f"{self.name}.conf"
        self._log = folder / f"{self.name}.log"
        self._samples_per_message = samples_per_message
        self._process: subprocess.Popen[bytes] | None = None
        self._database: psycopg.AsyncConnection | None = None
        self._table = self._rows()

    async def start(self) -> None:
        """Returns when a message has gone all the way into its table, which is then empty again.

        ServerError with the end of its log if that does not happen.
        """
        await self._forget_session()
        self._database = await psycopg.AsyncConnection.connect(self._postgres_url, autocommit=True)
        try:
            await self._database.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE".encode())
            await self._database.execute(f"CREATE SCHEMA {SCHEMA}".encode())
            self._configure()
            command = [str(self.program.path), "--config", str(self._config)]
            self._process = base.spawn(base.launcher(command, death_signal=SIGTERM), self._log)
            await self._until_ready(self._process)
            await self._database.execute(f"TRUNCATE {SCHEMA}.{TABLE}".encode())
        except BaseException:
            await self.stop()
            raise
        self._table = self._rows()

    async def stop(self) -> None:
        """Ends it gracefully: what it holds is written first. Its tables stay, its session at the broker does not."""
        if self._process is not None:
            self._process.send_signal(SIGTERM)
            try:
                await asyncio.to_thread(self._process.wait, STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
            await self._forget_session()
        if self._database is not None:
            await self._database.close()
            self._database = None

    def pids(self) -> Mapping[str, int]:
        """Its one process; none while it does not run."""
        return {"telegraf": self._process.pid} if self._process is not None else {}

    async def committed(self) -> int:
        """Samples in its table now, also after `stop()`; cheap while they grow, counted anew once when they rest."""
        if self._database is not None:
            return await self._table.values(self._database)
        async with await psycopg.AsyncConnection.connect(self._postgres_url, autocommit=True) as connection:
            return await self._table.values(connection)

    def _configure(self) -> None:
        text = configuration(self.shape, self._mqtt_url, self._postgres_url, self._samples_per_message)
        self._config.touch(mode=0o600)  # it holds the database's password
        self._config.write_text(text)

    def _rows(self) -> GrowingTable:
        name = TABLE if self.shape == "wide" else f"{TABLE}_default"
        return GrowingTable(SCHEMA, name, without=COLUMNS_BESIDE_VALUES)

    async def _until_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Publishes a message of its own until one arrives in the table."""
        deadline = time.monotonic() + START_S
        published_s = 0.0
        connection = await _connect(self._mqtt_url, f"{CLIENT_ID}-ready")
        try:
            while not await self.committed():
                now_s = time.monotonic()
                if process.poll() is not None or now_s > deadline:
                    raise ServerError(f"telegraf does not write; {self._log} ends with:\n{base.last_lines(self._log)}")
                if now_s - published_s > PUBLISH_AGAIN_S:
                    with contextlib.suppress(NotStored):  # it has not subscribed yet
                        payload = b'{"boot":1,"seq":1,"ts":%d,"ready":1}' % (time.time_ns() // 1_000_000)
                        await connection.publish(FILTER.replace("+", "ready"), payload)
                        published_s = now_s
                await asyncio.sleep(0.05)
        finally:
            await connection.close(end_session=True)

    async def _forget_session(self) -> None:
        """A session left at the broker would go on collecting messages."""
        await (await _connect(self._mqtt_url, CLIENT_ID)).close(end_session=True)


async def _connect(url: str, client_id: str) -> Connection:
    return await Connection.open(
        url, client_id, lambda _: None, clean_start=True, session_expiry_s=0, receive_maximum=10
    )
