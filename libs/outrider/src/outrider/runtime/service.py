"""The chassis of a service: settings, logs, health, database, publisher and consumers, started and stopped in order.

A service author writes `build(chassis)`, which returns the consumers; `Service.main` does everything else.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import uvloop

from outrider.runtime import cancelling, logs, settings
from outrider.runtime.consumer import Consumer, ConsumerSettings, Filters, Handler, OnRejected
from outrider.runtime.database import Database
from outrider.runtime.health import Health
from outrider.runtime.session import Publisher
from outrider.runtime.settings import ServiceSettings

log = logging.getLogger(__name__)

CONSUMERS_AGAIN_S = 12.0
"""A consumer finishes its batch, which takes STOP_GRACE_S at most; cut short, its slots would stay unattended for longer."""

S = TypeVar("S", bound=ServiceSettings)


@dataclass
class Chassis(Generic[S]):
    """What a running service stands on. `every` and `consume` register work; the chassis runs it."""

    name: str
    settings: S
    database: Database
    publisher: Publisher
    health: Health
    consumers: list[Consumer] = field(default_factory=list)
    background: list[tuple[str, Callable[[], Coroutine[Any, Any, None]]]] = field(default_factory=list)

    def consume(
        self, consumer: ConsumerSettings, filters: Filters, handle: Handler, on_rejected: OnRejected | None = None
    ) -> None:
        """Give batches of this group's slots to `handle`; `filters(slot)` are the subscriptions of a slot.

        `on_rejected(delivery, reason)` hears of each message that the runtime kept because `handle` cannot take it.
        """
        built = Consumer(
            consumer,
            filters,
            handle,
            mqtt_url=self.settings.broker_url,
            database=self.database,
            replica=self.settings.replica,
            lease_timeout_s=self.settings.lease_timeout_s,
            in_hand_max_bytes=self.settings.in_hand_max_bytes,
            on_rejected=on_rejected,
        )
        self.consumers.append(built)
        self.health.checks[consumer.group] = built.problem

    def run_beside(self, name: str, task: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `task()` while the service runs; it is cancelled after the consumers stopped."""
        self.background.append((name, task))


@dataclass(frozen=True)
class Service(Generic[S]):
    """A service: its name, its settings class and how it is built."""

    name: str
    settings: type[S]
    build: Callable[[Chassis[S]], Awaitable[None]]
    description: str
    database_sessions: int = 6

    def main(self) -> None:
        """The command line: run, or print the settings."""
        parser = argparse.ArgumentParser(
            prog=f"outrider-{self.name}",
            description=self.description,
            epilog="Settings are read from the environment; see --print-settings.",
        )
        parser.add_argument("--print-settings", action="store_true", help="print the table of settings and exit")
        if parser.parse_args().print_settings:
            print(settings.table(self.settings))
            return
        configured: S = settings.load(self.settings)
        logs.configure(self.name, configured.log_level, configured.log_format)
        # Batches are thousands of objects without cycles that die together: looking for cycles every 700 of them, and
        # through all modules each time, finds nothing.
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        sys.exit(uvloop.run(self.run(configured)))

    async def run(self, configured: S, stop: asyncio.Event | None = None) -> int:
        """Run until SIGTERM or SIGINT (or `stop`); returns the exit code: 1 when a part of the service died."""
        # New for every process, so that a lease can tell a restarted replica from the one before.
        holder = f"{self.name}/{configured.replica[-30:]}/{os.getpid()}-{secrets.token_hex(3)}"
        chassis = Chassis(
            name=self.name,
            settings=configured,
            database=Database(configured.database_url, holder, self.database_sessions),
            publisher=Publisher(configured.broker_url, f"svc:{self.name}:pub:{secrets.token_hex(4)}"),
            health=Health(),
        )
        if stop is None:
            stop = asyncio.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await chassis.database.open()
        await self.build(chassis)
        port = chassis.health.serve(configured.http_host, configured.http_port)
        chassis.health.checks["publisher"] = lambda: (
            None if chassis.publisher.connected else "not connected to the broker"
        )
        log.info("service_started", extra={"replica": configured.replica, "http": f"{configured.http_host}:{port}"})
        try:
            return await _run_all(chassis, stop)
        finally:
            chassis.health.close()
            await chassis.database.close()
            log.info("service_stopped")


async def _run_all(chassis: Chassis[Any], stop: asyncio.Event) -> int:
    beside = [
        asyncio.create_task(chassis.publisher.run(), name="publisher"),
        asyncio.create_task(_observe(chassis), name="observe"),
    ]
    beside += [asyncio.create_task(task(), name=name) for name, task in chassis.background]
    consumers = [asyncio.create_task(consumer.run(), name=consumer.settings.group) for consumer in chassis.consumers]
    stopped = asyncio.create_task(stop.wait(), name="stop")
    done, _ = await asyncio.wait({*beside, *consumers, stopped}, return_when=asyncio.FIRST_COMPLETED)
    died = [task for task in done if task is not stopped]
    for task in died:
        log.error("task_died", exc_info=task.exception(), extra={"task": task.get_name()})
    # Consumers first: they finish their batches, which still need the publisher and the acks.
    for tasks in (consumers, beside[2:], beside[:2], [stopped]):
        await cancelling.end(tasks, CONSUMERS_AGAIN_S if tasks is consumers else cancelling.AGAIN_S)
    await chassis.publisher.close()
    return 1 if died else 0


async def _observe(chassis: Chassis[Any]) -> None:
    while True:
        chassis.health.tick()
        for consumer in chassis.consumers:
            consumer.observe()
        await asyncio.sleep(1)
