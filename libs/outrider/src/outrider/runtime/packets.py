"""MQTT 5 packets as bytes: framing, what a client sends, and what a broker answers; pure, no I/O.

Only what this platform uses: QoS 0 and 1, no topic aliases, no enhanced authentication. Numbers in the comments are
sections of the OASIS standard MQTT 5.0. Whatever cannot be read raises `Malformed`, never anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

CONNECT, CONNACK, PUBLISH, PUBACK = 0x10, 0x20, 0x30, 0x40
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK = 0x80, 0x90, 0xA0, 0xB0
PINGRESP, DISCONNECT = 0xD0, 0xE0
PINGREQ = b"\xc0\x00"

Properties = dict[str, list[Any]]
"""By name; a list each, because user properties may come again."""


class Malformed(ValueError):
    """Bytes that are no MQTT packet."""


# Plain tuples, because one of each is made for every message: named ones took a third of the time of the whole read.
Frame = tuple[int, int, int]
"""(first, start, end) of one whole packet: the first byte of its header (type and flags), and its body `data[start:end]`."""
Publish = tuple[str, int, Properties | None, bytes]
"""(topic, packet id, properties, payload) of a PUBLISH; the packet id is 0 with QoS 0."""


class Will(NamedTuple):
    """What the broker publishes when the connection dies without a DISCONNECT."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


class Request(NamedTuple):
    """What makes a PUBLISH a request or the answer to one (3.3.2.3, 4.10); what is empty is left out."""

    response_topic: str = ""
    correlation_data: bytes = b""
    expiry_s: int = 0
    """The broker drops what it could not hand on for so long."""


def frames(data: bytes) -> tuple[list[Frame], int, int]:
    """The whole packets in `data`, the offset behind the last of them, and how many bytes the next one needs in all
    (0 while even its length is unknown). Raises Malformed for a length of more than four bytes (1.5.5)."""
    found: list[Frame] = []
    position, size = 0, len(data)
    while size - position >= 2:
        length = data[position + 1]
        start = position + 2
        if length & 0x80:
            length &= 0x7F
            shift = 7
            while True:
                if start >= size:
                    return found, position, 0
                byte = data[start]
                start += 1
                length |= (byte & 0x7F) << shift
                if not byte & 0x80:
                    break
                shift += 7
                if shift > 21:
                    raise Malformed("a packet's length has more than four bytes")
        end = start + length
        if end > size:
            return found, position, end - position
        found.append((data[position], start, end))
        position = end
    return found, position, 0


def read_publish(data: bytes, frame: Frame) -> Publish:
    """The PUBLISH in a frame (3.3)."""
    first, start, end = frame
    try:
        at = start + 2 + (data[start] << 8 | data[start + 1])
        topic = data[start + 2 : at].decode()
        packet_id = 0
        if first & 6:
            if first & 4:
                raise Malformed("QoS 2 was never asked for")
            packet_id = data[at] << 8 | data[at + 1]
            at += 2
            if not packet_id:
                raise Malformed("packet id 0")
        if at >= end:
            raise Malformed("a PUBLISH ends before its properties")
        if data[at]:
            properties, at = read_properties(data, at, end)
            return topic, packet_id, properties, data[at:end]
        return topic, packet_id, None, data[at + 1 : end]
    except (IndexError, UnicodeDecodeError) as error:
        raise Malformed(f"no PUBLISH: {error}") from error


def read_connack(data: bytes, frame: Frame) -> tuple[bool, int, Properties]:
    """(session present, reason code, properties) of a CONNACK (3.2)."""
    _, start, end = frame
    if end - start < 2:
        raise Malformed("a CONNACK has at least two bytes")
    properties = read_properties(data, start + 2, end)[0] if end - start > 2 else {}
    return bool(data[start] & 1), data[start + 1], properties


