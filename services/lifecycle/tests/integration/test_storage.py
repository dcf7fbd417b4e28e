"""What is kept where, as people of a tenant and of the platform see it."""

from __future__ import annotations

from typing import Any

import psycopg

from outrider.testing.fixtures import Database
from outrider_lifecycle import storage
from outrider_lifecycle.context import Lifecycle

FILL = """
INSERT INTO telemetry.series (tenant, device, metric, kind)
VALUES ('acme', 'van-1', 'a', 'number'), ('acme', 'van-2', 'a', 'number'), ('other', 'car-1', 'a', 'number');
SELECT runtime.ensure_partitions('telemetry.sample', ARRAY[d - 2, d - 1, d]),
       runtime.ensure_partitions('lifecycle.rollup_1h', ARRAY[d - 1, d]),
       runtime.ensure_partitions('telemetry.event', ARRAY[d - 1, d]) FROM (SELECT (now() AT TIME ZONE 'UTC')::date AS d) t;
INSERT INTO telemetry.sample SELECT id, now() - interval '2 days' + n * interval '40 seconds', n
FROM telemetry.series, generate_series(1, 4000) n;
INSERT INTO lifecycle.rollup_1h
SELECT id, date_trunc('hour', now()) - interval '2 hours', id * 1000, 0, 0, 0, 0, 0 FROM telemetry.series;
INSERT INTO telemetry.event
SELECT 'acme', 'van-1', date_trunc('hour', now()) - interval '2 hours', 'button', '', '{}', 1, n, 0, now()
FROM generate_series(1, 5) n;
"""


def seen(database: Database, tenant: str, top: int = 10) -> Any:
    with psycopg.connect(database.admin_url) as connection:
        connection.execute("SELECT set_config('outrider.tenant', %s, true)", (tenant,))
        return (connection.execute("SELECT lifecycle.tenant_storage(%s)", (top,)).fetchone() or (None,))[0]


async def test_sizes_growth_and_devices(lifecycle: Lifecycle, database: Database) -> None:
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        connection.execute(FILL)
        connection.execute("ANALYZE")
    made = await storage.measure(lifecycle)
    await storage.measure_devices(lifecycle)
    assert [tier["table"] for tier in made["tiers"]][:2] == ["telemetry.sample", "telemetry.sample_text"]
    everything = seen(database, "*", 2)
    tables = {table["name"]: table for table in everything["tables"]}
    sample = tables["telemetry.sample"]
    assert sample["rows"] == 12_000
    assert 12_000 * 30 < sample["bytes"] < 12_000 * 300
    assert sample["index_bytes"] < sample["bytes"]
    assert sample["bytes_day"] > 0
    assert everything["device_count"] == 3
    assert [(one["tenant"], one["device"], one["samples"]) for one in everything["devices"]] == [
        ("other", "car-1", 3000),
        ("acme", "van-2", 2000),
    ]
    assert everything["forecast"]["database_bytes"] > 0
    mine = seen(database, "acme")
    assert [(one["device"], one["samples"], one["events"]) for one in mine["devices"]] == [
        ("van-2", 2000, 0),
        ("van-1", 1000, 5),
    ]
    assert "other" not in str(mine)
    assert mine["forecast"] is None
    own = next(table["bytes"] for table in mine["tables"] if table["name"] == "telemetry.sample")
    assert 0.4 * sample["bytes"] < own < 0.6 * sample["bytes"]
    assert seen(database, "") is None
    database.rows("SELECT lifecycle.erase_device('acme', 'van-2')")
    assert [one["device"] for one in seen(database, "acme")["devices"]] == ["van-1"]
