"""Leases of slots on a real PostgreSQL: shared fairly, taken back at once, and taken away from a stopped process."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from outrider.runtime.consumer import Consumer, ConsumerSettings
from outrider.runtime.database import Database as Pool
from outrider.runtime.slots import Lease, Slots
from outrider.servers import Mosquitto
from outrider.testing.fixtures import Database
from outrider.testing.services import connected
from outrider.testing.waiting import eventually

GROUP = "writer-logs"
TOPIC = "outrider/v1/logs/0"
LOCK = 42
LEASE_S = 1.0
LATER = "now() + interval '1 hour'"
EPOCHS = "SELECT sum(epoch) FROM runtime.slot"
OLDEST_BEAT = "SELECT min(heartbeat_at) FROM runtime.slot"


class Replica:
    """A replica that attends slots by waiting."""

    def __init__(self, slots: Slots, leases: list[Lease]) -> None:
        self.slots = slots
        self.leases = leases

    @property
    def held(self) -> list[int]:
        return self.slots.held


@contextlib.asynccontextmanager
async def replica(database: Database, name: str, count: int, holder: str = "") -> AsyncIterator[Replica]:
    pool = Pool(database.service_urls[GROUP], holder or f"{GROUP}/{name}/1")
    await pool.open()
    leases: list[Lease] = []

    async def attend(lease: Lease) -> None:
        leases.append(lease)
        await asyncio.Event().wait()

    slots = Slots(pool, GROUP, count, name, LEASE_S, attend)
    running = asyncio.create_task(slots.run())
    try:
        yield Replica(slots, leases)
    finally:
        running.cancel()
        await asyncio.wait([running])
        await pool.close()


def holders(database: Database) -> dict[int, str]:
    return dict(database.rows("SELECT slot, replica FROM runtime.slot WHERE holder IS NOT NULL"))


@pytest.mark.parametrize(("count", "shares"), [(4, [2, 2]), (5, [2, 3]), (1, [0, 1])])
async def test_two_replicas_share_the_slots_and_one_takes_what_the_other_leaves(
    database: Database, count: int, shares: list[int]
) -> None:
    async with replica(database, "one", count) as one:
        await eventually(lambda: len(one.held) == count)
        async with replica(database, "two", count) as two:
            await eventually(lambda: sorted([len(one.held), len(two.held)]) == shares)
            assert not set(one.held) & set(two.held)
            await eventually(lambda: two.slots.problem is None)  # a standby without a slot is well
        await eventually(lambda: len(one.held) == count)
    assert holders(database) == {}
    assert database.value("SELECT count(*) FROM runtime.replica") == 0


async def test_three_replicas_of_four_slots_all_work_and_then_none_moves(database: Database) -> None:
    async with replica(database, "c", 4) as one, replica(database, "b", 4) as two, replica(database, "a", 4) as three:
        await eventually(lambda: sorted(len(each.held) for each in (one, two, three)) == [1, 1, 2])
        settled = database.value(EPOCHS)
        await rounds(database, OLDEST_BEAT, 4)
        assert database.value(EPOCHS) == settled
        await eventually(lambda: len(holders(database)) == 4)


async def test_a_standby_moves_no_slot_when_it_comes(database: Database) -> None:
    async with replica(database, "a", 1) as one:
        await eventually(lambda: one.held == [0])
        async with replica(database, "b", 1) as two, replica(database, "A", 1) as three:
            await eventually(lambda: database.value("SELECT count(*) FROM runtime.replica") == 3)
            await rounds(database, OLDEST_BEAT, 4)
            assert (one.held, two.held, three.held) == ([0], [], [])
            assert database.value(EPOCHS) == 1


async def test_every_lease_of_a_slot_is_a_new_epoch(database: Database) -> None:
    for epoch in (1, 2, 3):
        async with replica(database, "one", 2) as one:
            await eventually(lambda: len(one.leases) == 2)
            assert {(lease.slot, lease.epoch) for lease in one.leases} == {(0, epoch), (1, epoch)}
    assert one.leases[0].client_id == "svc:writer-logs:0"


async def test_a_restarted_replica_of_the_same_name_takes_its_slots_at_once(database: Database) -> None:
    database.rows("SELECT runtime.declare_slots(%s, 3)", GROUP)
    database.rows(
        "UPDATE runtime.slot SET holder = 'the killed process', replica = 'one', heartbeat_at = now() + interval '1 h'"
    )
    async with replica(database, "one", 3) as one:
        await eventually(lambda: len(one.held) == 3)  # (the killed one's heartbeat would have lasted an hour)


async def test_two_processes_of_one_name_share_and_do_not_take_from_each_other_for_ever(database: Database) -> None:
    """The default name is the host's, so two replicas started by hand on one host have the same."""
    async with replica(database, "host", 4, "first") as one:
        await eventually(lambda: len(one.held) == 4)
        async with replica(database, "host", 4, "second") as two:
            await eventually(lambda: (len(one.held), len(two.held)) == (2, 2))
            settled = database.value(EPOCHS)
            await rounds(database, OLDEST_BEAT, 4)
            assert database.value(EPOCHS) == settled