def read_codes(data: bytes, frame: Frame) -> tuple[int, tuple[int, ...]]:
    """(packet id, reason codes) of a PUBACK (3.4: no code means success), SUBACK (3.9) or UNSUBACK (3.11)."""
    first, start, end = frame
    if end - start < 2:
        raise Malformed("an acknowledgement without packet id")
    packet_id = data[start] << 8 | data[start + 1]
    if first & 0xF0 == PUBACK:
        return packet_id, (data[start + 2] if end - start > 2 else 0,)
    _, at = read_properties(data, start + 2, end)
    return packet_id, tuple(data[at:end])


def read_disconnect(data: bytes, frame: Frame) -> int:
    """Reason code of a DISCONNECT (3.14: none means 0)."""
    _, start, end = frame
    return data[start] if end > start else 0


def connect(
    client_id: str,
    *,
    clean_start: bool,
    keepalive_s: int,
    session_expiry_s: int,
    receive_maximum: int,
    username: str | None = None,
    password: str | None = None,
    will: Will | None = None,
) -> bytes:
    """CONNECT (3.1)."""
    flags = (
        bool(clean_start) << 1
        | (will is not None) << 2
        | (will.qos << 3 | will.retain << 5 if will else 0)
        | (password is not None) << 6
        | (username is not None) << 7
    )
    properties = b"\x11" + session_expiry_s.to_bytes(4, "big") + b"\x21" + receive_maximum.to_bytes(2, "big")
    body = b"\x00\x04MQTT\x05" + bytes([flags]) + keepalive_s.to_bytes(2, "big") + _counted(properties)
    body += _text(client_id)
    if will:
        body += b"\x00" + _text(will.topic) + _binary(will.payload)
    if username is not None:
        body += _text(username)
    if password is not None:
        body += _text(password)
    return _packet(CONNECT, body)


def publish(
    topic: str,
    payload: bytes,
    *,
    packet_id: int = 0,
    retain: bool = False,
    user_properties: Sequence[tuple[str, str]] = (),
    request: Request | None = None,
) -> bytes:
    """PUBLISH (3.3): QoS 1 with a packet id, QoS 0 without."""
    body = _text(topic)
    if packet_id:
        body += packet_id.to_bytes(2, "big")
    if user_properties or request:
        block = b"".join(b"\x26" + _text(name) + _text(value) for name, value in user_properties)
        body += _counted(block + (_request(request) if request else b""))
    else:
        body += b"\x00"
    return _packet(PUBLISH | (2 if packet_id else 0) | retain, body + payload)


def puback(packet_ids: Iterable[int]) -> bytes:
    """PUBACKs with reason success, joined (3.4); ids of 0 (QoS 0) are left out."""
    return b"".join([b"\x40\x02" + packet_id.to_bytes(2, "big") for packet_id in packet_ids if packet_id])


def subscribe(packet_id: int, filters: Sequence[str], qos: int) -> bytes:
    """SUBSCRIBE (3.8)."""
    options = bytes([qos])
    return _packet(
        SUBSCRIBE | 2, packet_id.to_bytes(2, "big") + b"\x00" + b"".join(_text(name) + options for name in filters)
    )


def unsubscribe(packet_id: int, filters: Sequence[str]) -> bytes:
    """UNSUBSCRIBE (3.10)."""
    return _packet(UNSUBSCRIBE | 2, packet_id.to_bytes(2, "big") + b"\x00" + b"".join(map(_text, filters)))


def disconnect(session_expiry_s: int | None = None) -> bytes:
    """DISCONNECT (3.14), with a new session expiry if one is given."""
    if session_expiry_s is None:
        return _packet(DISCONNECT, b"")
    return _packet(DISCONNECT, b"\x00" + _counted(b"\x11" + session_expiry_s.to_bytes(4, "big")))


