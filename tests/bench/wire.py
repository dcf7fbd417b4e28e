"""The least MQTT 3.1.1 a load generator needs: CONNECT, SUBSCRIBE, QoS 1 PUBLISH in joined writes, PUBACKs counted.

Plain sockets, looked at once a tick: a wake-up for every PUBACK that the broker sends by itself cost six times the rest.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence

LINK_WINDOW = 20_000
"""Messages of one connection without PUBACK; far below the 65,535 packet ids."""
FILTERS_IN_ONE = 500
ANSWER_S = 30.0
RECEIVE_BYTES = 1 << 20
PUBLISH_QOS_1 = 0x32
PUBACK = 0x40
PUBLISH_QOS_0 = 0x30
CONNACK = 0x20
SUBACK = 0x90
REFUSED = (4, 5)
"""CONNACK codes of an unknown or wrong login (MQTT 3.1.1, 3.2.2.3): the broker may not have heard of a new device yet."""
TAKEN_S = 150.0

_PACKET_IDS = [struct.pack(">H", number) for number in range(65_536)]


def length_of(size: int) -> bytes:
    """MQTT's variable byte integer."""
    out = bytearray()
    while True:
        size, low = divmod(size, 128)
        out.append(low | 128 if size else low)
        if not size:
            return bytes(out)


_PUBLISH_HEADS = [bytes([PUBLISH_QOS_1]) + length_of(size) for size in range(16_384)]


