"""One connection against a real Mosquitto: what a PUBACK means, whose an ack is, and how fast a dead link is noticed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
import uvloop

from outrider.runtime.errors import ConnectionLost, NotStored, SessionTakenOver, Transient
from outrider.runtime.mqtt import Connection, Delivery
from outrider.servers import Mosquitto
from outrider.servers.ports import free_port
from outrider.testing.services import connected
from outrider.testing.waiting import eventually

TOPIC = "outrider/v1/test/0"


class Proxy:
    """A TCP proxy that can go silent: it takes everything, passes nothing on and closes nothing, like a dead link."""

    def __init__(self) -> None:
        self.port = 0
        self.silent = False
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    @contextlib.asynccontextmanager
    async def running(self, url: str) -> AsyncIterator[str]:
        """The proxied URL."""
        target = urlsplit(url)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            upstream_reader, upstream_writer = await asyncio.open_connection(target.hostname, target.port)
            self._writers += [writer, upstream_writer]
            for source, sink in ((reader, upstream_writer), (upstream_reader, writer)):
                self._pumps.add(asyncio.create_task(self._pump(source, sink)))

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        try:
            login = f"{target.username}:{target.password}"
            yield f"mqtt://{login}@127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for pump in self._pumps:
                pump.cancel()
            for writer in self._writers:
                writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                if not self.silent:
                    sink.write(data)
                    await sink.drain()
            sink.close()


async def attend(url: str, client_id: str, received: list[Delivery], receive_maximum: int = 100) -> Connection:
    """A connection to a persistent session that acknowledges nothing by itself."""
    return await Connection.open(
        url, client_id, received.append, clean_start=False, session_expiry_s=600, receive_maximum=receive_maximum
    )


def texts(received: list[Delivery]) -> list[str]:
    return [delivery.payload.decode() for delivery in received]


async def test_nobody_subscribed_means_not_stored(mosquitto: Mosquitto) -> None:
    async with connected(mosquitto.url, "publisher") as client:
        with pytest.raises(NotStored, match=TOPIC):
            await client.publish(TOPIC, "1")
        async with connected(mosquitto.url, "subscriber", [TOPIC]) as subscriber:
            await client.publish(TOPIC, "2")
            await eventually(lambda: texts(subscriber.received) == ["2"])

        async def publish_until_refused() -> None:
            while True:
                await client.publish(TOPIC, "3")

        with pytest.raises(NotStored):  # as soon as the broker has noticed that the subscriber left
            await asyncio.wait_for(publish_until_refused(), 5)
        await client.publish(TOPIC, "4", qos=0)  # asks for no answer


async def test_an_offline_session_that_keeps_its_queue_is_a_subscriber(mosquitto: Mosquitto) -> None:
    received: list[Delivery] = []
    connection = await attend(mosquitto.url, "svc:test:0", received)
    assert not connection.session_present
    await connection.subscribe([TOPIC])
    await connection.close()
    async with connected(mosquitto.url, "publisher") as client:
        await client.publish(TOPIC, "kept")
    connection = await attend(mosquitto.url, "svc:test:0", received)
    assert connection.session_present
    await eventually(lambda: texts(received) == ["kept"])
    await connection.close()


async def test_an_ack_of_an_older_connection_changes_nothing(mosquitto: Mosquitto) -> None:
    """Rule 13: packet ids begin anew, so a late ack would hit another message."""
    first: list[Delivery] = []
    a = await attend(mosquitto.url, "svc:test:0", first, receive_maximum=2)
    await a.subscribe([TOPIC])
    async with connected(mosquitto.url, "publisher") as client:
        for number in range(4):
            await client.publish(TOPIC, str(number))
    await eventually(lambda: len(first) == 2)
    a.abort()  # the network dies; nothing was acknowledged
    await asyncio.wait_for(a.closed.wait(), 5)

    second: list[Delivery] = []
    b = await attend(mosquitto.url, "svc:test:0", second, receive_maximum=2)
    await eventually(lambda: texts(second) == ["0", "1"])
    assert {d.packet_id for d in first} & {d.packet_id for d in second}
    a.ack([delivery.packet_id for delivery in first])
    for delivery in first:
        delivery.connection.ack([delivery.packet_id])
    b.abort()
    await asyncio.wait_for(b.closed.wait(), 5)

    third: list[Delivery] = []
    c = await attend(mosquitto.url, "svc:test:0", third, receive_maximum=2)
    await eventually(lambda: texts(third) == ["0", "1"])  # the stale acks freed nothing
    c.ack([delivery.packet_id for delivery in third])
    await eventually(lambda: texts(third) == ["0", "1", "2", "3"])
    await c.close()


async def test_a_second_connection_with_the_same_id_takes_the_session_over(mosquitto: Mosquitto) -> None:
    a = await attend(mosquitto.url, "svc:test:0", [])
    b = await attend(mosquitto.url, "svc:test:0", [])
    await asyncio.wait_for(a.closed.wait(), 5)
    assert isinstance(a.reason, SessionTakenOver)
    with pytest.raises(SessionTakenOver):
        await a.publish(TOPIC, b"x")
    assert not b.closed.is_set()
    await b.close()


@pytest.mark.parametrize("maximum", [1, 7])
async def test_receive_maximum_bounds_what_is_in_hand(mosquitto: Mosquitto, maximum: int) -> None:
    unacked: list[Delivery] = []
    seen: list[Delivery] = []
    most = 0

    def take(delivery: Delivery) -> None:
        nonlocal most
        seen.append(delivery)
        unacked.append(delivery)
        most = max(most, len(unacked))

    connection = await Connection.open(
        mosquitto.url, "svc:test:0", take, clean_start=False, session_expiry_s=600, receive_maximum=maximum
    )
    await connection.subscribe([TOPIC])
    async with connected(mosquitto.url, "publisher") as client:
        await asyncio.gather(*(client.publish(TOPIC, str(number)) for number in range(50)))
    await eventually(lambda: len(unacked) == maximum)
    while len(seen) < 50:
        delivery = unacked.pop(0)
        connection.ack([delivery.packet_id])
        count = len(seen)
        await eventually(lambda: len(seen) > count or len(seen) == 50, interval_s=0.001)  # noqa: B023
    assert most == maximum
    assert sorted(map(int, texts(seen))) == list(range(50))
    await connection.close()


async def test_a_packet_of_three_mebibytes_passes(mosquitto: Mosquitto) -> None:
    payload = bytes(range(256)) * (3 * 4096)
    async with connected(mosquitto.url, "big", [TOPIC]) as client:
        await client.publish(TOPIC, payload)
        await eventually(lambda: client.received)
        assert client.received[0].payload == payload


async def test_a_packet_beyond_the_brokers_limit_is_an_error_that_says_so(mosquitto: Mosquitto) -> None:
    async with connected(mosquitto.url, "big", [TOPIC]) as client:
        with pytest.raises(Transient, match=r"max_packet_size|closed the connection"):
            await client.publish(TOPIC, bytes(5 * 1024 * 1024))


async def test_a_refused_connection_says_where(mosquitto: Mosquitto) -> None:
    port = free_port()
    with pytest.raises(Transient, match=rf"no broker at 127.0.0.1:{port}: .* start it, or mend OUTRIDER_MQTT_URL"):
        await attend(f"mqtt://127.0.0.1:{port}", "svc:test:0", [])


async def test_a_broker_that_does_not_answer_is_a_timeout() -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with server:
        url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(Transient, match=r"no broker at .*: no answer within 0.3 s"):
            await Connection.open(
                url, "x", lambda _: None, clean_start=True, session_expiry_s=0, receive_maximum=1, timeout_s=0.3
            )


async def test_a_bad_password_says_what_to_do(mosquitto: Mosquitto) -> None:
    wrong = f"mqtt://svc%3Atest:wrong@127.0.0.1:{mosquitto.port}"
    with pytest.raises(Transient, match=r"refused svc:test:0: (not authorized|wrong user name)"):
        await attend(wrong, "svc:test:0", [])


async def test_half_open_tcp_is_noticed_within_one_and_a_half_keepalives(mosquitto: Mosquitto) -> None:
    """Fault 21. Nothing is closed and nothing comes: only silence tells."""
    keepalive_s = 2
    proxy = Proxy()
    async with proxy.running(mosquitto.url) as url:
        connection = await Connection.open(
            url,
            "half-open",
            lambda _: None,
            clean_start=True,
            session_expiry_s=0,
            receive_maximum=10,
            keepalive_s=keepalive_s,
        )
        # An idle healthy link lives on: pings go out and are answered.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connection.closed.wait(), 1.6 * keepalive_s)
        proxy.silent = True
        started = time.monotonic()
        publishing = asyncio.create_task(connection.publish(TOPIC, b"lost"))
        await asyncio.wait_for(connection.closed.wait(), 3 * keepalive_s)
        took_s = time.monotonic() - started
        assert took_s <= 1.5 * keepalive_s + 0.2
        assert isinstance(connection.reason, ConnectionLost)
        with pytest.raises(ConnectionLost, match="silent for"):
            await publishing
        started = time.monotonic()
        await connection.close()
        assert time.monotonic() - started < 1


async def test_a_paused_connection_is_not_taken_for_dead(mosquitto: Mosquitto) -> None:
    received: list[Delivery] = []
    connection = await Connection.open(
        mosquitto.url,
        "svc:test:0",
        received.append,
        clean_start=True,
        session_expiry_s=0,
        receive_maximum=10,
        keepalive_s=1,
    )
    await connection.subscribe([TOPIC])
    connection.pause()
    async with connected(mosquitto.url, "publisher") as client:
        await client.publish(TOPIC, "waits")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connection.closed.wait(), 2.5)
        assert received == []
        connection.resume()
        await eventually(lambda: texts(received) == ["waits"])
        assert not connection.closed.is_set()
    await connection.close()


def test_under_uvloop_as_in_the_services(mosquitto: Mosquitto) -> None:
    """Its transports are no `asyncio.Transport`, and the other tests run on asyncio's own loop."""

    async def round_trip() -> list[str]:
        async with connected(mosquitto.url, "client", [TOPIC]) as client:
            await client.publish(TOPIC, "1")
            await eventually(lambda: client.received)
            return texts(client.received)

    assert uvloop.run(round_trip()) == ["1"]


async def test_a_delivery_says_whether_it_was_retained(mosquitto: Mosquitto) -> None:
    async with connected(mosquitto.url, "keeper", [TOPIC]) as keeper:
        await keeper.publish(TOPIC, b"x", retain=True)
        await eventually(lambda: keeper.received)
        async with connected(mosquitto.url, "late", [TOPIC]) as late:
            await eventually(lambda: late.received)
    assert [delivery.retained for delivery in (*keeper.received, *late.received)] == [False, True]
