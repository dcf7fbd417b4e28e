"""Erasing a device while its data still arrives (fault 47): nothing of it is left anywhere, and nothing comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from outrider.runtime.errors import NotStored
from outrider.servers import Mosquitto
from outrider.testing.bus import now_ms
from outrider.testing.fixtures import Database
from outrider.testing.services import Client, connected, running
from outrider.testing.waiting import eventually
from outrider_ingest.app import service as ingest
from outrider_lifecycle.app import service as lifecycle
from outrider_registry.testing import Api, running_api, running_registry
from outrider_writer_logs.app import service as writer_logs
from outrider_writer_timeseries.app import service as writer

pytestmark = pytest.mark.servers

SAID = {"what", "why"}
EVERYWHERE = (
    "telemetry.series",
    "telemetry.event",
    "telemetry.sequence",
    "logs.line",
    "logs.sequence",
    "rejected.message",
)
TEXT_COLUMNS = """
SELECT n.nspname, c.relname, array_agg(a.attname::text) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
GROUP BY 1, 2 ORDER BY 1, 2
"""


@pytest.fixture
async def platform(mosquitto: Mosquitto, database: Database, tmp_path: Path) -> AsyncIterator[tuple[Api, Client]]:
    """The pipeline and lifecycle, each with its own account, the API, and a client that may publish anything."""
    urls = database.service_urls
    archive = {"archive_url": f"file://{tmp_path}/archive", "archive_identity_file": tmp_path / "archive.age"}
    async with contextlib.AsyncExitStack() as stack:
        registry = await stack.enter_async_context(running_registry(urls["registry"]))
        api = await stack.enter_async_context(running_api(registry))
        for device in ("van-1", "van-2"):
            assert (await api.admin.post("devices", json={"id": device, "owner": "ann"})).status_code == 201
        own = {
            ingest: {"ingest_directory": "registry", "ingest_slots": 1},
            writer: {"writer_slots": 1},
            writer_logs: {"logs_slots": 1},
            lifecycle: {"erase_settle_s": 1.0, **archive},
        }
        for service, settings in own.items():
            started = running(service, mosquitto.url_of(service.name), urls[service.name], **settings)
            await stack.enter_async_context(started)
        client = await stack.enter_async_context(connected(mosquitto.url, "device", ["fleet/v1/+/+/ack"]))
        yield api, client


def places(database: Database, device: str) -> dict[str, int]:
    """In how many rows of which table a name stands, in whatever column."""
    found = {}
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        for schema, table, columns in connection.execute(TEXT_COLUMNS).fetchall():
            # bytea as text, so that a payload is looked into
            parts = [
                sql.SQL("coalesce(encode({0}::text::bytea, 'escape'), '')").format(sql.Identifier(c)) for c in columns
            ]
            statement = sql.SQL("SELECT count(*) FROM {}.{} WHERE concat_ws(' ', {}) LIKE {}").format(
                sql.Identifier(schema), sql.Identifier(table), sql.SQL(", ").join(parts), sql.Literal(f"%{device}%")
            )
            if count := (connection.execute(statement).fetchone() or (0,))[0]:
                found[f"{schema}.{table}"] = count
    return found


class Sender:
    """Two devices that send all the time, whatever becomes of them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.seq = 0

    async def run(self) -> None:
        while True:
            await self.send()
            await asyncio.sleep(0.03)

    async def send(self) -> None:
        self.seq += 1
        number = {"boot": 5, "seq": self.seq, "ts": now_ms()}
        for device in ("van-1", "van-2"):
            base = f"fleet/v1/acme/{device}"
            await self._client.publish(
                f"{base}/telemetry", {**number, "speed": self.seq, f"m{self.seq % 50}": 1, "note": "x"}
            )
            await self._client.publish(f"{base}/event", {**number, "type": "button"})
            await self._client.publish(f"{base}/log", {**number, "level": "info", "msg": f"I am {device}"})
            await self._client.publish(f"{base}/telemetry", b"{not json")


def acked(client: Client, device: str, reason: str) -> list[int]:
    """Numbers of messages that were acknowledged as refused for this reason."""
    documents = client.documents(f"fleet/v1/acme/{device}/ack")
    return [seq for document in documents for seq, why in document.get("rejected", ()) if why == reason]