async def test_two_processes_of_one_name_that_start_together_after_a_crash_settle(database: Database) -> None:
    killed(database, "host")
    async with replica(database, "host", 4, "first") as one, replica(database, "host", 4, "second") as two:
        await eventually(lambda: (len(one.held), len(two.held)) == (2, 2))
        await rounds(database, OLDEST_BEAT, 1)  # a hand-over under way when both held two is over
        settled = database.value(EPOCHS)
        await rounds(database, OLDEST_BEAT, 4)
        assert database.value(EPOCHS) == settled


async def test_the_setting_gives_a_group_its_first_slots_and_then_only_an_operator_adds_some(
    database: Database,
) -> None:
    for count in (4, 2, 6):
        async with replica(database, "one", count) as one:
            await eventually(lambda: len(one.held) == 4)
    async with replica(database, "one", 4) as one:
        await eventually(lambda: len(one.held) == 4)
        database.rows("SELECT runtime.declare_slots(%s, 6, true)", GROUP)
        await eventually(lambda: one.held == [0, 1, 2, 3, 4, 5])


async def test_a_retiring_slot_goes_once_its_attendant_has_emptied_it(database: Database) -> None:
    pool = Pool(database.service_urls[GROUP], "retiring")
    await pool.open()
    empty = asyncio.Event()

    async def attend(lease: Lease) -> None:
        await lease.retiring.wait()
        await empty.wait()
        lease.retired.set()

    slots = Slots(pool, GROUP, 3, "one", 1.0, attend)
    running = asyncio.create_task(slots.run())
    await eventually(lambda: slots.held == [0, 1, 2])
    database.rows("UPDATE runtime.slot SET retiring = true WHERE slot = 2")
    beat = "SELECT heartbeat_at FROM runtime.slot WHERE slot = 2"
    before = database.value(beat)
    await eventually(lambda: database.value(beat) > before)
    assert slots.held == [0, 1, 2]  # not empty yet
    empty.set()
    await eventually(lambda: slots.held == [0, 1])
    assert database.rows("SELECT slot FROM runtime.slot ORDER BY slot") == [(0,), (1,)]
    running.cancel()
    await asyncio.wait([running])
    await pool.close()


async def test_a_slot_whose_attendance_ends_is_leased_again(database: Database) -> None:
    pool = Pool(database.service_urls[GROUP], "failing")
    await pool.open()
    epochs: list[int] = []

    async def attend(lease: Lease) -> None:
        epochs.append(lease.epoch)
        raise RuntimeError("session taken over")

    slots = Slots(pool, GROUP, 1, "one", 1.0, attend)
    running = asyncio.create_task(slots.run())
    await eventually(lambda: len(epochs) >= 3)
    assert epochs == list(range(1, len(epochs) + 1))
    running.cancel()
    await asyncio.wait([running])
    await pool.close()


