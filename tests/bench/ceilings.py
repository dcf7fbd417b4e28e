"""What the broker and PostgreSQL do at most on this machine, with nothing of Outrider in between."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from urllib.parse import unquote, urlsplit

import numpy as np
import psycopg

from outrider.runtime import packets
from outrider.runtime.mqtt import Connection
from outrider.servers import Mosquitto, ServerError

TOPIC = "ceiling/v1/bench/d000001/telemetry"
PAYLOAD = b'{"boot":1234567890123456,"seq":123456,"ts":1700000000000,"speed_kmh":53.17}'
CLIENT_ID = "bench-ceiling"
RECEIVE_MAXIMUM = 5_000
BLOCK = 500
"""Messages of one write."""
AHEAD = 20_000
"""Messages published and not yet taken: enough to keep the broker busy, too few to weigh in its memory."""
DRAIN_S = 30.0

SCHEMA = "bench_copy"
CREATE = f"""
DROP SCHEMA IF EXISTS {SCHEMA} CASCADE;
CREATE SCHEMA {SCHEMA};
CREATE TABLE {SCHEMA}.sample
    (series_id integer NOT NULL, ts timestamptz NOT NULL, value double precision NOT NULL, PRIMARY KEY (series_id, ts))
    PARTITION BY RANGE (ts);
CREATE TABLE {SCHEMA}.sample_before PARTITION OF {SCHEMA}.sample FOR VALUES FROM (MINVALUE) TO ('2024-01-01Z');
CREATE TABLE {SCHEMA}.sample_20240101 PARTITION OF {SCHEMA}.sample FOR VALUES FROM ('2024-01-01Z') TO ('2024-01-02Z');
"""
COPY = f"COPY {SCHEMA}.sample (series_id, ts, value) FROM STDIN (FORMAT binary)"
START_US = 757_382_400_000_000
"""2024-01-01 in PostgreSQL's microseconds since 2000."""
SERIES_A_LANE = 1_000
ROWS_A_COMMIT = 50_000
# One row of a binary COPY: field count, then length and value of each field, big-endian (PostgreSQL docs, "COPY").
ROW = np.dtype(
    [("fields", ">i2"), ("l1", ">i4"), ("series", ">i4"), ("l2", ">i4"), ("ts", ">i8"), ("l3", ">i4"), ("value", ">f8")]
)
SIGNATURE, TRAILER = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"


async def broker_ceiling(broker: Mosquitto, seconds: float) -> float:
    """Messages/s that go through the broker into one `mosquitto_sub` (QoS 1, persistent session, window of 5,000) while
    one connection publishes QoS 1 as fast as the broker takes it, 20,000 messages ahead at most.

    In and out are both in the broker's one thread, as with a consumer that keeps up. Measured from the first message
    for `seconds` and until all have arrived; ServerError if one has not.
    """
    taken = 0
    async with _subscriber(broker) as output:

        async def count() -> None:
            nonlocal taken
            while block := await output.read(1 << 16):
                taken += len(block)

        counting = asyncio.create_task(count())
        try:
            started_s = time.monotonic()
            published = await _publish(broker, started_s + seconds, lambda published: published - taken > AHEAD)
            deadline = time.monotonic() + DRAIN_S
            while taken < published and not counting.done() and time.monotonic() < deadline:
                await asyncio.sleep(0.005)
            took_s = time.monotonic() - started_s
        finally:
            counting.cancel()
            await asyncio.gather(counting, return_exceptions=True)
    if taken != published:
        raise ServerError(f"mosquitto_sub took {taken} of {published} messages")
    return taken / took_s