class Link:
    """One connection that carries many devices. `on_message(topic, payload, now_s)` gets what comes in with QoS 0."""

    def __init__(
        self,
        client_id: str,
        port: int,
        on_message: Callable[[bytes, bytes, float], None],
        login: tuple[str, str] = ("", ""),
    ) -> None:
        self.published = 0
        self.pubacked = 0
        self.failure = ""
        self._client_id = client_id
        self._on_message = on_message
        self._address = ("127.0.0.1", port)
        self._socket: socket.socket | None = None
        self._parts: list[bytes] = []
        self._unsent = b""
        self._rest = b""
        self._answers: list[tuple[int, int]] = []
        self._login = login
        self.dirty: list[Link] = []
        """Where this connection enters itself when it has something to write."""

    @property
    def is_full(self) -> bool:
        """True while too many messages wait for their PUBACK."""
        return self.published - self.pubacked >= LINK_WINDOW

    def connect(self, filters: Sequence[bytes]) -> int:
        """CONNECT and SUBSCRIBE (QoS 0); returns the file descriptor when the broker has granted all. Raises OSError."""
        deadline = time.monotonic() + TAKEN_S
        while (code := self._connect()) in REFUSED and time.monotonic() < deadline:
            self._socket.close()
            time.sleep(0.2)
        if code:
            raise ConnectionError(f"the broker refuses {self._client_id}: code {code}")
        for start in range(0, len(filters), FILTERS_IN_ONE):
            part = filters[start : start + FILTERS_IN_ONE]
            body = b"\x00\x01" + b"".join(struct.pack(">H", len(topic)) + topic + b"\x00" for topic in part)
            self._ask(b"\x82" + length_of(len(body)) + body, SUBACK)
        self._socket.setblocking(False)
        return self._socket.fileno()

    def _connect(self) -> int:
        """CONNECT; the broker's code, 0 for success."""
        self._socket = socket.create_connection(self._address, timeout=ANSWER_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        username, password = self._login
        flags = b"\xc2" if username else b"\x02"
        texts = (self._client_id, username, password) if username else (self._client_id,)
        body = b"\x00\x04MQTT\x04" + flags + b"\x00\x00"
        body += b"".join(struct.pack(">H", len(text)) + text for text in map(str.encode, texts))
        return self._ask(b"\x10" + length_of(len(body)) + body, CONNACK)

    def publish(self, topic: bytes, payload: bytes) -> None:
        """Puts a QoS 1 message into the next write; `topic` carries its length in front."""
        self.published = number = self.published + 1
        size = len(topic) + 2 + len(payload)
        head = _PUBLISH_HEADS[size] if size < 16_384 else bytes([PUBLISH_QOS_1]) + length_of(size)
        if not self._parts:
            self.dirty.append(self)
        self._parts += (head, topic, _PACKET_IDS[number % 65_535 + 1], payload)

    def flush(self) -> None:
        """One write for everything published since the last; what the broker does not take yet waits for the next."""
        if not (self._parts or self._unsent):
            return
        data = self._unsent + b"".join(self._parts)
        self._parts = []
        assert self._socket is not None
        try:
            self._unsent = data[self._socket.send(data) :]
        except BlockingIOError:
            self._unsent = data
        except OSError as error:
            self.failure = f"{self._client_id}: {error}"

    def receive(self) -> None:
        """Reads and handles what has come."""
        assert self._socket is not None
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self.failure = f"{self._client_id}: {error}"
            return
        if not data:
            self.failure = f"the broker closed the connection of {self._client_id}"
        self.handle(data)

    def handle(self, data: bytes) -> None:
        """Handles the next bytes of the stream."""
        buffer = self._rest + data if self._rest else data
        now_s = time.monotonic()
        at, end = 0, len(buffer)
        acked = 0
        while end - at >= 4 or (end - at >= 2 and buffer[at] != PUBACK):
            kind = buffer[at]
            if kind == PUBACK:
                acked += 1
                at += 4
                continue
            size = shift = 0
            body = at + 1
            while body < end:
                byte = buffer[body]
                size |= (byte & 127) << shift
                shift += 7
                body += 1
                if byte < 128:
                    break
            else:
                break
            if body + size > end:
                break
            if kind == PUBLISH_QOS_0:
                topic_end = body + 2 + (buffer[body] << 8 | buffer[body + 1])
                self._on_message(buffer[body + 2 : topic_end], buffer[topic_end : body + size], now_s)
            else:
                self._answers.append((kind, buffer[body + size - 1]))
            at = body + size
        self.pubacked += acked
        self._rest = buffer[at:]

    def close(self) -> None:
        """DISCONNECT."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send(b"\xe0\x00")
            self._socket.close()

    @property
    def has_more(self) -> bool:
        """True while the broker has not taken all that was flushed."""
        return bool(self._unsent)

    def _ask(self, packet: bytes, answer: int) -> int:
        """Sends a packet; the last byte of its answer, which is the code of a CONNACK."""
        assert self._socket is not None
        self._socket.sendall(packet)
        while not self._answers:
            data = self._socket.recv(RECEIVE_BYTES)
            if not data:
                raise ConnectionError(f"the broker closed the connection of {self._client_id}")
            self.handle(data)
        given, code = self._answers.pop()
        if given != answer:
            raise ConnectionError(f"the broker answered {given:#x} instead of {answer:#x}")
        return code


class Links:
    """All connections, with one look at which of them something came on."""

    def __init__(self, links: Sequence[Link]) -> None:
        self._links = links
        self._by_descriptor: dict[int, Link] = {}
        self._dirty: list[Link] = []
        for link in links:
            link.dirty = self._dirty
        self._epoll = select.epoll()

    def connect(self, filters: Mapping[Link, Sequence[bytes]]) -> None:
        """Connects all, each with its filters. Raises OSError."""
        for link in self._links:
            descriptor = link.connect(filters[link])
            self._by_descriptor[descriptor] = link
            self._epoll.register(descriptor, select.EPOLLIN)

    def receive(self) -> None:
        """Reads what has come on any, without waiting."""
        for descriptor, _ in self._epoll.poll(0):
            self._by_descriptor[descriptor].receive()

    def flush(self) -> None:
        """Writes what was published."""
        dirty = self._dirty[:]
        self._dirty.clear()
        for link in dirty:
            link.flush()
            if link.has_more:
                self._dirty.append(link)

    @property
    def failure(self) -> str:
        """Why a connection ended; empty while all stand."""
        return next((link.failure for link in self._links if link.failure), "")

    @property
    def pubacked(self) -> int:
        """PUBACKs so far."""
        return sum(link.pubacked for link in self._links)

    def close(self) -> None:
        """Ends all."""
        for link in self._links:
            link.close()
        self._epoll.close()
