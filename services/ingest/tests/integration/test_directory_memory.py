"""What ingest remembers of the registry: asked once, never older than what it was told, bounded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import psycopg
import pytest

from outrider.runtime.database import Database as Pool
from outrider.runtime.errors import Transient
from outrider.runtime.mqtt import Delivery
from outrider.testing.fixtures import Database
from outrider_ingest import directory as directory_module
from outrider_ingest.directory import Directory
from outrider_ingest.messages import Message, read
from outrider_ingest.store import Seen

pytestmark = pytest.mark.servers


class Counted(Pool):
    """Counts transactions, and does something right after each has read."""

    asked = 0
    after: Callable[[], None] | None = None

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[psycopg.AsyncConnection]:
        async with super().transaction() as connection:
            yield connection
        self.asked += 1
        if self.after:
            self.after()


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Counted]:
    database.rows("INSERT INTO registry.tenant (name) VALUES ('demo')")
    database.rows("INSERT INTO registry.device (id, tenant) SELECT 'van-' || n, 'demo' FROM generate_series(0, 999) n")
    counted = Counted(database.service_urls["ingest"], "test")
    await counted.open()
    yield counted
    await counted.close()


@pytest.fixture
def directory(pool: Counted, database: Database) -> Directory:
    """One that hears of changes, by this test's own word."""
    known = Directory(pool, database.service_urls["ingest"], Clock())
    known.problem = None
    return known


def message(device: str, tenant: str = "demo") -> Message:
    """A plain message as it comes from the broker."""
    topic = f"fleet/v1/{tenant}/{device}/telemetry"
    return read(Delivery(topic, b'{"n":1}', 1, None, 1_790_000_000_000, None))  # type: ignore[arg-type]


async def outcome(directory: Directory, device: str, tenant: str = "demo") -> str:
    """`taken`, or why not."""
    sent = message(device, tenant)
    await directory.check([sent])
    return str(sent.rejections[0].reason) if sent.foreign else "taken"


async def test_a_batch_of_new_devices_is_one_query_and_the_next_none(directory: Directory, pool: Counted) -> None:
    batch = [message(f"van-{n}") for n in range(1000)] + [message(f"ghost-{n}") for n in range(100)]
    await directory.check(batch)
    assert pool.asked == 1
    assert sum(sent.foreign for sent in batch) == 100
    again = [message(f"van-{n}") for n in range(1000)] + [message(f"ghost-{n}") for n in range(100)]
    await directory.check(again)
    assert pool.asked == 1
    assert sum(sent.foreign for sent in again) == 100


async def test_a_retried_batch_is_not_judged_twice(directory: Directory, pool: Counted) -> None:
    sent = message("ghost")
    await directory.check([sent])
    await directory.check([sent])
    assert [rejection.reason for rejection in sent.rejections] == ["unknown_device"]
    assert "; " not in sent.rejections[0].detail


async def test_an_unknown_device_is_asked_for_again_after_a_while(
    directory: Directory, pool: Counted, database: Database
) -> None:
    assert await outcome(directory, "late-1") == "unknown_device"
    database.rows("INSERT INTO registry.device (id, tenant) VALUES ('late-1', 'demo')")
    assert await outcome(directory, "late-1") == "unknown_device"
    assert isinstance(directory._clock, Clock)
    directory._clock.now_s += directory_module.UNKNOWN_FOR_S
    assert await outcome(directory, "late-1") == "taken"


async def test_an_answer_from_before_a_change_is_not_remembered(
    directory: Directory, pool: Counted, database: Database
) -> None:
    """The device is disabled after it was read and before the answer is there."""

    def change() -> None:
        pool.after = None
        database.rows("UPDATE registry.device SET status = 'disabled' WHERE id = 'van-1'")
        directory.tell("device:van-1")

    pool.after = change
    assert await outcome(directory, "van-1") == "taken"
    assert await outcome(directory, "van-1") == "disabled_device"


async def test_other_changes_cost_nothing(directory: Directory, pool: Counted) -> None:
    assert await outcome(directory, "van-1") == "taken"
    for change in ("presence:van-1", "shadow:van-1", "command:x", "device:van-2", "tenant:other", "nonsense"):
        directory.tell(change)
    assert await outcome(directory, "van-1") == "taken"
    assert pool.asked == 1


async def test_while_changes_are_not_heard_only_what_was_known_is_remembered(
    directory: Directory, pool: Counted
) -> None:
    assert await outcome(directory, "van-1") == "taken"
    directory.problem = "does not hear"
    assert await outcome(directory, "van-1") == "taken"
    assert pool.asked == 1
    assert [await outcome(directory, "van-2") for _ in range(2)] == ["taken", "taken"]
    assert pool.asked == 3


async def test_after_a_minute_of_silence_nothing_is_known(
    directory: Directory, pool: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await outcome(directory, "van-1") == "taken"
    monkeypatch.setattr(directory, "_database_url", "postgresql://127.0.0.1:1/nothing")
    monkeypatch.setattr(directory_module, "DEAF_MAX_S", -1.0)
    listening = asyncio.create_task(directory.listen())
    async with asyncio.timeout(20):
        while directory._owners:
            await asyncio.sleep(0.01)
    listening.cancel()
    assert "does not hear" in str(directory.problem)
    assert await outcome(directory, "van-1") == "taken"
    assert pool.asked == 2


async def test_made_up_names_do_not_fill_the_memory(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_module, "UNKNOWN_MAX_DEVICES", 200)
    for batch in range(5):
        await directory.check([message(f"ghost-{batch}-{n}") for n in range(100)])
    assert len(directory._unknown) <= 300


async def test_without_the_registry_nothing_is_taken(database: Database, pool: Counted, directory: Directory) -> None:
    database.rows("DROP VIEW registry.directory")
    with pytest.raises(Transient, match="outrider migrate"):
        await outcome(directory, "van-1")


async def test_an_erased_device_is_erased_until_its_id_is_free_again(directory: Directory, database: Database) -> None:
    assert await outcome(directory, "late-1") == "unknown_device"
    database.rows("INSERT INTO runtime.tombstone (device, tenant) VALUES ('late-1', 'demo')")
    directory.tell("device:late-1")
    assert await outcome(directory, "late-1") == "erased"
    assert await outcome(directory, "late-1") == "erased"
    database.rows("DELETE FROM runtime.tombstone")
    directory.tell("device:late-1")
    assert await outcome(directory, "late-1") == "unknown_device"


async def test_when_an_erased_device_was_heard_is_not_written(pool: Counted, database: Database) -> None:
    seen = Seen()
    seen.note([message("van-1"), message("van-2")])
    database.rows("INSERT INTO runtime.tombstone (device, tenant) VALUES ('van-1', 'demo')")
    await seen.write(pool, 1_790_000_000_000)
    assert database.rows("SELECT device FROM telemetry.seen") == [("van-2",)]
