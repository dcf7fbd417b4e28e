"""The query API over a real database: two tenants, their devices, and clients with tokens."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import httpx
import psycopg
import pytest

from outrider.runtime.database import Database as Pool
from outrider.testing.fixtures import Database, clone_of
from outrider_gateway.access import Access, digest
from outrider_gateway.api import build_api
from outrider_gateway.context import Gateway
from outrider_gateway.queries import Queries
from outrider_gateway.settings import Settings

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ALL = ("telemetry:read", "trips:read", "devices:read")


def moment(ms: int) -> datetime:
    """Epoch ms as a time."""
    return EPOCH + timedelta(milliseconds=ms)


@dataclass
class Asker:
    """The API with two tenants, and what it stands on."""

    database: Database
    gateway: Gateway
    acme: httpx.AsyncClient
    other: httpx.AsyncClient
    stack: AsyncExitStack
    app: Any
    accounts: dict[str, str] = field(default_factory=dict)

    async def client(self, tenant: str, *scopes: str) -> httpx.AsyncClient:
        """A client with a new token of this tenant."""
        token = "otr_" + secrets.token_urlsafe(24)
        with psycopg.connect(self.database.admin_url, autocommit=True) as connection:
            connection.execute("SET outrider.tenant = '*'")
            connection.execute(
                "INSERT INTO registry.account (tenant, name, role) VALUES (%s, %s, 'admin') ON CONFLICT DO NOTHING",
                (tenant, f"admin-{tenant}"),
            )
            connection.execute(
                "INSERT INTO registry.token (account, tenant, name, hash, scopes, expires_at) "
                "SELECT id, tenant, 'test', %s, %s, now() + interval '1 day' FROM registry.account WHERE name = %s",
                (digest(token), list(scopes or ALL), f"admin-{tenant}"),
            )
        transport = httpx.ASGITransport(self.app, client=("192.0.2.1", 50000))
        headers = {"authorization": f"Bearer {token}"}
        client = httpx.AsyncClient(
            transport=transport, base_url="http://gateway.test/api/v1/", headers=headers, timeout=30
        )
        return await self.stack.enter_async_context(client)

    def device(self, name: str, tenant: str = "acme", tags: Iterable[str] = (), type_: str = "") -> str:
        """Register a device."""
        self.database.rows(
            "INSERT INTO registry.device (id, tenant, tags, type) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
            *(name, tenant, list(tags), type_),
        )
        return name

    def store(
        self, device: str, metric: str, rows: Iterable[tuple[int, Any]], kind: str = "number", tenant: str = "acme"
    ) -> int:
        """Put samples (epoch ms, value) into the ledger as the writer does, with its note of what they touched."""
        rows = list(rows)
        table = {"number": "sample", "boolean": "sample", "string": "sample_text", "json": "sample_json"}[kind]
        with psycopg.connect(self.database.admin_url) as connection:
            found = connection.execute(
                "WITH made AS (INSERT INTO telemetry.series (tenant, device, metric, kind) VALUES (%s, %s, %s, %s) "
                "ON CONFLICT DO NOTHING RETURNING id) SELECT id FROM made UNION ALL "
                "SELECT id FROM telemetry.series WHERE (tenant, device, metric, kind) = (%s, %s, %s, %s) LIMIT 1",
                (tenant, device, metric, kind) * 2,
            ).fetchone()
            assert found is not None
            days = sorted({moment(ms).date() for ms, _ in rows})
            connection.execute("SELECT runtime.ensure_partitions(%s, %s)", (f"telemetry.{table}", days))
            with connection.cursor() as cursor:
                cursor.executemany(
                    f"INSERT INTO telemetry.{table} VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                    [(found[0], moment(ms), value) for ms, value in rows],
                )
            if table == "sample":
                for bucket in sorted({ms // 300_000 * 300_000 for ms, _ in rows}):
                    connection.execute(
                        "INSERT INTO telemetry.touched (bucket, series) VALUES (%s, %s)", (moment(bucket), [found[0]])
                    )
        return int(found[0])

    def roll_up(self, until_ms: int, hours: bool = True) -> None:
        """Make the rollups of all that was touched before, as lifecycle does (`hours`: also those of 1 h)."""
        with psycopg.connect(self.database.admin_url) as connection:
            connection.execute(ROLL_UP_DAYS)
            for tier, width in (("1m", "1 minute"), ("5m", "5 minutes"), *((("1h", "1 hour"),) if hours else ())):
                connection.execute(ROLL_UP.replace("{tier}", tier), {"width": width, "until": moment(until_ms)})
                connection.execute(
                    "UPDATE lifecycle.tier SET complete_before = date_bin(step, %s, 'epoch') WHERE name = %s",
                    (moment(until_ms), tier),
                )
            connection.execute(
                "DELETE FROM telemetry.touched WHERE bucket + interval '5 minutes' <= %s", (moment(until_ms),)
            )


ROLL_UP_DAYS = """
SELECT runtime.ensure_partitions(t, ARRAY(SELECT DISTINCT (ts AT TIME ZONE 'UTC')::date FROM telemetry.sample))
FROM unnest(ARRAY['lifecycle.rollup_1m', 'lifecycle.rollup_5m', 'lifecycle.rollup_1h']) t
"""
ROLL_UP = """
INSERT INTO lifecycle.rollup_{tier}
SELECT series_id, date_bin(%(width)s::interval, ts, 'epoch'), count(*), sum(value), min(value), max(value),
       (array_agg(value ORDER BY ts))[1], (array_agg(value ORDER BY ts DESC))[1]
FROM telemetry.sample WHERE date_bin(%(width)s::interval, ts, 'epoch') + %(width)s::interval <= %(until)s GROUP BY 1, 2
ON CONFLICT (series_id, ts) DO UPDATE SET count = excluded.count, sum = excluded.sum, min = excluded.min, max = excluded.max,
    first = excluded.first, last = excluded.last
"""


@asynccontextmanager
async def asking(database: Database, **settings: Any) -> AsyncIterator[Asker]:
    """The API over this database; it hears changes when the test runs `asker.gateway.queries.listen()`."""
    url = database.service_urls["gateway"]
    configured = Settings(database_url=url, **settings)
    pool = Pool(url, f"gateway/test/{secrets.token_hex(3)}", 8)
    await pool.open()
    access = Access(pool, url, 60, 1000)
    queries = Queries(configured, pool)
    gateway = Gateway(configured, pool, access, cast(Any, None), queries, "http://gateway.test")
    app = build_api(gateway)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(pool.close)
        stack.push_async_callback(queries.cache.close)
        asker = Asker(database, gateway, cast(Any, None), cast(Any, None), stack, app)
        with psycopg.connect(database.admin_url, autocommit=True) as connection:
            connection.execute("SET outrider.tenant = '*'")
            connection.execute("INSERT INTO registry.tenant (name) VALUES ('acme'), ('other') ON CONFLICT DO NOTHING")
        asker.acme, asker.other = await asker.client("acme"), await asker.client("other")
        yield asker


@pytest.fixture(scope="module")
def shared(migrated: Database) -> Iterator[Database]:
    """One database for the tests of a module: each uses devices of its own."""
    with clone_of(migrated) as clone:
        yield clone


@pytest.fixture
async def asker(shared: Database) -> AsyncIterator[Asker]:
    """The API over the module's database, without a cache."""
    async with asking(shared, gateway_cache_status_s=0, gateway_cache_recent_s=0, gateway_cache_aggregates_s=0) as made:
        yield made
