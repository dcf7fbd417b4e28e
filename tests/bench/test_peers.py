"""The peers store every sample they are given and are counted right; the ceilings count what they measure."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psycopg
import pytest

from outrider.runtime.errors import NotStored
from outrider.runtime.mqtt import Connection
from outrider.servers import Mosquitto, ServerError
from outrider.testing.fixtures import Database
from tests.bench import ceilings, telegraf
from tests.bench.peers import broker_ceiling, copy_ceiling, missing, peers
from tests.bench.rows import UNSETTLED_BLOCKS, GrowingTable

pytestmark = pytest.mark.servers
DEVICES, MESSAGES, METRICS = 20, 15, 10
SHAPES: tuple[telegraf.Shape, ...] = ("wide", "narrow", "unpivot")


def have_telegraf() -> None:
    try:
        telegraf.find()
    except ServerError as error:
        pytest.skip(str(error))


async def within(seconds: float, condition: Callable[[], Awaitable[bool]]) -> bool:
    deadline = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


async def publish(broker: Mosquitto, samples: set[tuple[str, str, int, float]]) -> None:
    """The samples (device, metric, epoch ms, value), those of one device and time in one message."""
    messages: dict[tuple[str, int], dict[str, float]] = {}
    for device, metric, ts, value in samples:
        messages.setdefault((device, ts), {})[metric] = value
    connection = await Connection.open(
        broker.url, "publisher", lambda _: None, clean_start=True, session_expiry_s=0, receive_maximum=10
    )
    try:
        await asyncio.gather(
            *(
                connection.publish(
                    f"fleet/v1/bench/{device}/telemetry", json.dumps({"boot": 7, "seq": 9, "ts": ts, **values}).encode()
                )
                for (device, ts), values in messages.items()
            )
        )
    finally:
        await connection.close(end_session=True)


def stored(url: str, shape: telegraf.Shape) -> set[tuple[str, str, int, float]]:
    """What a Telegraf has in its tables, as (device, metric, epoch ms, value)."""
    if shape == "wide":
        names = ", ".join(f"('m{number}', m{number})" for number in range(METRICS))
        values = f"CROSS JOIN LATERAL (VALUES {names}) AS values (metric, value)"
    else:
        values = ""
    query = f"""
        SELECT device, metric, (extract(epoch FROM ts) * 1000)::bigint, value
        FROM telegraf.telemetry JOIN telegraf.telemetry_tag USING (tag_id) {values}
    """
    with psycopg.connect(url) as connection:
        rows = connection.execute(query.encode()).fetchall()
    assert len(rows) == len(set(rows))
    return set(rows)


@pytest.mark.parametrize("shape", SHAPES)
async def test_telegraf_stores_every_sample_as_it_was_sent(
    shape: telegraf.Shape, mosquitto: Mosquitto, database: Database, tmp_path: Path
) -> None:
    have_telegraf()
    [peer] = peers(mosquitto.url, database.admin_url, tmp_path, samples_per_message=METRICS, shapes=[shape])
    start_ms = time.time_ns() // 1_000_000
    sent = {
        (f"d{device}", f"m{metric}", start_ms + message, device + message / 100 + metric / 10_000)
        for device in range(DEVICES)
        for message in range(MESSAGES)
        for metric in range(METRICS)
    }
    await peer.start()
    try:
        assert await peer.committed() == 0
        assert set(peer.pids()) == {"telegraf"}
        await publish(mosquitto, sent)

        async def all_committed() -> bool:
            return await peer.committed() == len(sent)

        assert await within(20, all_committed), await peer.committed()
    finally:
        await peer.stop()
    assert peer.pids() == {}
    assert await peer.committed() == len(sent)
    assert stored(database.admin_url, shape) == sent


async def test_telegraf_started_again_begins_with_nothing(
    mosquitto: Mosquitto, database: Database, tmp_path: Path
) -> None:
    have_telegraf()
    [peer] = peers(mosquitto.url, database.admin_url, tmp_path, shapes=["wide"])
    await peer.start()
    await peer.stop()
    with pytest.raises(NotStored):  # its session is gone
        await publish(mosquitto, {("d1", "m0", time.time_ns() // 1_000_000, 1.0)})
    await peer.start()
    try:
        assert await peer.committed() == 0
    finally:
        await peer.stop()


def test_a_telegraf_that_does_not_run_is_missing_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(telegraf.VARIABLE, str(tmp_path / "none"))
    assert peers("mqtt://127.0.0.1:1883", "postgresql://127.0.0.1", tmp_path) == []
    [why] = missing()
    assert str(tmp_path / "none") in why
    assert "make telegraf" in why


async def test_growing_table_counts_what_is_not_null_while_it_grows(database: Database) -> None:
    table = GrowingTable("public", "grows", without=("ts",))
    async with await psycopg.AsyncConnection.connect(database.admin_url, autocommit=True) as connection:
        assert await table.values(connection) == 0
        await connection.execute("CREATE TABLE grows (ts integer, a float8)")
        for number in range(1, 5):
            await connection.execute("INSERT INTO grows SELECT n, n FROM generate_series(1, 50000) n")
            assert await table.values(connection) == number * 50_000
        row = await (await connection.execute("SELECT pg_relation_size('grows') / 8192")).fetchone()
        assert row is not None
        assert row[0] > UNSETTLED_BLOCKS
        await connection.execute("ALTER TABLE grows ADD COLUMN b float8")
        await connection.execute("INSERT INTO grows SELECT n, NULL, n FROM generate_series(1, 7) n")
        assert await table.values(connection) == 200_007
        # what happens far behind the end is seen when the table rests
        await connection.execute("DELETE FROM grows WHERE ctid = '(3,3)'")
        await connection.execute("INSERT INTO grows VALUES (1, 1, 1)")
        assert await table.values(connection) == 200_009
        assert await table.values(connection) == 200_008


async def test_broker_ceiling_leaves_no_session(mosquitto: Mosquitto) -> None:
    assert await broker_ceiling(mosquitto, 1.0) > 1_000
    connection = await Connection.open(
        mosquitto.url,
        ceilings.CLIENT_ID,
        lambda _: None,
        clean_start=False,
        session_expiry_s=0,
        receive_maximum=10,
    )
    assert not connection.session_present
    await connection.close(end_session=True)


@pytest.mark.parametrize("lanes", [1, 2])
async def test_copy_ceiling_is_the_rows_over_the_time_they_took(lanes: int, database: Database) -> None:
    started_s = time.monotonic()
    figure = await copy_ceiling(database.admin_url, 200_000, lanes=lanes)
    assert figure > 200_000 / (time.monotonic() - started_s)
    assert database.rows("SELECT FROM pg_namespace WHERE nspname = %s", ceilings.SCHEMA) == []
