"""A slot's session against a real Mosquitto: what is in hand stays bounded, and a taken session is let go."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from outrider.contract import topics
from outrider.runtime import session as module
from outrider.runtime.errors import NotStored, SessionTakenOver
from outrider.runtime.mqtt import Connection, Delivery
from outrider.runtime.session import Publisher, Session
from outrider.servers import Mosquitto
from outrider.testing.services import Client, connected
from outrider.testing.waiting import eventually

TOPIC = "outrider/v1/test/0"
EVERYTHING = 1 << 40


@contextlib.asynccontextmanager
async def attended(
    url: str, client_id: str = "svc:test:0", *, receive_maximum: int = 1000, max_bytes: int = EVERYTHING
) -> AsyncIterator[Session]:
    """A session that runs and is subscribed."""
    session = Session(url, client_id, [TOPIC], receive_maximum=receive_maximum, max_bytes=max_bytes)
    running = asyncio.create_task(session.run())
    try:
        await eventually(lambda: session.connected)
        yield session
    finally:
        running.cancel()
        await asyncio.wait([running])
        await session.close()


async def publish_all(client: Client, payloads: list[bytes]) -> None:
    await asyncio.gather(*(client.publish(TOPIC, payload) for payload in payloads))


async def drain(session: Session, count: int) -> list[Delivery]:
    """Take and acknowledge until so many came."""
    taken: list[Delivery] = []
    async with asyncio.timeout(20):
        while len(taken) < count:
            batch = await session.take(100, EVERYTHING, 0)
            session.ack(batch)
            taken += batch
    return taken


async def test_a_taken_over_session_is_not_connected_again(mosquitto: Mosquitto) -> None:
    """Rule 12: two clients with one id would fight for ever."""
    session = Session(mosquitto.url, "svc:test:0", [TOPIC], receive_maximum=10, max_bytes=EVERYTHING)
    running = asyncio.create_task(session.run())
    await eventually(lambda: session.connected)
    async with attended(mosquitto.url) as taker:
        with pytest.raises(SessionTakenOver):
            await asyncio.wait_for(running, 5)
        assert not session.connected
        async with connected(mosquitto.url, "publisher") as client:
            await client.publish(TOPIC, "for the taker")
        (delivery,) = await drain(taker, 1)
        assert delivery.payload == b"for the taker"
        assert taker.connected
    await session.close()


async def test_a_session_whose_connection_broke_waits_for_its_lease_before_it_connects_again(
    mosquitto: Mosquitto,
) -> None:
    asked, allowed = asyncio.Event(), asyncio.Event()

    async def may_connect() -> None:
        asked.set()
        await allowed.wait()

    allowed.set()
    session = Session(
        mosquitto.url, "svc:test:0", [TOPIC], receive_maximum=10, max_bytes=EVERYTHING, may_connect=may_connect
    )
    running = asyncio.create_task(session.run())
    try:
        await eventually(lambda: session.connected)
        asked.clear()
        allowed.clear()
        assert session._connection is not None
        session._connection.abort()
        await asyncio.wait_for(asked.wait(), 5)
        async with attended(mosquitto.url) as taker:  # whose connection would end, did the first one come back
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(running), 1)
            assert (session.connected, taker.connected) == (False, True)
        allowed.set()
        await eventually(lambda: session.connected)
    finally:
        running.cancel()
        await asyncio.wait([running])
        await session.close()


async def test_a_batch_closes_at_the_first_of_its_limits(mosquitto: Mosquitto) -> None:
    async with attended(mosquitto.url) as session, connected(mosquitto.url, "publisher") as client:
        await publish_all(client, [bytes(1000)] * 10)
        await eventually(lambda: session.in_hand[0] == 10)
        assert len(await session.take(4, EVERYTHING, 5.0)) == 4
        assert len(await session.take(100, 3000, 5.0)) == 3
        assert len(await session.take(100, EVERYTHING, 0.05)) == 3
        waiting = asyncio.create_task(session.take(100, EVERYTHING, 0))
        await client.publish(TOPIC, "late")
        (late,) = await asyncio.wait_for(waiting, 5)
        assert late.payload == b"late"


async def test_bytes_in_hand_hold_the_broker_back_and_nothing_is_lost(mosquitto: Mosquitto) -> None:
    size, count, limit = 400_000, 60, 1_000_000
    payloads = [number.to_bytes(4, "big") * (size // 4) for number in range(count)]
    async with attended(mosquitto.url, max_bytes=limit) as session, connected(mosquitto.url, "publisher") as client:
        busy = asyncio.get_running_loop()
        for _ in range(20):  # a busy event loop reads in large pieces, which StreamReader pauses and resumes by itself
            busy.call_soon(time.sleep, 0.01)
        await publish_all(client, payloads)
        await eventually(lambda: session.in_hand[1] > limit)
        # What was in the buffers still comes, and then it stops far below the 24 MB that wait.
        seen = -1
        while seen != session.in_hand[1]:
            seen = session.in_hand[1]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.3):
                    await asyncio.Event().wait()
        assert limit < seen < limit + 3 * 1024 * 1024
        came = await drain(session, count)
        assert [delivery.payload for delivery in came] == payloads
        assert session.in_hand == (0, 0)
        assert session.oldest_ms is None
        await client.publish(TOPIC, "flows again")
        await drain(session, 1)


async def test_unacknowledged_bytes_of_qos_0_are_given_back(mosquitto: Mosquitto) -> None:
    """They share packet id 0; counting by it would pause the session for ever."""
    limit = 100_000
    async with attended(mosquitto.url, max_bytes=limit) as session, connected(mosquitto.url, "publisher") as client:
        for _ in range(5):
            for _ in range(40):
                await client.publish(TOPIC, bytes(2000), qos=0)
            await drain(session, 40)
        assert session.in_hand == (0, 0)


async def test_what_was_in_hand_comes_again_after_a_broker_restart(mosquitto: Mosquitto) -> None:
    async with attended(mosquitto.url) as session:
        async with connected(mosquitto.url, "publisher") as client:
            await publish_all(client, [str(number).encode() for number in range(10)])
        await eventually(lambda: session.in_hand[0] == 10)
        before = await session.take(10, EVERYTHING, 0)
        await asyncio.to_thread(mosquitto.restart)
        await eventually(lambda: session.connected and session.in_hand[0] == 10)
        session.ack(before)  # of the connection that died: nothing
        assert session.in_hand[0] == 10
        again = await drain(session, 10)
        assert [d.payload for d in again] == [d.payload for d in before]
    async with attended(mosquitto.url) as session, connected(mosquitto.url, "publisher") as client:
        await client.publish(TOPIC, "end")
        assert [d.payload for d in await drain(session, 1)] == [b"end"]


async def test_a_broker_that_lost_its_sessions_is_subscribed_again(mosquitto: Mosquitto) -> None:
    """Fault 2: an empty persistence folder, session_present 0."""
    async with attended(mosquitto.url) as session:
        await asyncio.to_thread(mosquitto.kill)
        mosquitto.wipe()
        await asyncio.to_thread(mosquitto.start)
        await eventually(lambda: session.connected)
        async with connected(mosquitto.url, "publisher") as client:
            await client.publish(TOPIC, "after")
        assert [d.payload for d in await drain(session, 1)] == [b"after"]


async def test_a_publisher_comes_back_by_itself(mosquitto: Mosquitto) -> None:
    publisher = Publisher(mosquitto.url, "svc:test:pub:1")
    running = asyncio.create_task(publisher.run())
    await eventually(lambda: publisher.connected)
    received: list[Delivery] = []
    session = await Connection.open(
        mosquitto.url, "svc:test:0", received.append, clean_start=False, session_expiry_s=600, receive_maximum=10
    )
    await session.subscribe([TOPIC])
    await publisher.publish(TOPIC, b"1")
    await asyncio.to_thread(mosquitto.restart)
    await eventually(lambda: publisher.connected)
    await publisher.publish(TOPIC, b"2", user_properties=[("outrider-replay", "1")])
    again: list[Delivery] = []
    session = await Connection.open(
        mosquitto.url, "svc:test:0", again.append, clean_start=False, session_expiry_s=600, receive_maximum=10
    )
    await eventually(lambda: [d.payload for d in again] == [b"1", b"2"])
    assert again[1].properties == {"user_property": [("outrider-replay", "1")]}
    await session.close()
    running.cancel()
    await asyncio.wait([running])
    await publisher.close()


async def test_a_slot_stays_as_long_as_publishers_believe_that_it_is_there(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another group reads the topic, too: of that the broker's PUBACK tells nothing when the slot retires."""
    monkeypatch.setattr(module, "ATTENDED_S", 0.5)
    monkeypatch.setattr(module, "ATTENDED_GRACE_S", 0.5, raising=False)
    question = str(topics.ATTENDED.name(group="test", slot=0))
    publisher = Publisher(mosquitto.url, "svc:test:publisher")
    session = Session(mosquitto.url, "svc:test:0", [TOPIC, question], receive_maximum=1000, max_bytes=EVERYTHING)
    tasks = [asyncio.create_task(publisher.run()), asyncio.create_task(session.run())]
    stored = taken = 0

    async def settle() -> None:
        nonlocal taken
        taken += len(await drain(session, session.in_hand[0]))

    async def publish() -> None:
        nonlocal stored
        await publisher.publish_stored(TOPIC, b"x", group="test", slot=0)
        stored += 1
        await settle()

    try:
        async with connected(mosquitto.url, "svc:other:0", [TOPIC]):
            await eventually(lambda: session.connected and publisher.connected)
            await publish()
            retiring = asyncio.create_task(session.retire())
            with contextlib.suppress(NotStored):
                while True:
                    await publish()
            while not retiring.done():
                await settle()
                await asyncio.wait([retiring], timeout=0.05)
        assert stored == taken > 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await publisher.close()
        await session.close()
