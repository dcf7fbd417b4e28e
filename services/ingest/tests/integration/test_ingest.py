"""Ingest on real servers: what devices publish ends on the bus, or in `rejected.message` with its reason."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from outrider.contract import limits
from outrider.contract.batch import decode_samples
from outrider.servers import Mosquitto
from outrider.testing import bus as bus_reader
from outrider.testing.fixtures import Database
from outrider.testing.services import Client, connected, running
from outrider.testing.waiting import eventually
from outrider_ingest.app import service
from outrider_ingest.bus import CUT_BYTES

STREAMS = ("telemetry", "scalar", "log", "event")


def payload_of(vector: dict[str, Any]) -> bytes:
    if "payload_hex" in vector:
        return bytes.fromhex(vector["payload_hex"])
    if "payload_repeat" in vector:
        text, count = vector["payload_repeat"]
        return str(vector.get("payload_prefix", "") + text * count + vector.get("payload_suffix", "")).encode()
    return str(vector["payload"]).encode()


def vectors(root: Path, folder: str) -> dict[str, dict[str, Any]]:
    """Golden vectors by a device name of their own. Those about a clock ahead hold only at their own receive time."""
    found = {}
    for stream in STREAMS:
        for path in sorted((root / "contract" / "vectors" / stream / folder).glob("*.json")):
            if "ahead" not in path.stem:
                found[f"{stream}-{path.stem}"] = json.loads(path.read_text(encoding="utf-8"))
    return found


async def publish_vectors(client: Client, database: Database, chosen: dict[str, dict[str, Any]]) -> None:
    """Publish each vector as the device it is named after; the anchors it counts on are committed before."""
    for device, vector in chosen.items():
        boot = vector["expect"].get("boot")
        if "anchor_ms" in vector and boot is not None:
            database.rows(
                "INSERT INTO telemetry.boot (tenant, device, boot, anchor_ms) VALUES ('acme', %s, %s, %s)",
                device,
                boot,
                vector["anchor_ms"],
            )
    await asyncio.gather(
        *(
            client.publish(vector["topic"].replace("/van-1/", f"/{device}/"), payload_of(vector))
            for device, vector in chosen.items()
        )
    )


def check_on_bus(device: str, vector: dict[str, Any], seen: list[Any], published_ms: int) -> None:
    """The one bus message of a vector says what `expect` says; times hang on the real receive time where they must."""
    expect = vector["expect"]
    assert len(seen) == 1, device
    header = seen[0].header
    assert header.seq == expect.get("seq"), device
    if header.seq is not None:
        assert header.boot == expect["boot"], device
    assert sorted(set(header.reasons)) == sorted({reason for (reason,) in expect.get("refused", [])}), device
    assert [list(gone) for gone in header.gone] == expect.get("gone", []), device
    assert len(seen[0].samples) == expect.get("sample_count", len(expect.get("samples", []))), device

    def placed(ts: int, expected: int) -> bool:
        moved_ms = (ts - published_ms) - (expected - vector["received_ms"])
        return ts == expected or abs(moved_ms) < 30_000

    for sample, (metric, kind, ts, value) in zip(seen[0].samples, expect.get("samples", []), strict=False):
        assert json.dumps([*sample[:2], sample[3]]) == json.dumps([metric, kind, value]), device
        assert placed(sample[2], ts), device
    for record, (ts, label, text, fields) in zip(seen[0].records, expect.get("records", []), strict=True):
        assert (record.label, record.text, record.fields) == (label, text, fields), device
        assert placed(record.ts, ts), device


async def test_every_valid_vector_ends_on_the_bus(
    mosquitto: Mosquitto, database: Database, repository_root: Path
) -> None:
    chosen = vectors(repository_root, "valid")
    assert len(chosen) >= 50
    url = database.service_urls["ingest"]
    async with (
        bus_reader.reading(mosquitto.url, database) as bus,
        running(service, mosquitto.url, url),
        connected(mosquitto.url, "device") as client,
    ):
        published_ms = bus_reader.now_ms()
        await publish_vectors(client, database, chosen)
        empty = {d for d, v in chosen.items() if v["expect"] and not carried(v)}
        await eventually(lambda: {m.header.device for m in bus.messages()} == chosen.keys() - empty)
        for device, vector in chosen.items():
            if device not in empty:
                check_on_bus(device, vector, bus.messages(device), published_ms)
    assert database.rows("SELECT device, reason, detail FROM rejected.message") == []


def carried(vector: dict[str, Any]) -> bool:
    """True where something of the message travels the bus: content, a number to account for, or a loss."""
    expect = vector["expect"]
    content = expect.get("samples") or expect.get("sample_count") or expect.get("records") or expect.get("gone")
    return bool(content) or expect.get("seq") is not None


async def test_every_invalid_vector_is_kept_with_its_reason(
    mosquitto: Mosquitto, database: Database, repository_root: Path
) -> None:
    chosen = vectors(repository_root, "invalid")
    assert len(chosen) >= 100
    url = database.service_urls["ingest"]
    async with (
        bus_reader.reading(mosquitto.url, database) as bus,
        running(service, mosquitto.url, url),
        connected(mosquitto.url, "device") as client,
    ):
        published_ms = bus_reader.now_ms()
        await publish_vectors(client, database, chosen)
        expected = {
            (device, reason)
            for device, vector in chosen.items()
            for reason in {vector["expect"].get("refuse")} | {r for (r,) in vector["expect"].get("refused", [])}
            if reason
        }
        kept = "SELECT device, reason FROM rejected.message"
        await eventually(lambda: set(database.rows(kept)) >= expected)
        assert Counter(database.rows(kept)) == Counter(expected)
        unread = {device for device, vector in chosen.items() if "refuse" in vector["expect"]}
        await eventually(lambda: all(bus.acks(device, "acme") for device in unread))
        on_bus = {device for device, vector in chosen.items() if carried(vector)}
        await eventually(lambda: {m.header.device for m in bus.messages()} == on_bus)
        for device, vector in chosen.items():
            if device in unread:
                digest = hashlib.sha256(payload_of(vector)).hexdigest()[:16]
                stream = {"scalar": "telemetry"}.get(device.split("-")[0], device.split("-")[0])
                assert bus.acks(device, "acme") == [
                    {"stream": stream, "digest": [[digest, vector["expect"]["refuse"]]]}
                ], device
            else:
                assert bus.acks(device, "acme") == [], device
            if device in on_bus:
                check_on_bus(device, vector, bus.messages(device), published_ms)
    payloads = dict(database.rows("SELECT device, payload FROM rejected.message"))
    assert payloads == {device: payload_of(vector) for device, vector in chosen.items()}
    assert max(map(len, payloads.values())) >= 200_000  # kept whole


async def test_names_that_are_none_are_kept_and_answered_by_nobody(mosquitto: Mosquitto, database: Database) -> None:
    topics = [
        "fleet/v1/demo/Van-1/telemetry",
        "fleet/v1/demo/-van/log",
        f"fleet/v1/demo/{'v' * 64}/event",
        "fleet/v1/Démo/van-1/telemetry/speed",
        "fleet/v1//van-1/telemetry",
        "fleet/v1/demo/svc:ingest:0/telemetry",
        "fleet/v1/demo/van-1/telemetry/a/b",
    ]
    url = database.service_urls["ingest"]
    async with (
        bus_reader.reading(mosquitto.url, database) as bus,
        running(service, mosquitto.url, url),
        connected(mosquitto.url, "device") as client,
    ):
        for name in topics:
            await client.publish(name, {"a": 1})
        await client.publish(bus_reader.topic("good"), {"a": 1})
        await eventually(lambda: bus.messages("good"))
        await eventually(lambda: database.value("SELECT count(*) FROM rejected.message") == len(topics))
        assert [message.header.device for message in bus.messages()] == ["good"]
    rows = database.rows("SELECT topic, reason, payload FROM rejected.message ORDER BY id")
    assert sorted(rows) == sorted((name, "bad_name", b'{"a": 1}') for name in topics)
    assert database.value("SELECT max(length(device)) FROM rejected.message") == 63


async def test_missing_writers_are_named_and_their_messages_stay_with_the_broker(
    mosquitto: Mosquitto, database: Database
) -> None:
    """Rule 10: what nobody would store is not acknowledged. What others store goes on."""
    url = database.service_urls["ingest"]
    async with (
        running(service, mosquitto.url, url, ingest_slots=1) as ingest,
        connected(mosquitto.url, "device") as client,
    ):
        await client.publish(bus_reader.topic("van-1", "log"), {"msg": "kept", "level": "nonsense"})
        await client.publish(bus_reader.topic("van-1", "log"), {"records": [{"msg": "kept"}, {"msg": 5}]})

        def says(text: str) -> Any:
            return lambda: text in (ingest.problems() or {}).get("ingest", "")

        await eventually(says("writer-logs has never run"))
        database.rows("SELECT runtime.declare_slots('writer-logs', 4)")
        await eventually(says("writer-logs has not run on this broker yet; start it"), 30)
        assert bus_reader.rejected(database, "van-1") == [(None, None, "bad_value")] * 2  # retries keep nothing twice
    # Still un-acknowledged: the next ingest gets it again.
    async with (
        bus_reader.reading(mosquitto.url, database) as bus,
        running(service, mosquitto.url, url, ingest_slots=1) as ingest,
    ):
        await eventually(lambda: bus.messages("van-1"))
        (message,) = bus.messages("van-1")
        assert [record.text for record in message.records] == ["kept"]
        await ingest.ready()


async def test_telemetry_of_a_batch_is_stored_although_its_logs_cannot(
    mosquitto: Mosquitto, database: Database
) -> None:
    database.rows("SELECT runtime.declare_slots('writer-timeseries', 1)")
    url = database.service_urls["ingest"]
    async with running(service, mosquitto.url, url, ingest_slots=1):
        pass  # its session exists now, and waits
    async with (
        connected(mosquitto.url, "device") as client,
        connected(
            mosquitto.url, "reader", ["outrider/v1/samples/0", "outrider-attended/writer-timeseries/0"]
        ) as reader,
    ):
        await client.publish(bus_reader.topic("van-1", "log"), {"msg": "nobody stores this"})
        await client.publish(bus_reader.topic("van-1"), {"a": 1})
        stop = asyncio.Event()
        configured = service.settings(
            mqtt_url=mosquitto.url, database_url=url, ingest_slots=1, replica="test", ingest_directory="none"
        )
        ingest = asyncio.create_task(service.run(configured, stop))
        await eventually(lambda: any(delivery.payload for delivery in reader.received))
        stop.set()
        await ingest


async def test_batches_are_numbered_without_a_gap_and_their_numbers_are_recorded(
    mosquitto: Mosquitto, database: Database
) -> None:
    url = database.service_urls["ingest"]
    async with bus_reader.reading(mosquitto.url, database, shards=3) as bus:
        for lease in (1, 2):
            async with running(service, mosquitto.url, url), connected(mosquitto.url, "device") as client:
                for round_ in range(10):
                    for n in range(8):
                        await client.publish(bus_reader.topic(f"van-{n}"), {"a": round_})
                        await client.publish(bus_reader.topic(f"van-{n}", "log"), {"msg": str(round_)})
                await eventually(lambda lease=lease: len(bus.messages()) == 160 * lease)
                numbers = defaultdict(list)
                for message in bus.messages():
                    key = (message.number.slot, message.number.epoch, message.topic)
                    if message.number.number not in numbers[key]:
                        numbers[key].append(message.number.number)
                assert {epoch for _, epoch, _ in numbers} == set(range(1, lease + 1))
                assert all(found == list(range(1, len(found) + 1)) for found in numbers.values())
                last = {key: found[-1] for key, found in numbers.items() if key[1] == lease}
                recorded = "SELECT producer_slot, epoch, topic, number FROM runtime.published WHERE epoch = %s"
                await eventually(
                    lambda lease=lease, last=last, recorded=recorded: (
                        {(slot, epoch, name): number for slot, epoch, name, number in database.rows(recorded, lease)}
                        == last
                    )
                )


async def test_a_message_of_5000_samples_travels_in_one_batch(mosquitto: Mosquitto, database: Database) -> None:
    """Rule 8: so that one commit acknowledges the message whole."""
    count = limits.MESSAGE_MAX_SAMPLES
    t0 = bus_reader.now_ms() - count
    url = database.service_urls["ingest"]
    async with (
        bus_reader.reading(mosquitto.url, database, shards=1) as bus,
        running(service, mosquitto.url, url),
        connected(mosquitto.url, "device") as client,
    ):
        sends = []
        for seq in range(1, 9):
            series = {"n": [[0] + [1] * (count - 1), list(range(count))]}
            document = {"v": 1, "boot": 7, "seq": seq, "t0": t0, "series": series}
            sends.append(client.publish(bus_reader.topic("van-1"), json.dumps(document, separators=(",", ":"))))
            sends += [client.publish(bus_reader.topic(f"small-{n}"), {"a": seq}) for n in range(5)]
        await asyncio.gather(*sends)
        await eventually(lambda: len(bus.messages()) == 48)
        large = bus.messages("van-1")
        assert sorted(message.header.seq for message in large) == list(range(1, 9))
        for message in large:
            assert message.samples == [("n", "number", t0 + n, n) for n in range(count)]


async def test_long_texts_are_divided_into_batches_that_the_broker_takes(
    mosquitto: Mosquitto, database: Database
) -> None:
    """40 messages of 400 KB, small on the wire: 16 MB that must not become one packet."""
    url = database.service_urls["ingest"]
    async with running(service, mosquitto.url, url, ingest_slots=1):
        pass
    async with bus_reader.reading(mosquitto.url, database, shards=1) as bus:
        async with connected(mosquitto.url, "device") as client:
            for seq in range(1, 41):
                records = [{f"m{n}": chr(97 + n % 26) * 4000} for n in range(100)]
                document = {"boot": 7, "seq": seq, "now_ms": 5, "records": [{"up_ms": 5, **r} for r in records]}
                await client.publish(bus_reader.topic("van-1"), gzip.compress(json.dumps(document).encode()))
        async with running(service, mosquitto.url, url, ingest_slots=1):
            await eventually(lambda: len(bus.messages()) == 40, 30)
            assert {message.header.seq for message in bus.messages()} == set(range(1, 41))
            for delivery in bus.batches:
                assert len(delivery.payload) <= CUT_BYTES or len(decode_samples(delivery.payload).headers) == 1
            assert len(bus.batches) == 40
