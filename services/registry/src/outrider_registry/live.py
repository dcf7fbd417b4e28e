"""Live streams of one replica: what changes is read once a second for all who watch, and told to each.

A stream keeps no queue: what its reader has not taken is replaced by what is newer. It works with any replica, since
everything comes from PostgreSQL: values by reading the newest ones again, the rest by NOTIFY.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from outrider.runtime.backoff import Backoff
from outrider.runtime.errors import Transient
from outrider_registry.api.fields import iso
from outrider_registry.context import Registry
from outrider_registry.errors import TooMany
from outrider_registry.leader import CHANNEL
from outrider_registry.store import live
from outrider_registry.store.rows import Row
from outrider_registry.store.transactions import of_tenant

log = logging.getLogger(__name__)

PERIOD_S = 1.0
MAX_SHARE = 0.25
"""Reading takes at most this part of the time: where it is slow, streams tell less often."""
HEARD_S = 15.0
"""Who was heard within so many seconds may have a new position."""
MAX_STREAMS = 10
"""Of one account, in one replica."""
KINDS = ("presence", "shadow", "command")


class Stream:
    """What one reader is told. `device` None: the whole fleet."""

    def __init__(self, account: UUID, tenant: str, device: str | None, kinds: frozenset[str]) -> None:
        self.account = account
        self.tenant = tenant
        self.device = device
        self.kinds = kinds
        """Which of KINDS its reader may see."""
        self.fresh = True
        """Nothing was told yet: the first time it is told everything."""
        self._events: dict[str, tuple[str, Any]] = {}
        self._fleet: dict[str, dict[str, Any]] = {}
        self._values: dict[str, Any] = {}
        self._ts = ""
        self._ready = asyncio.Event()

    def tell(self, event: str, data: dict[str, Any], key: str = "") -> None:
        """An event, in the place of an older one of the same key that was not taken."""
        if event in self.kinds:
            self._events[f"{event}:{key}"] = (event, data)
            self._ready.set()

    def tell_values(self, ts: str, values: dict[str, Any]) -> None:
        """New values of the device."""
        self._values |= values
        self._ts = max(self._ts, ts)
        self._ready.set()

    def tell_fleet(self, device: str, change: dict[str, Any]) -> None:
        """Something new of one of the devices."""
        self._fleet.setdefault(device, {"id": device}).update(change)
        self._ready.set()

    async def take(self, timeout_s: float) -> list[tuple[str, Any]]:
        """Wait for events; none after `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        self._ready.clear()
        events = list(self._events.values())
        if self._values:
            events.append(("latest", {"ts": self._ts, "values": self._values}))
        if self._fleet:
            events.append(("fleet", {"devices": list(self._fleet.values())}))
        self._events, self._values, self._fleet, self._ts = {}, {}, {}, ""
        return events


class Hub:
    """All streams of this replica. Reads while there is one."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._streams: set[Stream] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._changed: dict[str, set[str]] = {kind: set() for kind in KINDS}
        self._missed = True
        """Changes may not have been heard: read everything that is watched."""
        self._values: dict[tuple[str, str], dict[str, tuple[str, Any]]] = {}
        self._positions: dict[str, dict[str, str]] = {}

    def open(self, account: UUID, tenant: str, device: str | None, kinds: Iterable[str]) -> Stream:
        """A new stream; give it back with `close`. Raises TooMany."""
        if Counter(stream.account for stream in self._streams)[account] >= MAX_STREAMS:
            raise TooMany(f"You have {MAX_STREAMS} live streams open already. Close a page.", retry_after_s=10)
        stream = Stream(account, tenant, device, frozenset(kinds))
        self._streams.add(stream)
        if not self._tasks:
            self._missed = True
            self._tasks = [
                asyncio.create_task(self._again(self._listen), name="live listener"),
                asyncio.create_task(self._again(self._read), name="live reader"),
            ]
        return stream

    def close(self, stream: Stream) -> None:
        """The reader is gone; with the last one nothing is read any more."""
        self._streams.discard(stream)
        if not self._streams:
            for task in self._tasks:
                task.cancel()
            self._tasks = []
            self._values.clear()
            self._positions.clear()

    async def _again(self, work: Callable[[Backoff], Awaitable[None]]) -> None:
        backoff = Backoff()
        while True:
            try:
                await work(backoff)
            except (Transient, psycopg.Error) as error:
                log.warning("live_interrupted", extra={"reason": str(error).strip().split("\n", 1)[0]})
            except Exception:
                log.exception("live_failed")
            self._missed = True
            await asyncio.sleep(backoff.next_s())

    async def _listen(self, backoff: Backoff) -> None:
        database = self._registry.database
        connection = await psycopg.AsyncConnection.connect(
            self._registry.settings.database_url,
            autocommit=True,
            application_name=database.application_name,
            connect_timeout=5,
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
        )
        async with connection:
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
            self._missed = True
            backoff.reset()
            while True:
                async for notice in connection.notifies(timeout=5):
                    kind, _, id_ = notice.payload.partition(":")
                    if kind in self._changed:
                        self._changed[kind].add(id_)
                await connection.execute("SELECT 1")  # a connection that died without a word is noticed

    async def _read(self, backoff: Backoff) -> None:
        while True:
            started = time.monotonic()
            changed, self._changed = self._changed, {kind: set() for kind in KINDS}
            missed, self._missed = self._missed, False
            for tenant in {stream.tenant for stream in self._streams}:
                streams = [stream for stream in self._streams if stream.tenant == tenant]
                async with of_tenant(self._registry.database, tenant) as connection:
                    await self._tell_devices(
                        connection, tenant, [s for s in streams if s.device is not None], changed, missed
                    )
                    await self._tell_fleet(
                        connection, tenant, [s for s in streams if s.device is None], changed, missed
                    )
                for stream in streams:
                    stream.fresh = False
            backoff.reset()
            took_s = time.monotonic() - started
            await asyncio.sleep(max(PERIOD_S - took_s, took_s * (1 / MAX_SHARE - 1)))

    async def _tell_devices(
        self,
        connection: psycopg.AsyncConnection,
        tenant: str,
        streams: list[Stream],
        changed: dict[str, set[str]],
        missed: bool,
    ) -> None:
        of_device = _by_device(streams)
        if not of_device:
            return
        await self._tell_values(connection, tenant, of_device)
        fresh = {stream.device for stream in streams if stream.fresh and stream.device}

        def affected(kind: str) -> list[str]:
            return list(of_device if missed else fresh | (changed[kind] & of_device.keys()))

        if devices := affected("presence"):
            for row in await live.presence(connection, devices):
                for stream in of_device[row["device"]]:
                    stream.tell("presence", _plain(row))
        if devices := affected("shadow"):
            for row in await live.shadows(connection, devices):
                for stream in of_device[row["device"]]:
                    stream.tell("shadow", _plain(row))
        ids = [id_ for id_ in changed["command"] if _is_uuid(id_)]
        if ids or missed:
            for row in await live.commands(connection, list(of_device), ids, all_open=missed):
                for stream in of_device[row["device"]]:
                    stream.tell("command", _plain(row), key=str(row["id"]))

    async def _tell_values(
        self, connection: psycopg.AsyncConnection, tenant: str, of_device: dict[str, list[Stream]]
    ) -> None:
        now: dict[str, dict[str, tuple[str, Any]]] = {device: {} for device in of_device}
        for row in await live.latest(connection, list(of_device)):
            now[row["device"]][row["metric"]] = (iso(row["ts"]), row["value"])
        for device, values in now.items():
            before = self._values.get((tenant, device), {})
            self._values[tenant, device] = values
            new = {metric: value for metric, value in values.items() if before.get(metric) != value}
            for stream in of_device[device]:
                told = values if stream.fresh else new
                if told:
                    stream.tell_values(max(ts for ts, _ in told.values()), {m: value for m, (_, value) in told.items()})
        watched = {(stream.tenant, stream.device) for stream in self._streams}
        self._values = {key: values for key, values in self._values.items() if key in watched}

    async def _tell_fleet(
        self,
        connection: psycopg.AsyncConnection,
        tenant: str,
        streams: list[Stream],
        changed: dict[str, set[str]],
        missed: bool,
    ) -> None:
        if not streams:
            self._positions.pop(tenant, None)
            return
        known = self._positions.setdefault(tenant, {})
        for row in await live.moved(connection, HEARD_S):
            device, ts = row["device"], iso(row["ts"])
            is_new = known.get(device) != ts
            known[device] = ts
            change = {"lat": row["lat"], "lon": row["lon"], "heading": row["heading"]}
            change["ts_ms"] = round(row["ts"].timestamp() * 1000)
            for stream in streams:
                if is_new or stream.fresh:
                    stream.tell_fleet(device, change)
        everybody = missed or any(stream.fresh for stream in streams)
        if everybody or changed["presence"]:
            rows = await live.presence(connection, None if everybody else list(changed["presence"]))
            for row in rows:
                for stream in streams:
                    if missed or stream.fresh or row["device"] in changed["presence"]:
                        stream.tell_fleet(row["device"], {"presence": row["state"]})


def _by_device(streams: list[Stream]) -> dict[str, list[Stream]]:
    found: dict[str, list[Stream]] = {}
    for stream in streams:
        if stream.device is not None:
            found.setdefault(stream.device, []).append(stream)
    return found


def _plain(row: Row) -> dict[str, Any]:
    return {name: iso(value) if hasattr(value, "astimezone") else value for name, value in row.items()}


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