def read_properties(data: bytes, at: int, end: int) -> tuple[Properties, int]:
    """The properties that begin at `at` (2.2.2), and the offset behind them."""
    length, at = _read_varint(data, at, end)
    stop = at + length
    if stop > end:
        raise Malformed("properties are longer than their packet")
    values: Properties = {}
    while at < stop:
        known = _PROPERTIES.get(data[at])
        if known is None:
            raise Malformed(f"unknown property {data[at]}")
        name, read = known
        value, at = read(data, at + 1, stop)
        values.setdefault(name, []).append(value)
    return values, stop


def _read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in (0, 7, 14, 21):
        if at >= end:
            raise Malformed("a length is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
    raise Malformed("a length has more than four bytes")


def _read_integer(size: int) -> Callable[[bytes, int, int], tuple[int, int]]:
    def read(data: bytes, at: int, end: int) -> tuple[int, int]:
        if at + size > end:
            raise Malformed("an integer is cut off")
        return int.from_bytes(data[at : at + size], "big"), at + size

    return read


def _read_binary(data: bytes, at: int, end: int) -> tuple[bytes, int]:
    size, at = _TWO(data, at, end)
    if at + size > end:
        raise Malformed("a text is cut off")
    return data[at : at + size], at + size


def _read_text(data: bytes, at: int, end: int) -> tuple[str, int]:
    raw, at = _read_binary(data, at, end)
    try:
        return raw.decode(), at
    except UnicodeDecodeError as error:
        raise Malformed(f"a text is not UTF-8: {error}") from error


def _read_pair(data: bytes, at: int, end: int) -> tuple[tuple[str, str], int]:
    name, at = _read_text(data, at, end)
    value, at = _read_text(data, at, end)
    return (name, value), at


_BYTE, _TWO, _FOUR = _read_integer(1), _read_integer(2), _read_integer(4)
_PROPERTIES: dict[int, tuple[str, Callable[[bytes, int, int], tuple[Any, int]]]] = {
    0x01: ("payload_format_indicator", _BYTE),
    0x02: ("message_expiry_interval", _FOUR),
    0x03: ("content_type", _read_text),
    0x08: ("response_topic", _read_text),
    0x09: ("correlation_data", _read_binary),
    0x0B: ("subscription_identifier", _read_varint),
    0x11: ("session_expiry_interval", _FOUR),
    0x12: ("assigned_client_identifier", _read_text),
    0x13: ("server_keep_alive", _TWO),
    0x15: ("authentication_method", _read_text),
    0x16: ("authentication_data", _read_binary),
    0x1A: ("response_information", _read_text),
    0x1C: ("server_reference", _read_text),
    0x1F: ("reason_string", _read_text),
    0x21: ("receive_maximum", _TWO),
    0x22: ("topic_alias_maximum", _TWO),
    0x23: ("topic_alias", _TWO),
    0x24: ("maximum_qos", _BYTE),
    0x25: ("retain_available", _BYTE),
    0x26: ("user_property", _read_pair),
    0x27: ("maximum_packet_size", _FOUR),
    0x28: ("wildcard_subscription_available", _BYTE),
    0x29: ("subscription_identifier_available", _BYTE),
    0x2A: ("shared_subscription_available", _BYTE),
}


def _request(request: Request) -> bytes:
    block = b""
    if request.expiry_s:
        block += b"\x02" + request.expiry_s.to_bytes(4, "big")
    if request.response_topic:
        block += b"\x08" + _text(request.response_topic)
    if request.correlation_data:
        block += b"\x09" + _binary(request.correlation_data)
    return block


def _packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + _varint(len(body)) + body


def _counted(block: bytes) -> bytes:
    return _varint(len(block)) + block


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes([value])
    out = bytearray()
    while True:
        value, byte = value >> 7, value & 0x7F
        out.append(byte | 0x80 if value else byte)
        if not value:
            return bytes(out)


def _binary(raw: bytes) -> bytes:
    if len(raw) > 0xFFFF:
        raise Malformed(f"a text of {len(raw)} bytes; MQTT allows 65535")
    return len(raw).to_bytes(2, "big") + raw


def _text(text: str) -> bytes:
    return _binary(text.encode())