async def test_a_device_is_erased_while_its_data_arrives(
    platform: tuple[Api, Client], database: Database, mosquitto: Mosquitto
) -> None:
    api, client = platform
    sender = Sender(client)
    with contextlib.suppress(NotStored):  # nobody listens; it is retained all the same
        await client.publish("fleet/v1/acme/van-1/status", {"state": "online", "ts": now_ms()}, retain=True)
    await client.publish("fleet/v1/acme/van-1/telemetry/door", b"1", retain=True)
    sending = asyncio.create_task(sender.run())
    try:
        await eventually(lambda: database.value("SELECT count(*) > 5 FROM logs.line WHERE device = 'van-1'"))
        await eventually(lambda: database.value("SELECT count(*) FROM telemetry.seen WHERE device = 'van-1'"))
        assert set(EVERYWHERE) <= places(database, "van-1").keys()
        body = {"kind": "device", "name": "van-1", "confirm": "van-1"}
        assert (await api.admin.post("erasures", json={**body, "confirm": "van-2"})).status_code == 422
        assert (await api.operator.post("erasures", json=body)).status_code == 403
        asked = await api.admin.post("erasures", json=body)
        assert asked.status_code == 202, asked.text
        assert (await api.admin.post("erasures", json=body)).json()["id"] == asked.json()["id"], "the same one"
        assert (await api.admin.get("devices/van-1")).status_code == 404
        state = "SELECT state FROM lifecycle.erasure WHERE id = %s"
        await eventually(lambda: database.value(state, asked.json()["id"]) == "done", 30)
        before = sender.seq
        await eventually(lambda: sender.seq > before + 20)
        await eventually(lambda: max(acked(client, "van-1", "erased"), default=0) > before)
    finally:
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending
    erasure = (await api.admin.get(f"erasures/{asked.json()['id']}")).json()
    # What still came was dropped: the name stands where it must, and nowhere else.
    assert places(database, "van-1").keys() <= {
        "runtime.tombstone",
        "lifecycle.erasure",
        "registry.audit",
        "registry.idempotency",
    }
    assert database.value("SELECT messages > 0 FROM rejected.overflow WHERE reason = 'erased'")
    erased = erasure["erased"]
    for store, part in (
        ("telemetry", "sample"),
        ("telemetry", "event"),
        ("logs", "line"),
        ("rejected", "message"),
        ("registry", "device"),
    ):
        assert erased[store][part] > 0, (store, part, erased)
    assert erased["broker"] == {"retained topics": 2}
    assert {"the audit", "backups and copies of the database, the broker's files and the archive"} <= {
        stays["what"] for stays in erasure["not_erased"]
    }
    assert all(stays.keys() == SAID for stays in erasure["not_erased"])
    # The other device was not touched, nor was anything of it refused.
    assert acked(client, "van-2", "erased") == []
    missing = "SELECT sum(missing), count(*) FROM (SELECT * FROM {}.sequence_state WHERE device = 'van-2') s"
    assert database.rows(missing.format("telemetry")) == [(0, 2)]
    assert database.rows(missing.format("logs")) == [(0, 1)]
    async with connected(mosquitto.url, "looker", ["fleet/v1/acme/van-1/#"]) as looker:
        await looker.publish("fleet/v1/acme/van-1/telemetry", b"mark")  # comes after what is retained
        await eventually(lambda: [one for one in looker.received if one.payload == b"mark"])
        assert [one.topic for one in looker.received if one.retained] == []


async def test_the_id_is_nobodys_until_the_platform_frees_it(platform: tuple[Api, Client], database: Database) -> None:
    api, client = platform
    await Sender(client).send()
    body = {"kind": "person", "name": "ann", "confirm": "ann", "devices": True}
    asked = await api.admin.post("erasures", json=body)
    assert asked.status_code == 202, asked.text
    taken = await api.admin.post("devices", json={"id": "van-1"})
    assert (taken.status_code, "erased" in taken.json()["detail"]) == (409, True)
    assert (await api.admin.post("devices?lift_tombstone=true", json={"id": "van-1"})).status_code == 403
    imported = await api.admin.post("devices/import", json={"rows": [{"id": "van-1"}]})
    assert [row["result"] for row in imported.json()["results"]] == ["failed"]
    early = await api.platform.post("devices?lift_tombstone=true", json={"id": "van-1"})
    assert (early.status_code, "still being erased" in early.json()["detail"]) == (409, True)

    await eventually(lambda: database.rows("SELECT DISTINCT state FROM lifecycle.erasure") == [("done",)], 30)
    found = {one["kind"]: one for one in (await api.admin.get("erasures")).json()["items"]}
    assert found["person"]["subject"].startswith("sha256:")
    assert found["device"]["parent"] == found["person"]["id"]
    assert (await api.other.get("erasures")).json()["items"] == []
    freed = await api.platform.post("devices?lift_tombstone=true", json={"id": "van-1"})
    assert freed.status_code == 201, freed.text
    await client.publish("fleet/v1/acme/van-1/telemetry", {"boot": 9, "seq": 1, "ts": now_ms(), "speed": 7})
    await eventually(lambda: database.rows("SELECT value FROM telemetry.latest WHERE device = 'van-1'") == [(7.0,)])
    lines = database.rows(
        "SELECT action, object FROM registry.audit WHERE action LIKE ANY ('{%%erase,tombstone%%}') ORDER BY at"
    )
    assert [action for action, _ in lines] == ["device.erase", "device.erase", "person.erase", "tombstone.lift"]
    assert "ann" not in json.dumps(lines)
