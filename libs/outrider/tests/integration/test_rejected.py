"""`rejected.keep` on a real PostgreSQL: kept within the quota, counted beyond it, once where it is numbered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from outrider.runtime import rejects
from outrider.runtime.database import Database as Pool
from outrider.runtime.rejects import Rejection
from outrider.testing.fixtures import Database

T0 = 1_790_000_000_000


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    pool = Pool(database.service_urls["ingest"], "rejects-test")
    await pool.open()
    yield pool
    await pool.close()


def rejection(device: str = "van-1", seq: int | None = None, payload: bytes = b"x" * 10, **more: Any) -> Rejection:
    values: dict[str, Any] = {
        "tenant": "demo",
        "device": device,
        "stream": "telemetry",
        "boot": 7 if seq else None,
        "seq": seq,
        "reason": "bad_value",
        "detail": "detail",
        "topic": f"fleet/v1/demo/{device}/telemetry",
        "payload": payload,
        "received_ms": T0,
    }
    return Rejection(**{**values, **more})


async def keep(pool: Pool, *rejections: Rejection) -> None:
    async with pool.transaction() as connection:
        await rejects.keep(connection, "ingest", rejections)


def kept(database: Database) -> int:
    return int(database.value("SELECT count(*) FROM rejected.message"))


def overflow(database: Database) -> list[tuple[Any, ...]]:
    return database.rows("SELECT reason, messages, bytes FROM rejected.overflow ORDER BY reason")


async def test_everything_about_a_rejection_is_kept(pool: Pool, database: Database) -> None:
    payload = bytes(range(256)) * 800  # 200 KB
    await keep(pool, rejection(seq=3, payload=payload, detail="nul \0 and \ud800 " + "x" * 1000))
    ((row),) = database.rows(
        "SELECT tenant, device, stream, boot, seq, reason, detail, topic, payload, digest, service,"
        " (extract(epoch FROM received_at) * 1000)::bigint, replayed_at FROM rejected.message"
    )
    assert row[:6] == ("demo", "van-1", "telemetry", 7, 3, "bad_value")
    assert row[6].startswith("nul � and ? x")
    assert len(row[6]) == 500
    assert row[7] == "fleet/v1/demo/van-1/telemetry"
    assert row[8] == payload
    assert row[9] == database.value("SELECT left(encode(sha256(%s), 'hex'), 16)", payload)
    assert row[10:] == ("ingest", T0, None)


async def test_a_numbered_rejection_is_kept_once_per_reason(pool: Pool, database: Database) -> None:
    for _ in range(3):
        await keep(pool, rejection(seq=1), rejection(seq=1), rejection(seq=1, reason="no_time"), rejection(seq=2))
    assert database.rows("SELECT seq, reason FROM rejected.message ORDER BY 1, 2") == [
        (1, "bad_value"),
        (1, "no_time"),
        (2, "bad_value"),
    ]
    assert database.rows("SELECT messages, bytes FROM rejected.usage") == [(3, 30)]
    assert overflow(database) == []


async def test_unnumbered_rejections_are_all_kept(pool: Pool, database: Database) -> None:
    await keep(pool, rejection(), rejection())
    await keep(pool, rejection())
    assert kept(database) == 3


async def test_past_the_quota_of_a_device_rejections_are_counted_per_reason(pool: Pool, database: Database) -> None:
    database.rows("UPDATE rejected.quota SET device_messages = 3")
    await keep(pool, *(rejection() for _ in range(2)))
    await keep(pool, *(rejection() for _ in range(5)), rejection(reason="no_time", payload=b"x" * 7))
    assert kept(database) == 3
    assert overflow(database) == [("bad_value", 4, 40), ("no_time", 1, 7)]
    await keep(pool, rejection("van-2"))  # another device has a quota of its own
    assert kept(database) == 4
    await keep(pool, rejection())
    assert overflow(database) == [("bad_value", 5, 50), ("no_time", 1, 7)]


async def test_the_quota_of_a_device_is_in_bytes_too(pool: Pool, database: Database) -> None:
    database.rows("UPDATE rejected.quota SET device_payload_bytes = 100")
    await keep(pool, *(rejection(payload=b"x" * 40) for _ in range(4)))
    assert database.rows("SELECT messages, bytes FROM rejected.usage") == [(2, 80)]
    assert overflow(database) == [("bad_value", 2, 80)]


@pytest.mark.parametrize("limit", ["total_messages = 5", "total_payload_bytes = 50"])
async def test_the_total_quota_holds_over_all_devices(pool: Pool, database: Database, limit: str) -> None:
    database.rows(f"UPDATE rejected.quota SET {limit}")
    for number in range(4):
        await keep(pool, *(rejection(f"van-{number}") for _ in range(2)))
    assert kept(database) == 5
    assert overflow(database) == [("bad_value", 3, 30)]


async def test_purging_gives_the_quota_back(pool: Pool, database: Database) -> None:
    database.rows("UPDATE rejected.quota SET device_messages = 2")
    await keep(pool, *(rejection(payload=b"x" * n) for n in (1, 10, 100)))
    ids = [row[0] for row in database.rows("SELECT id FROM rejected.message ORDER BY id")]
    assert len(ids) == 2
    assert database.value("SELECT rejected.purge(%s)", [ids[1], 999_999]) == 1
    assert database.rows("SELECT messages, bytes FROM rejected.usage") == [(1, 1)]
    await keep(pool, rejection(payload=b"x" * 5))
    assert database.rows("SELECT messages, bytes FROM rejected.usage") == [(2, 6)]
    assert kept(database) == 2


async def test_the_default_quota_keeps_more_than_a_hundred_thousand_of_one_device(database: Database) -> None:
    row = database.rows("SELECT device_messages, device_payload_bytes, total_messages FROM rejected.quota")[0]
    assert row[0] > 100_000
    assert row[1] > 100_000 * 1024
    assert row[2] >= row[0]


@pytest.mark.parametrize("service", ["ingest", "writer-logs", "writer-timeseries"])
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM rejected.message",
        "INSERT INTO rejected.message (tenant) VALUES ('x')",
        "DELETE FROM rejected.message",
        "UPDATE rejected.quota SET device_messages = 1",
        "SELECT rejected.purge('{1}')",
        "DELETE FROM runtime.slot",
        "INSERT INTO runtime.slot (group_name, slot) VALUES ('x', 1)",
        "UPDATE telemetry.boot SET anchor_ms = 0",
        "UPDATE telemetry.ledger SET cluster = 'x'",
        "TRUNCATE telemetry.sample",
        "UPDATE logs.line SET message = ''",
        "CREATE TABLE public.mine (a integer)",
        "CREATE ROLE mine",
    ],
)
def test_services_can_do_no_more_than_they_must(database: Database, service: str, statement: str) -> None:
    with (
        psycopg.connect(database.service_urls[service], autocommit=True) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement.encode())


def test_only_its_own_writer_reads_and_adds_to_a_table(database: Database) -> None:
    own = {"ingest": "telemetry.boot", "writer-logs": "logs.line", "writer-timeseries": "telemetry.sample"}
    for service, url in database.service_urls.items():
        if service == "lifecycle":
            continue  # it archives what expires, whoever's it is
        with psycopg.connect(url, autocommit=True) as connection:
            for owner, table in own.items():
                allowed = connection.execute(
                    "SELECT CASE WHEN has_schema_privilege(split_part(%(t)s, '.', 1), 'USAGE')"
                    " THEN has_table_privilege(%(t)s, 'SELECT') END",
                    {"t": table},
                ).fetchone()
                assert (allowed == (True,)) == (owner == service), (service, table)
