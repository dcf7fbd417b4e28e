"""Boot anchors, drift and replays on real servers: one anchor per boot, whoever sees the boot first, for ever."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from outrider.servers import Mosquitto
from outrider.testing.bus import Bus, now_ms, reading, rejected, topic
from outrider.testing.fixtures import Database
from outrider.testing.services import Client, connected, running
from outrider.testing.waiting import eventually
from outrider_ingest.app import service

REPLAY = [("outrider-replay", "1")]


def clockless(boot: int, seq: int, up_ms: int, now: int | None, **more: Any) -> dict[str, Any]:
    timed = {"now_ms": now} if now is not None else {}
    return {"boot": boot, "seq": seq, **timed, "up_ms": up_ms, "n": up_ms, **more}


def anchors(bus: Bus, device: str) -> dict[int, set[int]]:
    """Per boot the wall times of uptime 0 that the bus carried (the value of `n` is the uptime)."""
    found: dict[int, set[int]] = {}
    for message in bus.messages(device):
        for metric, _, ts, value in message.samples:
            if metric == "n":
                assert message.header.boot is not None
                found.setdefault(message.header.boot, set()).add(ts - value)
    return found


def fixed(database: Database, device: str) -> dict[int, int]:
    return dict(database.rows("SELECT boot, anchor_ms FROM telemetry.boot WHERE device = %s", device))


async def test_two_replicas_that_race_for_a_boot_fix_one_anchor(mosquitto: Mosquitto, database: Database) -> None:
    url = database.service_urls["ingest"]
    boots = range(1, 61)
    async with (
        reading(mosquitto.url, database) as bus,
        running(service, mosquitto.url, url, replica="one", lease_timeout_s=2.0),
        running(service, mosquitto.url, url, replica="two", lease_timeout_s=2.0),
        connected(mosquitto.url, "device") as client,
    ):
        held = "SELECT count(DISTINCT replica) FROM runtime.slot WHERE group_name = 'ingest'"
        await eventually(lambda: database.value(held) == 2)
        # $share deals these over both replicas; every message would give its boot another anchor.
        await asyncio.gather(
            *(
                client.publish(topic("van-1"), clockless(boot, seq, 1000 * seq, 100_000 + 777 * seq))
                for boot in boots
                for seq in range(1, 9)
            )
        )
        await eventually(lambda: len(bus.messages("van-1")) == 8 * len(boots))
        assert len({message.number.slot for message in bus.messages()}) > 2
        found = anchors(bus, "van-1")
        assert found == {boot: {anchor} for boot, anchor in fixed(database, "van-1").items()}
        assert found.keys() == set(boots)


async def test_an_anchor_outlives_ingest_and_resends_do_not_move_it(mosquitto: Mosquitto, database: Database) -> None:
    url = database.service_urls["ingest"]
    async with reading(mosquitto.url, database) as bus, connected(mosquitto.url, "device") as client:
        for run in range(1, 4):
            async with running(service, mosquitto.url, url):
                await client.publish(topic("van-1"), clockless(7, 1, 1000, 10_000 * run * run))
                await client.publish(topic("van-1", "log"), clockless(7, run, 2000, 50_000 * run, msg="x"))
                await eventually(lambda run=run: len(bus.messages("van-1")) == 2 * run)
        assert len(fixed(database, "van-1")) == 1
        anchor = fixed(database, "van-1")[7]
        assert anchors(bus, "van-1") == {7: {anchor}}
        logs = [record.ts for message in bus.messages("van-1") for record in message.records]
        assert logs == [anchor + 2000] * 3


async def test_a_message_of_an_earlier_boot_uses_the_anchor_of_that_boot_or_has_no_time(
    mosquitto: Mosquitto, database: Database
) -> None:
    url = database.service_urls["ingest"]
    async with (
        reading(mosquitto.url, database) as bus,
        running(service, mosquitto.url, url),
        connected(mosquitto.url, "device") as client,
    ):
        await client.publish(topic("van-1"), clockless(7, 1, 1000, 5000))
        await eventually(lambda: len(bus.messages("van-1")) == 1)
        anchor = fixed(database, "van-1")[7]
        await client.publish(topic("van-1"), clockless(8, 1, 10, 20))
        await client.publish(topic("van-1"), clockless(7, 2, 4000, None))
        await client.publish(topic("van-1"), clockless(6, 1, 4000, None))
        await client.publish(topic("van-1"), {"boot": 6, "seq": 2, "ts": now_ms(), "n": 1})
        await eventually(lambda: len(bus.messages("van-1")) == 5)
        seen = {(m.header.boot, m.header.seq): m for m in bus.messages("van-1")}
        assert [ts for _, _, ts, _ in seen[7, 2].samples] == [anchor + 4000]
        assert (seen[6, 1].samples, seen[6, 1].header.reasons) == ([], ["no_time"])
        assert len(seen[6, 2].samples) == 1
        assert rejected(database, "van-1") == [(6, 1, "no_time")]
        assert fixed(database, "van-1").keys() == {7, 8}


async def test_a_clock_far_ahead_is_refused_and_the_rest_of_the_message_stays(
    mosquitto: Mosquitto, database: Database
) -> None:
    url = database.service_urls["ingest"]
    async with (
        reading(mosquitto.url, database) as bus,
        running(service, mosquitto.url, url),
        connected(mosquitto.url, "device") as client,
    ):
        records = [{"ts": now_ms(), "good": 1}, {"ts": now_ms() + 400_000, "ahead": 1}]
        await client.publish(topic("van-1"), {"boot": 7, "seq": 1, "records": records})
        await eventually(lambda: bus.messages("van-1"))
        (message,) = bus.messages("van-1")
        assert [metric for metric, *_ in message.samples] == ["good"]
        assert message.header.reasons == ["clock_ahead"]
        assert rejected(database, "van-1") == [(7, 1, "clock_ahead")]


async def test_a_redelivered_refusal_of_a_numbered_message_is_kept_once(
    mosquitto: Mosquitto, database: Database
) -> None:
    url = database.service_urls["ingest"]
    async with (
        reading(mosquitto.url, database) as bus,
        running(service, mosquitto.url, url),
        connected(mosquitto.url, "device") as client,
    ):
        for _ in range(3):
            await client.publish(topic("van-1"), {"boot": 7, "seq": 1, "ts": now_ms(), "bad!": 1, "worse!": 2, "a": 1})
        await eventually(lambda: len(bus.messages("van-1")) == 3)
        assert rejected(database, "van-1") == [(7, 1, "bad_name")]
        detail = database.value("SELECT detail FROM rejected.message")
        assert "bad!" in detail
        assert "worse!" in detail
        assert [message.header.reasons for message in bus.messages("van-1")] == [["bad_name"]] * 3


async def test_drift_is_noted_once_and_moves_nothing(mosquitto: Mosquitto, database: Database) -> None:
    url = database.service_urls["ingest"]
    drift = "SELECT drift_ms FROM telemetry.boot WHERE device = 'van-1'"
    async with reading(mosquitto.url, database) as bus, connected(mosquitto.url, "device") as client:
        async with running(service, mosquitto.url, url):
            await client.publish(topic("van-1"), clockless(7, 1, 1000, 60_000))
            await eventually(lambda: fixed(database, "van-1"))
            anchor = fixed(database, "van-1")[7]
            assert database.value(drift) is None
            await client.publish(topic("van-1"), clockless(7, 2, 2000, 61_000, ts=anchor + 2000 + 7000))
            await eventually(lambda: database.value(drift) == 7000)
            await client.publish(topic("van-1"), clockless(7, 3, 3000, 62_000, ts=anchor + 3000 + 9000))
            await eventually(lambda: len(bus.messages("van-1")) == 3)
        async with running(service, mosquitto.url, url):
            await client.publish(topic("van-1"), clockless(7, 4, 4000, 63_000, ts=anchor + 4000 + 11_000))
            await client.publish(topic("van-1"), clockless(7, 5, 5000, 64_000))
            await eventually(lambda: len(bus.messages("van-1")) == 5)
        assert database.value(drift) == 7000
        assert fixed(database, "van-1") == {7: anchor}
        times = {m.header.seq: m.samples[0][2] for m in bus.messages("van-1")}
        assert (times[1], times[5]) == (anchor + 1000, anchor + 5000)


async def replay(client: Client, payload: dict[str, Any], received: str, stream: str = "telemetry") -> None:
    await client.publish(
        topic("van-1", stream), json.dumps(payload), user_properties=[*REPLAY, ("outrider-received-ms", received)]
    )


async def test_replays_travel_unnumbered_with_their_first_receive_time(
    mosquitto: Mosquitto, database: Database
) -> None:
    url = database.service_urls["ingest"]
    then = now_ms() - 3 * 86_400_000
    async with (
        reading(mosquitto.url, database) as bus,
        running(service, mosquitto.url, url),
        connected(mosquitto.url, "device") as client,
    ):
        await replay(client, {"boot": 7, "seq": 9, "ts": then - 5000, "a": 1}, str(then))
        await replay(client, {"a": 2}, str(then))
        await replay(client, {"boot": 7, "seq": 9, "now_ms": 9000, "up_ms": 4000, "a": 3}, str(then))
        await replay(client, {"msg": "a line"}, str(then), "log")
        await eventually(lambda: len(bus.messages("van-1")) == 4)
        telemetry = [message for message in bus.messages("van-1") if message.samples]
        by_value = {message.samples[0][3]: message.samples[0][2] for message in telemetry}
        assert by_value == {1: then - 5000, 2: then, 3: then - 5000}
        for message in bus.messages("van-1"):
            assert (message.header.boot, message.header.seq, message.header.received_ms) == (None, None, then)
        (record,) = [record for message in bus.messages("van-1") for record in message.records]
        assert record.ts == then


async def test_a_replay_is_judged_by_todays_clock(mosquitto: Mosquitto, database: Database) -> None:
    """What was ahead of the clock when it came is in the past one day; its receive time stays the first one."""
    came, meant = now_ms() - 3_600_000, now_ms() - 60_000
    async with (
        reading(mosquitto.url, database) as bus,
        running(service, mosquitto.url, database.service_urls["ingest"]),
        connected(mosquitto.url, "device") as client,
    ):
        await replay(client, {"ts": meant, "a": 1}, str(came))
        await eventually(lambda: bus.messages("van-1"))
    (message,) = bus.messages("van-1")
    assert message.header.received_ms == came
    assert rejected(database, "van-1") == []


async def test_a_replay_whose_receive_time_cannot_be_true_has_its_own(mosquitto: Mosquitto, database: Database) -> None:
    url = database.service_urls["ingest"]
    before = now_ms()
    async with (
        reading(mosquitto.url, database) as bus,
        running(service, mosquitto.url, url),
        connected(mosquitto.url, "device") as client,
    ):
        for received in ("", "soon", "-5", "9" * 5000, str(before + 86_400_000)):
            await replay(client, {"a": 1}, received)
        await eventually(lambda: len(bus.messages("van-1")) == 5)
        for message in bus.messages("van-1"):
            assert before <= message.header.received_ms <= now_ms()
    assert rejected(database, "van-1") == []
