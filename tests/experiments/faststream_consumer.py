"""The registry's slot handled by FastStream instead of the runtime's consumer, under the suite of every consumer.

Run by `faststream_control.py`, in an environment that has `faststream[mqtt]`; the project itself does not depend on it.
The settings are those that do not lose data: MQTT 5, QoS 1, manual acks, a fixed client id, a session that is kept,
unlimited reconnects, and nothing unsubscribed at a stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import zmqtt
from faststream import AckPolicy
from faststream.mqtt import MQTTBroker
from faststream.mqtt.annotations import MQTTMessage

from outrider.contract import topics
from outrider.runtime import rejects
from outrider.runtime.backoff import Backoff
from outrider.runtime.consumer import ConsumerSettings
from outrider.runtime.errors import Rejected, Transient
from outrider.runtime.mqtt import Delivery
from outrider.runtime.service import Chassis, Service
from outrider.servers import Mosquitto
from outrider.testing.consumer_contract import ConsumerContract
from outrider.testing.fixtures import Database
from outrider.testing.services import Client, connected
from outrider.testing.waiting import eventually
from outrider_registry import control
from outrider_registry.context import Registry
from outrider_registry.settings import Settings
from outrider_registry.testing import KEYS
from outrider_registry.testing.control import register

DEVICES = 7
MESSAGES = 1000
FILTER = topics.SHADOW_REPORTED.filter()


async def build_faststream(chassis: Chassis[Settings]) -> None:
    """The same handler, called by FastStream."""
    registry = Registry(chassis.settings, chassis.database, KEYS, chassis.publisher, "")
    problem: str | None = "not subscribed"

    async def run() -> None:
        nonlocal problem
        broker = MQTTBroker(
            chassis.settings.mqtt_url,
            client_id="svc:registry:0",
            version="5.0",
            clean_session=False,
            session_expiry_interval=0xFFFFFFFF,
            receive_maximum=1000,
            reconnect=zmqtt.ReconnectConfig(initial_delay=0.2, max_delay=2.0, max_attempts=None),
            logger=None,
        )

        @broker.subscriber(FILTER, qos=1, ack_policy=AckPolicy.MANUAL)
        async def handle(body: Any, message: MQTTMessage) -> None:
            nonlocal problem
            # `body` is decoded already; a narrower type here would fail before the handler, un-acked for ever.
            raw = message.raw_message
            nobody: Any = None
            delivery = Delivery(raw.topic, raw.payload, 0, nobody, time.time_ns() // 1_000_000, None, raw.retain)
            backoff = Backoff(max_s=5.0)
            while True:
                try:
                    await control.handle(registry, [delivery])
                    break
                except Rejected as error:
                    kept = rejects.from_topic(raw.topic, raw.payload, delivery.received_ms, error.reason, error.detail)
                    with contextlib.suppress(Transient):
                        async with registry.database.transaction() as connection:
                            await rejects.keep(connection, "registry", [kept])
                        break
                except Transient as error:
                    problem = f"retries: {error}"
                    await asyncio.sleep(backoff.next_s())
            problem = None
            await message.ack()

        try:
            await broker.start()
            problem = None
            await asyncio.Event().wait()
        finally:
            for (
                subscriber
            ) in broker.subscribers:  # otherwise its stop sends UNSUBSCRIBE, and what arrives meanwhile is lost
                subscriber._subscription = None  # type: ignore[attr-defined]
            await broker.stop()

    chassis.health.checks["faststream"] = lambda: problem
    chassis.run_beside("faststream", run)


async def build_runtime(chassis: Chassis[Settings]) -> None:
    """As the registry does it."""
    registry = Registry(chassis.settings, chassis.database, KEYS, chassis.publisher, "")

    async def handle(_: Any, deliveries: Any) -> None:
        await control.handle(registry, deliveries)

    chassis.consume(ConsumerSettings("registry", 1, 500, 4 * 1024 * 1024, 0.05, 1000), lambda _: [FILTER], handle)


def service_of(build: Any) -> Service[Settings]:
    """A service with nothing but the slot."""
    return Service("registry", Settings, build, "", database_sessions=12)


def _note(line: str) -> None:
    with open(os.environ["OUTRIDER_EXPERIMENT_FILE"], "a") as file:
        file.write(line + "\n")


class _Reports(ConsumerContract):
    def running(self, mosquitto: Mosquitto, database: Database, **settings: Any) -> Any:
        return super().running(mosquitto, database, **{"registry_http_port": 0, **settings})

    @contextlib.asynccontextmanager
    async def prepare(self, mqtt_url: str, database: Database) -> AsyncIterator[None]:
        register(database, *(f"van-{number}" for number in range(DEVICES)), tenant="demo")
        yield

    async def publish(self, client: Client, number: int) -> None:
        topic = topics.SHADOW_REPORTED.name(tenant="demo", device=f"van-{number % DEVICES}")
        await client.publish(topic, {"version": 1, "state": {f"n{number}": number}})

    async def publish_poison(self, client: Client) -> None:
        await client.publish(topics.SHADOW_REPORTED.name(tenant="demo", device="van-1"), "{nonsense")

    def stored(self, database: Database) -> Counter[int]:
        rows = database.rows("SELECT value::int FROM registry.shadow, jsonb_each_text(reported)")
        return Counter(number for (number,) in rows)

    async def test_messages_a_second(self, mosquitto: Mosquitto, database: Database) -> None:
        """From the first of 1,000 reports, published as fast as they are taken, until all are stored."""
        register(database, *(f"d-{number}" for number in range(300)), tenant="demo")
        async with self.running(mosquitto, database), connected(mosquitto.url, "load") as client:
            started = time.perf_counter()
            await asyncio.gather(
                *(
                    client.publish(
                        topics.SHADOW_REPORTED.name(tenant="demo", device=f"d-{number % 300}"),
                        {"version": 1, "state": {f"n{number}": number}},
                    )
                    for number in range(MESSAGES)
                )
            )
            await eventually(lambda: sum(self.stored(database).values()) == MESSAGES, 200)
            rate = MESSAGES / (time.perf_counter() - started)
        record = json.dumps({"way": type(self).__name__, "messages_per_s": round(rate)})
        await asyncio.to_thread(_note, record)


class TestFastStream(_Reports):
    """FastStream."""

    service = service_of(build_faststream)


class TestRuntime(_Reports):
    """The runtime's consumer, for comparison."""

    service = service_of(build_runtime)