HOLDER = """
import asyncio, sys
from outrider.runtime import logs
from outrider.runtime.consumer import Consumer, ConsumerSettings
from outrider.runtime.database import Database

async def main(mqtt_url, database_url):
    logs.configure("stopped", "INFO", "json")
    database = Database(database_url, "holder-that-stops")
    await database.open()
    async def handle(lease, deliveries):
        async with database.transaction() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(42)")
            print("in-transaction", flush=True)
            await asyncio.sleep(15)  # in the middle of its COPY, as it were
    settings = ConsumerSettings("writer-logs", 1, 10, 1 << 20, 0.0, 10)
    await Consumer(settings, lambda slot: ["outrider/v1/logs/0"], handle, mqtt_url=mqtt_url, database=database,
                   replica="stops", lease_timeout_s=6.0, in_hand_max_bytes=1 << 20).run()

asyncio.run(main(*sys.argv[1:]))
"""


@contextlib.contextmanager
def process(arguments: list[str], output: Path) -> Iterator[subprocess.Popen[bytes]]:
    with output.open("wb") as stdout:
        child = subprocess.Popen([sys.executable, "-c", HOLDER, *arguments], stdout=stdout, stderr=stdout)
        try:
            yield child
        finally:
            child.kill()
            child.wait()


def says(output: Path, text: str) -> Callable[[], bool]:
    return lambda: text in output.read_text()


async def test_a_stopped_holder_is_replaced_within_ten_seconds(
    mosquitto: Mosquitto, database: Database, tmp_path: Path
) -> None:
    """Fault 7: SIGSTOP in mid-transaction, then SIGCONT."""
    output = tmp_path / "holder.log"
    url = database.service_urls[GROUP]
    handled: list[bytes] = []
    pool = Pool(url, "successor")
    await pool.open()

    async def handle(lease: Lease, deliveries: object) -> None:
        async with pool.transaction() as connection:
            await connection.execute(f"SELECT pg_advisory_xact_lock({LOCK})".encode())
        handled.extend(delivery.payload for delivery in deliveries)  # type: ignore[attr-defined]

    backends = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holder-that-stops'"
    slot = "SELECT replica, epoch FROM runtime.slot"
    with process([mosquitto.url, url], output) as stopped:
        await eventually(says(output, "session_connected"))
        async with connected(mosquitto.url, "publisher") as client:
            await client.publish(TOPIC, "1")
            await eventually(says(output, "in-transaction"))
            consumer = Consumer(
                ConsumerSettings(GROUP, 1, 10, 1 << 20, 0.0, 10),
                lambda slot: [TOPIC],
                handle,
                mqtt_url=mosquitto.url,
                database=pool,
                replica="successor",
                lease_timeout_s=6.0,
                in_hand_max_bytes=1 << 20,
            )
            running = asyncio.create_task(consumer.run())
            await eventually(lambda: database.value("SELECT count(*) FROM runtime.replica") == 2)
            assert database.rows(slot) == [("stops", 1)]
            assert database.value(backends) >= 1

            stopped.send_signal(signal.SIGSTOP)
            started = time.monotonic()
            await eventually(lambda: handled == [b"1"], 15)
            assert time.monotonic() - started < 10
            assert database.value(backends) == 0
            assert database.rows(slot) == [("successor", 2)]

            stopped.send_signal(signal.SIGCONT)
            # Whichever it sees first: the broker took its session away, or its heartbeat finds the lease gone.
            await eventually(lambda: says(output, "slot_left")() or says(output, "slot_lost")(), 25)
            await client.publish(TOPIC, "2")
            await eventually(
                lambda: handled == [b"1", b"2"]
            )  # what the stale process finished, it could not acknowledge
            assert output.read_text().count("session_connected") == 1
            assert database.rows(slot) == [("successor", 2)]
            running.cancel()
            await asyncio.wait([running])
    await pool.close()