async def copy_ceiling(postgres_url: str, rows: int, *, lanes: int = 2) -> float:
    """Rows/s of binary COPY, prepared beforehand, into an empty table of the ledger's shape: (series_id, ts, value),
    primary key (series_id, ts), a partition a day.

    Each lane is a connection with series of its own and commits 50,000 rows at a time, sorted by series, until `rows`
    (rounded up to whole commits of each lane) are in; two lanes are what keeps two cores busy. The table is in a schema
    of its own and removed at the end. ServerError if not all rows are there.
    """
    commits = -(-rows // (ROWS_A_COMMIT * lanes))
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        await connection.execute(CREATE.encode())
        try:
            started_s = time.monotonic()
            await asyncio.gather(*(_copy_lane(postgres_url, lane, commits) for lane in range(lanes)))
            took_s = time.monotonic() - started_s
            row = await (await connection.execute(f"SELECT count(*) FROM {SCHEMA}.sample".encode())).fetchone()
        finally:
            await connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE".encode())
    stored = int(row[0]) if row else 0
    if stored != commits * lanes * ROWS_A_COMMIT:
        raise ServerError(f"{stored} rows are there instead of {commits * lanes * ROWS_A_COMMIT}")
    return stored / took_s


async def _copy_lane(postgres_url: str, lane: int, commits: int) -> None:
    block = np.empty(ROWS_A_COMMIT, dtype=ROW)
    block["fields"], block["l1"], block["l2"], block["l3"] = 3, 4, 8, 8
    samples_a_series = ROWS_A_COMMIT // SERIES_A_LANE
    block["series"] = np.repeat(np.arange(SERIES_A_LANE) + lane * SERIES_A_LANE, samples_a_series)
    block["ts"] = START_US + np.tile(np.arange(samples_a_series), SERIES_A_LANE) * 1_000
    block["value"] = np.random.default_rng(lane).uniform(10, 90, ROWS_A_COMMIT).round(2)
    async with await psycopg.AsyncConnection.connect(postgres_url) as connection:
        for _ in range(commits):
            async with connection.transaction(), connection.cursor() as cursor, cursor.copy(COPY.encode()) as copy:
                await copy.write(SIGNATURE + block.tobytes() + TRAILER)
            block["ts"] += samples_a_series * 1_000


@contextlib.asynccontextmanager
async def _subscriber(broker: Mosquitto) -> AsyncIterator[asyncio.StreamReader]:
    """A subscribed `mosquitto_sub` that writes one byte for each message; its session is gone at the end."""
    program = broker.program.client("mosquitto_sub")
    if program is None:
        raise ServerError("no mosquitto_sub beside the broker: install mosquitto-clients")
    username, password = _login(broker)
    session = await _connect(broker, clean_start=True, session_expiry_s=300)
    await session.subscribe([TOPIC])
    await session.close()
    process = await asyncio.create_subprocess_exec(
        *program,
        *("-h", "127.0.0.1", "-p", str(broker.port), "-u", username, "-P", password),
        *("-V", "5", "-i", CLIENT_ID, "-c", "-x", "300"),
        *("-D", "connect", "receive-maximum", str(RECEIVE_MAXIMUM), "-q", "1", "-t", TOPIC, "-F", ".", "-N"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        await (await _connect(broker, clean_start=True, session_expiry_s=0)).close(end_session=True)


async def _publish(broker: Mosquitto, until_s: float, is_ahead: Callable[[int], bool]) -> int:
    """Publishes blocks until the time is over, two of them without PUBACK at most; how many messages it were."""
    username, password = _login(broker)
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.port)
    writer.write(
        packets.connect(
            f"{CLIENT_ID}-publisher",
            clean_start=True,
            keepalive_s=0,
            session_expiry_s=0,
            receive_maximum=10,
            username=username,
            password=password,
        )
    )
    blocks = [
        b"".join(packets.publish(TOPIC, PAYLOAD, packet_id=first + number) for number in range(BLOCK))
        for first in (1, BLOCK + 1)
    ]
    published, answered, rest = 0, -1, b""  # the first answer is the CONNACK
    try:
        while time.monotonic() < until_s or answered < published:
            may_publish = time.monotonic() < until_s and published - answered <= BLOCK
            if may_publish and not is_ahead(published):
                writer.write(blocks[published // BLOCK % 2])
                published += BLOCK
            elif answered == published:
                await asyncio.sleep(0.001)
            else:
                data = rest + await reader.read(1 << 16)
                if data == rest:
                    raise ServerError("the broker closed the publisher's connection")
                frames, end, _ = packets.frames(data)
                answered, rest = answered + len(frames), data[end:]
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return published


def _login(broker: Mosquitto) -> tuple[str, str]:
    parts = urlsplit(broker.url)
    return unquote(parts.username or ""), unquote(parts.password or "")


async def _connect(broker: Mosquitto, *, clean_start: bool, session_expiry_s: int) -> Connection:
    return await Connection.open(
        broker.url,
        CLIENT_ID,
        lambda _: None,
        clean_start=clean_start,
        session_expiry_s=session_expiry_s,
        receive_maximum=RECEIVE_MAXIMUM,
    )
