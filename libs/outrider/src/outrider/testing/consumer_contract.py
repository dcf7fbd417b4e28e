"""The behaviour every consuming service inherits as tests: whatever fails and restarts, each input is stored.

A service's test subclasses `ConsumerContract` and says how to publish inputs, how to read what is stored, and what
poison looks like.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from outrider.access import bootstrap
from outrider.runtime.errors import Transient
from outrider.runtime.service import Service
from outrider.servers import Mosquitto, Postgres
from outrider.testing.fixtures import Database
from outrider.testing.services import Client, connected, running
from outrider.testing.waiting import eventually


class ConsumerContract(ABC):
    """Inherit it in a class named Test…; `service` is the service under test."""

    service: Service[Any]
    settings: dict[str, Any] = {}  # noqa: RUF012 - overridden as a plain class attribute

    @abstractmethod
    async def publish(self, client: Client, number: int) -> None:
        """Publish one good input whose stored value is `number`; raises Transient when the broker did not take it."""

    @abstractmethod
    def stored(self, database: Database) -> Counter[int]:
        """How often each number is stored now."""

    @abstractmethod
    async def publish_poison(self, client: Client) -> None:
        """Publish one input that can never be stored."""

    @contextlib.asynccontextmanager
    async def prepare(self, mqtt_url: str, database: Database) -> AsyncIterator[None]:
        """What the service needs around it (another service's slots, a subscriber); open until the test ends."""
        yield

    def running(self, mosquitto: Mosquitto, database: Database, **settings: Any) -> Any:
        """The service under test, running with its own account at the broker: least rights must be enough.

        One that is not installed has none and runs with the test's.
        """
        name = self.service.name
        url = database.service_urls[name]
        account = mosquitto.url_of(name) if name in bootstrap.services() else mosquitto.url
        return running(self.service, account, url, **{**self.settings, **settings})

    async def all_stored(self, database: Database, count: int, timeout_s: float = 30.0) -> None:
        """Wait until 0 … count−1 are stored, then check that none is stored twice."""
        expected = Counter(range(count))
        try:
            await eventually(lambda: self.stored(database).keys() >= expected.keys(), timeout_s)
        except AssertionError:
            missing = sorted(expected.keys() - self.stored(database).keys())
            raise AssertionError(f"{len(missing)} of {count} never stored: {missing[:10]}") from None
        assert self.stored(database) == expected

    async def test_inputs_are_stored_then_acknowledged(self, mosquitto: Mosquitto, database: Database) -> None:
        async with self.prepare(mosquitto.url, database):
            async with self.running(mosquitto, database), connected(mosquitto.url, "contract-1") as client:
                for number in range(50):
                    await self.publish(client, number)
                await self.all_stored(database, 50)
            # Acknowledged means that a second start gets nothing again.
            async with self.running(mosquitto, database), connected(mosquitto.url, "contract-1") as client:
                await self.publish(client, 50)
                await self.all_stored(database, 51)

    async def test_graceful_restart_keeps_what_arrives_meanwhile(
        self, mosquitto: Mosquitto, database: Database
    ) -> None:
        async with self.prepare(mosquitto.url, database):
            published = 0

            async def publish_on(client: Client, stop: asyncio.Event) -> None:
                nonlocal published
                while not stop.is_set():
                    await self.publish(client, published)
                    published += 1
                    await asyncio.sleep(0.002)

            stop = asyncio.Event()
            async with connected(mosquitto.url, "contract-2") as client:
                async with self.running(mosquitto, database):
                    publishing = asyncio.create_task(publish_on(client, stop))
                    await eventually(lambda: published > 50)
                before = published
                await eventually(lambda: published > before + 50)  # nobody attends the slots now
                async with self.running(mosquitto, database):
                    await eventually(lambda: published > before + 150)
                    stop.set()
                    await publishing
                    await self.all_stored(database, published)

    async def test_broker_restart(self, mosquitto: Mosquitto, database: Database) -> None:
        async with self.prepare(mosquitto.url, database), self.running(mosquitto, database) as service:
            async with connected(mosquitto.url, "contract-3") as client:
                for number in range(20):
                    await self.publish(client, number)
            await asyncio.to_thread(mosquitto.restart)
            await service.ready(30)
            async with connected(mosquitto.url, "contract-3") as client:
                for number in range(20, 40):
                    await self.publish(client, number)
            await self.all_stored(database, 40)

    async def test_database_away_then_back(
        self, mosquitto: Mosquitto, own_postgres: Postgres, own_database: Database
    ) -> None:
        async with self.prepare(mosquitto.url, own_database), self.running(mosquitto, own_database) as service:
            async with connected(mosquitto.url, "contract-4") as client:
                await self.publish(client, 0)
                await self.all_stored(own_database, 1)
                await asyncio.to_thread(own_postgres.kill)
                for number in range(1, 30):
                    await self.publish(client, number)
                await eventually(service.problems, 30)
            await asyncio.to_thread(own_postgres.start)
            await self.all_stored(own_database, 30, 60)
            await service.ready(60)

    async def test_what_was_in_hand_when_it_stopped_comes_again(
        self, mosquitto: Mosquitto, own_postgres: Postgres, own_database: Database
    ) -> None:
        """An ack given before the store has it shows here: nothing of the first run may count on its memory."""
        async with self.prepare(mosquitto.url, own_database), connected(mosquitto.url, "contract-9") as client:
            async with self.running(mosquitto, own_database) as service:
                await self.publish(client, 0)
                await self.all_stored(own_database, 1)
                await asyncio.to_thread(own_postgres.kill)
                for number in range(1, 30):
                    await self.publish(client, number)
                await eventually(lambda: "retries" in str(service.problems()), 30)
                await service.stop()
            await asyncio.to_thread(own_postgres.start)
            async with self.running(mosquitto, own_database):
                await self.all_stored(own_database, 30, 60)

    async def test_poison_is_kept_alone(self, mosquitto: Mosquitto, database: Database) -> None:
        async with self.prepare(mosquitto.url, database), connected(mosquitto.url, "contract-5") as client:
            async with self.running(mosquitto, database):
                await self.publish(client, 0)
                await self.all_stored(database, 1)
            # With the service away these wait together and arrive as one batch.
            for number in range(1, 20):
                await self.publish(client, number)
                if number % 6 == 0:
                    await self.publish_poison(client)
            async with self.running(mosquitto, database):
                await self.all_stored(database, 20)
                await eventually(lambda: database.value("SELECT count(*) FROM rejected.message") >= 3)
            assert database.value("SELECT count(*) FROM rejected.message") == 3

    async def test_thousand_poisonous_inputs_do_not_hold_the_good_ones(
        self, mosquitto: Mosquitto, database: Database
    ) -> None:
        async with (
            self.prepare(mosquitto.url, database),
            self.running(mosquitto, database),
            connected(mosquitto.url, "contract-6") as client,
        ):
            for _number in range(1001):
                await self.publish_poison(client)
            await self.publish(client, 0)
            await self.all_stored(database, 1, 60)
            await eventually(lambda: database.value("SELECT count(*) FROM rejected.message") == 1001, 60)

    async def test_a_second_replica_shares_the_slots_and_takes_over(
        self, mosquitto: Mosquitto, database: Database
    ) -> None:
        group = self.service.name
        held = "SELECT count(*) FROM runtime.slot WHERE group_name = %s AND replica = %s AND holder IS NOT NULL"
        async with (
            self.prepare(mosquitto.url, database),
            connected(mosquitto.url, "contract-7") as client,
            self.running(mosquitto, database, replica="one", lease_timeout_s=2.0),
        ):
            total = database.value("SELECT count(*) FROM runtime.slot WHERE group_name = %s", group)
            await eventually(lambda: database.value(held, group, "one") == total)
            async with self.running(mosquitto, database, replica="two", lease_timeout_s=2.0):
                await eventually(lambda: database.value(held, group, "two") == total // 2)
                await eventually(lambda: database.value(held, group, "one") == total - total // 2)
                for number in range(20):
                    await self.publish(client, number)
            await eventually(lambda: database.value(held, group, "one") == total)
            for number in range(20, 40):
                await self.publish(client, number)
            await self.all_stored(database, 40)

    async def test_missing_broker_is_said(self, mosquitto: Mosquitto, database: Database) -> None:
        async with self.prepare(mosquitto.url, database):
            async with self.running(mosquitto, database) as service:
                await asyncio.to_thread(mosquitto.kill)
                problems = await eventually(service.problems)
                assert problems is not None
                assert any("not connected to the broker" in problem for problem in problems.values())
                await asyncio.to_thread(mosquitto.start)
                await service.ready(30)
            await asyncio.to_thread(mosquitto.kill)
            with pytest.raises(Transient, match="no broker"):
                await connected(mosquitto.url, "contract-8").__aenter__()