async def test_slots_takes_what_its_own_lost_commit_reply_left_in_its_name(database: Database) -> None:
    database.rows("SELECT runtime.declare_slots(%s, 2)", GROUP)
    database.rows(
        "UPDATE runtime.slot SET holder = %s, replica = 'a', epoch = 1, heartbeat_at = now() + interval '1 hour'",
        f"{GROUP}/a/1",
    )
    async with replica(database, "a", 2) as a:
        await eventually(lambda: a.held == [0, 1], 5)
        assert {lease.epoch for lease in a.leases} == {2}


async def test_slots_of_a_silent_replica_are_shared_as_soon_as_its_lease_ends(database: Database) -> None:
    database.rows("SELECT runtime.declare_slots(%s, 4)", GROUP)
    database.rows(
        "INSERT INTO runtime.replica (group_name, holder, heartbeat_at) VALUES (%s, 'silent', now() - interval '2 s')",
        GROUP,
    )
    async with replica(database, "a", 4) as a:
        await eventually(lambda: a.leases, 5)
        assert a.held == [0, 1, 2, 3]


async def test_slots_of_the_process_before_are_all_taken_back_in_one_round(database: Database) -> None:
    killed(database, "a")
    async with replica(database, "a", 4) as a:
        await eventually(lambda: a.held == [0, 1, 2, 3], 5)
        assert database.value("SELECT count(DISTINCT acquired_at) FROM runtime.slot") == 1
        assert database.rows("SELECT holder FROM runtime.replica") == [(f"{GROUP}/a/1",)]


async def test_slots_of_another_replica_stay_with_it_when_a_killed_one_returns(database: Database) -> None:
    killed(database, "a")
    database.rows("UPDATE runtime.slot SET holder = 'b', replica = 'b' WHERE slot >= 2")
    database.rows(f"INSERT INTO runtime.replica (group_name, holder, heartbeat_at) VALUES (%s, 'b', {LATER})", GROUP)
    async with replica(database, "a", 4) as a:
        await eventually(lambda: a.held == [0, 1], 5)
        await rounds(database, "SELECT min(heartbeat_at) FROM runtime.slot WHERE replica = 'a'", 2)
        assert holders(database) == {0: "a", 1: "a", 2: "b", 3: "b"}


def killed(database: Database, name: str) -> None:
    """Leave four slots to a process that was killed a moment ago (its heartbeat lasts an hour)."""
    before = f"{GROUP}/{name}/0"
    database.rows("SELECT runtime.declare_slots(%s, 4)", GROUP)
    database.rows(f"UPDATE runtime.slot SET holder = %s, replica = %s, heartbeat_at = {LATER}", before, name)
    database.rows(
        f"INSERT INTO runtime.replica (group_name, holder, heartbeat_at) VALUES (%s, %s, {LATER})", GROUP, before
    )


async def rounds(database: Database, beat: str, count: int) -> None:
    """Wait until the heartbeat that `beat` asks for has advanced so many times."""
    for _ in range(count):
        before = database.value(beat)
        await eventually(lambda before=before: database.value(beat) > before)


async def test_a_lease_is_confirmed_only_while_the_database_renews_it(database: Database) -> None:
    """A replica that was stopped for long must not reconnect before it knows that its slot is still its own."""
    async with replica(database, "one", 1) as one:
        await eventually(lambda: one.held == [0])
        renewal = one.leases[0].renewal
        await asyncio.wait_for(renewal.confirmed(), 1)
        with psycopg.connect(database.admin_url) as other:
            other.execute("LOCK TABLE runtime.slot")
            await eventually(lambda: time.monotonic() - renewal._renewed_s > LEASE_S)
            waiting = asyncio.create_task(renewal.confirmed())
            await asyncio.sleep(0)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 10)
