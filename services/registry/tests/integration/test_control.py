"""The slot's batches, of messages of every kind, and the one replica that leads."""

from __future__ import annotations

import asyncio
from functools import partial

import psycopg

from outrider.contract import topics
from outrider.servers import Mosquitto
from outrider.testing.fixtures import Database
from outrider.testing.services import connected
from outrider.testing.waiting import eventually
from outrider_registry.leader import Changes, Leader
from outrider_registry.testing.control import Device, control_plane, register

LEADER = """
SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objid = 7305412 AND a.datname = current_database()
"""


async def test_one_bad_message_does_not_make_the_others_of_its_batch_count_twice(
    database: Database, mosquitto: Mosquitto
) -> None:
    register(database, "van-7")
    async with connected(mosquitto.url, "van-7") as client:
        device = Device(client, "van-7")
        async with control_plane(database, mosquitto.url):
            pass  # its session waits in the broker from now on, and all of this is one batch
        for state in ("online", "asleep", "offline", "away", "online"):
            await device.status(state)
        for claim in ("aaaaaa", "bbbbbb"):
            await client.publish(topics.CLAIM.name(claim=claim), "{nonsense")
        async with control_plane(database, mosquitto.url):
            await eventually(lambda: database.value("SELECT count(*) FROM rejected.message") >= 4)
            await device.status("offline", reason="last")
            await eventually(lambda: database.value("SELECT reason = 'last' FROM registry.presence"))
    reasons = dict(database.rows("SELECT reason, count(*) FROM rejected.message GROUP BY reason"))
    assert reasons == {"bad_value": 2, "not_json": 2}
    states = [state for (state,) in database.rows("SELECT state FROM registry.presence_event ORDER BY id")]
    assert states == ["online", "offline", "online", "offline"]


async def test_only_who_attends_the_slot_leads(database: Database) -> None:
    """Who takes the slot over ends its old holder's sessions; another leader, frozen, would lead for ever (fault 7)."""
    url, attends = database.service_urls["registry"], {"a": True, "b": False}
    duties = [("nothing", (), _nothing)]
    leaders = {name: Leader(url, f"registry/test/{name}", duties, partial(attends.__getitem__, name)) for name in "ab"}
    tasks = [asyncio.create_task(leader.run()) for leader in leaders.values()]

    def leading() -> list[str]:
        return [name for name, leader in leaders.items() if leader.leads]

    try:
        await eventually(lambda: leading() == ["a"])
        with psycopg.connect(database.admin_url, autocommit=True) as admin:
            # a restart of the database; nobody else steps in
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%test/a'"
            )
            await eventually(lambda: not leading(), interval_s=0.005)
            await eventually(lambda: leading() == ["a"])
            attends |= {"a": False, "b": True}
            await eventually(lambda: leading() == ["b"])
            assert admin.execute(LEADER).fetchall() == [("registry/test/b",)]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_a_row_that_cannot_be_stops_one_duty_and_says_so(database: Database) -> None:
    done: list[str] = []

    async def impossible(changes: Changes) -> None:
        raise psycopg.errors.ForeignKeyViolation("still referenced\nmore of it")

    async def other(changes: Changes) -> None:
        while True:
            done.extend(await changes.take(60))

    leader = Leader(
        database.service_urls["registry"], "registry/test/a", [("impossible", (), impossible), ("other", (), other)]
    )
    task = asyncio.create_task(leader.run())
    try:
        await eventually(lambda: leader.problem() == "impossible: still referenced" and done)
        with psycopg.connect(database.admin_url, autocommit=True) as admin:
            assert admin.execute(LEADER).fetchall() == [("registry/test/a",)]
        assert leader.leads
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _nothing(changes: Changes) -> None:
    while True:
        await changes.take(60)
