"""Rejected messages: looked at, sent again through a real broker, thrown away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from outrider.servers import Mosquitto
from outrider.testing.fixtures import Database
from outrider.testing.services import connected
from outrider.testing.waiting import eventually
from outrider_registry.testing import Api, running_api, running_registry

TELEMETRY = "fleet/v1/{tenant}/van-1/telemetry"


def keep(
    database: Database, payload: bytes, reason: str = "unknown_format", tenant: str = "acme", topic: str = TELEMETRY
) -> int:
    """A rejected message of van-1 of an hour ago; its id."""
    database.rows(
        "SELECT rejected.keep(ARRAY[%s], ARRAY['van-1'], ARRAY['telemetry'], ARRAY[NULL::bigint], ARRAY[NULL::bigint], "
        "ARRAY[%s], ARRAY['why'], ARRAY[%s], ARRAY[%s::bytea], ARRAY[now() - interval '1 hour'], 'ingest')",
        tenant, reason, topic.format(tenant=tenant), payload,
    )  # fmt: skip
    return int(database.value("SELECT max(id) FROM rejected.message"))


async def ids(api: Api, **query: Any) -> list[int]:
    answer = await api.viewer.get("rejected", params=query)
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


async def test_rejected_messages_are_listed_and_shown(api: Api, database: Database) -> None:
    text = keep(database, b'{"speed_kmh": "fast"}', "bad_value")
    binary = keep(database, b"\x28\xb5\x2f\xfd\x00", "decompress_failed")
    theirs = keep(database, b"secret", tenant="other")
    page = (await api.viewer.get("rejected", params={"limit": 1})).json()
    assert ([item["id"] for item in page["items"]], page["total"]) == ([binary], 2)
    assert page["reasons"] == {"bad_value": 1, "decompress_failed": 1}
    assert await ids(api, cursor=page["next"]) == [text]
    assert await ids(api, reason="bad_value") == [text]
    assert await ids(api, reason="no_such_reason") == []
    assert await ids(api, device="van-2") == []
    shown = (await api.viewer.get(f"rejected/{text}")).json()
    assert (shown["payload_text"], shown["replayable"], shown["device"]) == ('{"speed_kmh": "fast"}', True, "van-1")
    assert "cannot be stored" in shown["explanation"]
    shown = (await api.viewer.get(f"rejected/{binary}")).json()
    assert (shown["payload_text"], shown["payload_hex"]) == (None, "28b52ffd00")
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/replay")):
        answer = await api.admin.request(method, f"rejected/{theirs}{path}")
        assert answer.status_code == 404, (method, path)
    assert (await api.viewer.get(f"rejected/{2**70}")).status_code == 422


async def test_deleting_gives_the_quota_back(api: Api, database: Database) -> None:
    mine, theirs = keep(database, b"x"), keep(database, b"x", tenant="other")
    assert (await api.viewer.delete(f"rejected/{mine}")).status_code == 403
    assert (await api.operator.delete(f"rejected/{mine}")).status_code == 204
    assert (await api.operator.delete(f"rejected/{mine}")).status_code == 404
    assert database.rows("SELECT id FROM rejected.message") == [(theirs,)]
    assert database.rows("SELECT tenant, messages FROM rejected.usage ORDER BY tenant") == [("acme", 0), ("other", 1)]
    assert database.value("SELECT detail FROM registry.audit WHERE action = 'rejected.delete'")["device"] == "van-1"


async def test_without_a_broker_a_replay_says_so_and_marks_nothing(api: Api, database: Database) -> None:
    one = keep(database, b"x")
    answer = await api.operator.post(f"rejected/{one}/replay")
    assert (answer.status_code, "0 of 1" in answer.json()["detail"]) == (503, True)
    assert database.value("SELECT count(*) FROM rejected.message WHERE replayed_at IS NOT NULL") == 0
    old_status = keep(database, b"{}", topic="fleet/v1/acme/van-1/status")
    assert (await api.operator.post(f"rejected/{old_status}/replay")).status_code == 409
    for body in (
        {},
        {"ids": []},
        {"ids": [one], "device": "van-1"},
        {"ids": list(range(1, 1002))},
        {"reason": "nonsense"},
    ):
        assert (await api.operator.post("rejected/replay", json=body)).status_code == 422, body


async def test_nothing_is_sent_to_the_topics_of_another_tenant(api: Api, database: Database) -> None:
    """Kept with whose device it is, though the device named another tenant: that one may have the name by now."""
    own, foreign = keep(database, b"x"), keep(database, b"x", "wrong_tenant", topic="fleet/v1/other/van-1/telemetry")
    assert (await api.viewer.get(f"rejected/{own}")).json()["replayable"]
    assert not (await api.viewer.get(f"rejected/{foreign}")).json()["replayable"]
    assert (await api.operator.post(f"rejected/{foreign}/replay")).status_code == 409
    for choice in ({"ids": [foreign]}, {"reason": "wrong_tenant"}):
        answer = await api.operator.post("rejected/replay", json=choice)
        assert (answer.status_code, answer.json()["replayed"]) == (200, 0), choice


@pytest.fixture
async def published(database: Database, mosquitto: Mosquitto) -> AsyncIterator[Api]:
    """The API with a publisher that is connected."""
    async with running_registry(database.service_urls["registry"], mosquitto.url) as registry:
        task = asyncio.create_task(registry.publisher.run())
        try:
            await eventually(lambda: registry.publisher.connected)
            async with running_api(registry) as api:
                yield api
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await registry.publisher.close()


async def test_messages_are_sent_again_as_they_came_and_marked(
    published: Api, database: Database, mosquitto: Mosquitto
) -> None:
    api = published
    kept = [keep(database, f'{{"speed_kmh": {n}}}'.encode()) for n in range(150)]
    status = keep(database, b"{}", topic="fleet/v1/acme/van-1/status")
    theirs = keep(database, b"secret", tenant="other")
    nobody = await api.operator.post(f"rejected/{kept[0]}/replay")
    assert (nobody.status_code, "ingest" in nobody.json()["detail"]) == (503, True), "nobody subscribes"
    async with connected(mosquitto.url, "reader", ["fleet/#"]) as reader:
        one = await api.operator.post(f"rejected/{kept[0]}/replay")
        assert one.json() == {"replayed": 1, "skipped": 0, "more": False}
        some = await api.operator.post("rejected/replay", json={"ids": [kept[0], kept[1], status, theirs, 999_999]})
        assert some.json() == {"replayed": 2, "skipped": 3, "more": False}
        rest = await api.operator.post("rejected/replay", json={"device": "van-1"})
        assert rest.json() == {"replayed": 148, "skipped": 0, "more": False}
        none = await api.operator.post("rejected/replay", json={"reason": "unknown_format"})
        assert none.json() == {"replayed": 0, "skipped": 0, "more": False}
        await eventually(lambda: len(reader.received) == 151)
    first = reader.received[0]
    came = database.value(
        "SELECT (extract(epoch FROM received_at) * 1000)::bigint FROM rejected.message WHERE id = %s", kept[0]
    )
    assert (first.topic, first.payload) == ("fleet/v1/acme/van-1/telemetry", b'{"speed_kmh": 0}')
    assert dict(first.properties["user_property"]) == {"outrider-replay": "1", "outrider-received-ms": str(came)}
    assert len({delivery.payload for delivery in reader.received}) == 150
    replayed = "SELECT id FROM rejected.message WHERE replayed_at IS NOT NULL ORDER BY id"
    assert database.rows(replayed) == [(id_,) for id_ in kept]
    assert await ids(api, replayed="false") == [status]
    details = database.rows("SELECT detail FROM registry.audit WHERE action = 'rejected.replay' ORDER BY number")
    assert [detail["replayed"] for (detail,) in details] == [1, 2, 148]
