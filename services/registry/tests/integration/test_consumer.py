"""The registry's slot under the behaviour suite of every consumer: inputs are devices' reports of their state."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from outrider.contract import topics
from outrider.servers import Mosquitto
from outrider.testing.consumer_contract import ConsumerContract
from outrider.testing.fixtures import Database
from outrider.testing.services import Client
from outrider_registry import broker
from outrider_registry.app import service
from outrider_registry.testing.control import register

DEVICES = 7


class TestRegistry(ConsumerContract):
    """Each report adds one key to the reported state of one of seven devices."""

    service = service

    @pytest.fixture(autouse=True)
    def _test_account_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The leader takes accounts away that it does not know, such as the one this test publishes with."""
        monkeypatch.setattr(broker, "duties", lambda registry: [])

    def running(self, mosquitto: Mosquitto, database: Database, **settings: Any) -> Any:
        more = {"registry_http_port": 0, "master_key_file": mosquitto.data_dir / "master.key", **settings}
        return super().running(mosquitto, database, **more)

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
