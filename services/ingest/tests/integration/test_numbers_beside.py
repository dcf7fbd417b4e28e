"""A number beside the payload goes through a real broker, and both numbers of a message share a batch."""

from __future__ import annotations

from outrider.contract.envelope import user_properties
from outrider.servers import Mosquitto
from outrider.testing.bus import now_ms, reading
from outrider.testing.fixtures import Database
from outrider.testing.services import connected, running
from outrider.testing.waiting import eventually
from outrider_ingest.app import service


async def test_numbers_beside_payloads_reach_the_bus(mosquitto: Mosquitto, database: Database) -> None:
    ts = now_ms() - 60_000
    base = "fleet/v1/acme/van-1/"
    async with (
        reading(mosquitto.url, database) as bus,
        running(service, mosquitto.url, database.service_urls["ingest"]),
        connected(mosquitto.url, "gateway") as client,
    ):
        await client.publish(base + "telemetry/a", "1", user_properties=user_properties(7, 1, ts))
        own = {"boot": 3, "seq": 9, "ts": ts + 1, "a": 2}
        await client.publish(base + "telemetry", own, user_properties=user_properties(7, 2, ts))
        await client.publish(base + "telemetry", "{", user_properties=user_properties(7, 3))
        await client.publish(base + "log", '{"msg":"x"}', user_properties=user_properties(7, 1, ts))
        await eventually(lambda: len(bus.messages("van-1")) == 5)
    found = {(m.header.stream, m.header.boot, m.header.seq): m for m in bus.messages("van-1")}
    assert found.keys() == {
        ("telemetry", 7, 1),
        ("telemetry", 3, 9),
        ("telemetry", 7, 2),
        ("telemetry", 7, 3),
        ("log", 7, 1),
    }
    assert found["telemetry", 7, 1].samples == [("a", "number", ts, 1)]
    assert found["telemetry", 3, 9].samples == [("a", "number", ts + 1, 2)]
    assert found["telemetry", 7, 2].samples == []
    assert found["telemetry", 7, 2].number == found["telemetry", 3, 9].number
    assert found["telemetry", 7, 3].header.reasons == ["not_json"]
    assert found["log", 7, 1].records[0].ts == ts
    kept = "SELECT boot, seq, reason FROM rejected.message"
    assert database.rows(kept) == [(7, 3, "not_json")]
