"""MQTT packets: what is written can be read, any cut of the bytes gives the same packets, and garbage is only ever Malformed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.runtime import packets
from outrider.runtime.errors import ConnectionLost
from outrider.runtime.mqtt import Connection, Delivery
from outrider.runtime.packets import Frame, Malformed

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
PUBLISHES = st.builds(
    lambda topic, payload, packet_id, user: (topic, payload, packet_id, user),
    TEXT,
    st.binary(max_size=400),
    st.integers(0, 65535),
    st.lists(st.tuples(TEXT, TEXT), max_size=3),
)


class Wire(asyncio.Transport):
    """What a connection writes to, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def write(self, data: Any) -> None:
        """Nothing here answers."""

    def close(self) -> None:
        self.closed = True


def whole(data: bytes) -> Frame:
    found, position, needed = packets.frames(data)
    assert (len(found), position, needed) == (1, len(data), 0)
    return found[0]


@given(PUBLISHES)
def test_a_publish_is_read_as_it_was_written(publish: tuple[str, bytes, int, list[tuple[str, str]]]) -> None:
    topic, payload, packet_id, user = publish
    data = packets.publish(topic, payload, packet_id=packet_id, user_properties=user)
    expected = (topic, packet_id, {"user_property": user} if user else None, payload)
    assert packets.read_publish(data, whole(data)) == expected


@given(TEXT, st.binary(max_size=40), st.integers(0, 2**32 - 1), st.lists(st.tuples(TEXT, TEXT), max_size=2))
def test_a_request_is_read_as_it_was_written(
    topic: str, data: bytes, expiry_s: int, user: list[tuple[str, str]]
) -> None:
    written = packets.publish(
        "t", b"x", packet_id=1, user_properties=user, request=packets.Request(topic, data, expiry_s)
    )
    properties = packets.read_publish(written, whole(written))[2] or {}
    assert properties.get("response_topic", [""]) == [topic]
    assert properties.get("correlation_data", [b""]) == [data]
    assert properties.get("message_expiry_interval", [0]) == [expiry_s]
    assert properties.get("user_property", []) == user


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_lengths_at_the_borders_of_their_bytes(size: int) -> None:
    data = packets.publish("t", bytes(size))
    frame = whole(data)
    assert packets.read_publish(data, frame)[3] == bytes(size)
    assert packets.frames(data[:-1])[:2] == ([], 0)
    assert packets.frames(data[: min(4, len(data) - 1)])[2] in (0, len(data))


def test_a_length_of_five_bytes_is_malformed() -> None:
    with pytest.raises(Malformed, match="four bytes"):
        packets.frames(b"\x30\xff\xff\xff\xff\x01")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x30\x00", "no PUBLISH"),
        (b"\x30\x02\x00\x05", "ends before"),
        (b"\x32\x04\x00\x00\x00\x00", "packet id 0"),
        (b"\x34\x05\x00\x00\x00\x01\x00", "QoS 2"),
        (b"\x30\x04\x00\x01\xff\x00", "no PUBLISH"),
        (b"\x30\x04\x00\x00\x01\x7f", "unknown property 127"),
        (b"\x30\x05\x00\x00\x09\x26\x00", "longer than their packet"),
        (b"\x30\x06\x00\x00\x03\x26\x00\x09", "cut off"),
    ],
)
def test_a_publish_that_is_none(data: bytes, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        packets.read_publish(data, (data[0], 2, len(data)))


@given(
    st.sampled_from([packets.PUBLISH, 0x32, packets.CONNACK, packets.PUBACK, packets.SUBACK]), st.binary(max_size=64)
)
@settings(max_examples=500)
def test_garbage_in_a_packet_is_malformed_and_nothing_else(first: int, body: bytes) -> None:
    frame = (first, 0, len(body))
    for read in (packets.read_publish, packets.read_connack, packets.read_codes):
        try:
            read(body, frame)
        except Malformed:
            continue


@given(st.lists(PUBLISHES, max_size=8), st.lists(st.integers(1, 300), max_size=30))
def test_any_cut_of_the_bytes_delivers_the_same_messages(
    publishes: list[tuple[str, bytes, int, list[tuple[str, str]]]], cuts: list[int]
) -> None:
    data = b"".join(packets.publish(t, p, packet_id=i, user_properties=u) for t, p, i, u in publishes)

    async def deliver() -> list[Delivery]:
        got: list[Delivery] = []
        connection = Connection("c", got.append)
        connection.connection_made(Wire())
        at = 0
        for cut in [*cuts, len(data)]:
            connection.data_received(data[at : at + cut])
            at = min(len(data), at + cut)
        assert not connection.closed.is_set()
        return got

    got = asyncio.run(deliver())
    assert [(d.topic, d.payload, d.packet_id) for d in got] == [(t, p, i) for t, p, i, _ in publishes]


@given(st.lists(st.binary(max_size=200), max_size=6))
@settings(max_examples=300)
def test_garbage_from_a_broker_ends_the_connection_and_raises_nothing(chunks: list[bytes]) -> None:
    async def feed() -> None:
        wire = Wire()
        connection = Connection("c", lambda _: None)
        connection.connection_made(wire)
        for chunk in chunks:
            connection.data_received(chunk)
        assert connection.closed.is_set() == wire.closed
        if wire.closed:
            assert isinstance(connection.reason, ConnectionLost)

    asyncio.run(feed())


def test_a_handler_that_fails_leaves_the_message_unacked_and_ends_the_connection() -> None:
    async def feed() -> None:
        def fail(delivery: Delivery) -> None:
            raise RuntimeError("a bug")

        wire = Wire()
        connection = Connection("c", fail)
        connection.connection_made(wire)
        connection.data_received(packets.publish("t", b"x", packet_id=1))
        assert wire.closed
        assert "a bug" in str(connection.reason)

    asyncio.run(feed())


@given(st.lists(st.integers(0, 65535), max_size=20))
def test_joined_pubacks(ids: list[int]) -> None:
    data = packets.puback(ids)
    found, position, _ = packets.frames(data)
    assert position == len(data)
    assert [packets.read_codes(data, frame) for frame in found] == [(i, (0,)) for i in ids if i]
