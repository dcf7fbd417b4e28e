"""Uploads over HTTP with the real pipeline behind them: 202 is in the ledger, whatever is killed on the way."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import json
import os
import secrets
import signal
import sys
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import pytest_asyncio
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.access.secrets import device_secret
from outrider.contract import envelope
from outrider.runtime.database import Database as Pool
from outrider.servers import Mosquitto, ServerError, ports
from outrider.testing.fixtures import Database, clone_of, unavailable
from outrider.testing.services import Running, connected, running
from outrider.testing.waiting import eventually
from outrider_gateway.app import service as gateway
from outrider_gateway.limits import InHand
from outrider_gateway.uploads import Uploads
from outrider_ingest.app import service as ingest
from outrider_registry.testing import KEYS
from outrider_registry.testing.broker import Fleet
from outrider_writer_logs.app import service as writer_logs
from outrider_writer_timeseries.app import service as writer_timeseries

pytestmark = [pytest.mark.servers, pytest.mark.asyncio(loop_scope="module")]

PIPELINE = (writer_timeseries, writer_logs, ingest)


@dataclass
class Stage:
    """Servers, the pipeline, and gateways before it."""

    broker: Mosquitto
    database: Database
    fleet: Fleet
    stack: contextlib.AsyncExitStack
    services: dict[str, Running] = field(default_factory=dict)

    async def start(self, service: Any, **settings: Any) -> Running:
        """A service of the pipeline."""
        running_service = self.services[service.name] = await self.stack.enter_async_context(
            running(
                service,
                self.broker.url_of(service.name),
                self.database.service_urls[service.name],
                **{"ingest_directory": "registry", "lease_timeout_s": 2.0, **settings},
            )
        )
        return running_service

    @contextlib.asynccontextmanager
    async def gateway(self, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
        """A client of a replica of the gateway of its own."""
        port = ports.free_port()
        async with (
            running(
                gateway,
                self.broker.url_of("gateway"),
                self.database.service_urls["gateway"],
                gateway_http_port=port,
                **options,
            ) as self.services["gateway"],
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1/", timeout=30) as client,
        ):
            yield client

    def device(self, tenant: str = "acme") -> tuple[str, str]:
        """A new device's id and secret: what HTTP Basic wants."""
        name = f"van-{secrets.token_hex(4)}"
        self.fleet.devices(tenant, name)
        return name, device_secret(KEYS, name, 1)

    def token(self, tenant: str, *scopes: str) -> str:
        """A new API token of an operator."""
        token, name = secrets.token_urlsafe(32), f"ann-{secrets.token_hex(4)}"
        self.database.rows(
            "INSERT INTO registry.account (tenant, name, role) VALUES (%s, %s, 'operator')", tenant, name
        )
        self.database.rows(
            "INSERT INTO registry.token (account, tenant, name, hash, scopes, expires_at) "
            "SELECT id, tenant, 'test', %s, %s, now() + interval '1 hour' FROM registry.account WHERE name = %s",
            hashlib.sha256(token.encode()).digest(),
            list(scopes),
            name,
        )
        return token

    def sequences(self, device: str) -> list[tuple[str, int, int, int]]:
        """(stream, boot, contiguous, missing) of a device's numbers."""
        return self.database.rows(
            "SELECT stream, boot, contiguous_seq, missing FROM telemetry.sequence_state WHERE device = %s ORDER BY 1, 2",
            device,
        )

    @contextlib.asynccontextmanager
    async def process(self, name: str, **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A service in a process of its own, which may be killed; ready when the block begins."""
        port = ports.free_port()
        environment = {
            "OUTRIDER_MQTT_URL": self.broker.url_of(name),
            "OUTRIDER_DATABASE_URL": self.database.service_urls[name],
            "OUTRIDER_HTTP_PORT": str(port),
            "OUTRIDER_LEASE_TIMEOUT_S": "1.5",
            **variables,
        }
        module = f"outrider_{name.replace('-', '_')}"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, env=os.environ | environment, stdout=asyncio.subprocess.DEVNULL
        )
        try:
            await Running(port, asyncio.current_task(), asyncio.Event()).ready()  # type: ignore[arg-type]
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    @contextlib.asynccontextmanager
    async def link(self, boot: int) -> AsyncIterator[Uploads]:
        """Uploads of a process with this boot, connected to the broker; nothing runs but the connection."""
        pool = Pool(self.database.service_urls["gateway"], "gateway/test", 2)
        await pool.open()
        uploads = Uploads(self.broker.url_of("gateway"), pool, InHand(1, 1, 1, 1), boot=boot)
        link = asyncio.create_task(uploads.link.run())
        try:
            await eventually(lambda: uploads.link.connected)
            yield uploads
        finally:
            link.cancel()
            await asyncio.wait([link])
            await uploads.link.close()
            await pool.close()

    def samples(self, device: str) -> list[tuple[str, int, float]]:
        """(metric, epoch ms, value) of a device's numbers in the ledger."""
        return self.database.rows(
            "SELECT s.metric, (extract(epoch FROM p.ts) * 1000)::bigint, p.value FROM telemetry.sample p "
            "JOIN telemetry.series s ON s.id = p.series_id WHERE s.device = %s ORDER BY 1, 2",
            device,
        )


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    try:
        server = Mosquitto(tmp_path_factory.mktemp("uploads") / "mosquitto", keys=KEYS)
    except ServerError as error:
        unavailable("Mosquitto", error)
    with server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(broker: Mosquitto, migrated: Database) -> AsyncIterator[Stage]:
    with clone_of(migrated) as database:
        async with contextlib.AsyncExitStack() as stack:
            made = Stage(broker, database, Fleet(database), stack)
            made.fleet.tenant("acme", "other")
            for service in PIPELINE:
                await made.start(service)
            yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(stage: Stage) -> AsyncIterator[httpx.AsyncClient]:
    async with stage.gateway() as client:
        yield client


async def test_202_means_that_it_is_in_the_ledger(stage: Stage, api: httpx.AsyncClient) -> None:
    key = stage.device()
    before_ms = time.time_ns() // 1_000_000
    answer = await api.post("telemetry", json={"speed_kmh": 51.5, "on": True}, auth=key)
    assert (answer.status_code, answer.headers["content-type"]) == (202, "application/json")
    body = answer.json()
    assert (body["stream"], body["seq"], body["rejected"]) == ("telemetry", 1, [])
    assert body["ledger"] == stage.database.value("SELECT telemetry.ledger_id()::text")
    (on, speed) = stage.samples(key[0])
    assert (on[0], on[2], speed[0], speed[2]) == ("on", 1.0, "speed_kmh", 51.5)
    assert before_ms <= on[1] == speed[1] <= time.time_ns() // 1_000_000
    assert stage.sequences(key[0]) == [("telemetry", body["boot"], 1, 0)]


async def test_any_format_and_compression_goes_through(stage: Stage, api: httpx.AsyncClient) -> None:
    key = stage.device()
    senml = [{"bn": "", "bt": 1_760_000_000, "n": "temp_c", "v": 21.5}]
    compact = {"v": 1, "boot": 7, "seq": 3, "t0": 1_760_000_000_000, "series": {"cpu_pct": [[0, 1000], [1.5, 2.5]]}}
    flat = json.dumps({"ts": 1_760_000_000_000, "a": 1}).encode()
    answers = await asyncio.gather(
        api.post("telemetry", json=senml, auth=key),
        api.post("telemetry", json=compact, auth=key),
        api.post("telemetry", content=gzip.compress(flat), headers={"content-encoding": "gzip"}, auth=key),
        api.post("telemetry", content=zstandard.compress(flat.replace(b"a", b"b")), auth=key),
        api.post(
            "telemetry",
            content=zlib.compress(flat.replace(b"a", b"c")),
            headers={"content-encoding": "deflate"},
            auth=key,
        ),
    )
    assert [answer.status_code for answer in answers] == [202] * 5
    assert {metric: value for metric, _, value in stage.samples(key[0])} == {
        "temp_c": 21.5,
        "cpu_pct": 2.5,
        "a": 1.0,
        "b": 1.0,
        "c": 1.0,
    }
    boot = answers[0].json()["boot"]
    # the device's own number in the compact batch counts beside the gateway's
    assert stage.sequences(key[0]) == sorted([("telemetry", 7, 0, 2), ("telemetry", boot, 5, 0)])


async def test_log_lines_and_events(stage: Stage, api: httpx.AsyncClient) -> None:
    key = stage.device()
    for stream, body in (("log", {"level": "warning", "msg": "low"}), ("event", [{"type": "button"}, {"type": "dtc"}])):
        answer = await api.post(stream, json=body, auth=key)
        assert (answer.status_code, answer.json()["stream"], answer.json()["seq"]) == (202, stream, 1)
    assert stage.database.rows("SELECT type FROM telemetry.event WHERE device = %s ORDER BY 1", key[0]) == [
        ("button",),
        ("dtc",),
    ]
    assert stage.database.value("SELECT count(*) FROM logs.line WHERE device = %s", key[0]) == 1


async def test_what_is_refused_is_kept_and_said(stage: Stage, api: httpx.AsyncClient) -> None:
    key = stage.device()
    whole = await api.post("telemetry", content=b"{nonsense", auth=key)
    assert (whole.status_code, whole.headers["content-type"]) == (422, "application/problem+json")
    (refused,) = whole.json()["rejected"]
    kept = stage.database.rows("SELECT id, reason, payload, boot, seq FROM rejected.message WHERE device = %s", key[0])
    assert kept == [(refused["id"], refused["reason"], b"{nonsense", whole.json()["boot"], 1)]
    assert refused["detail"] in whole.json()["detail"]
    part = await api.post("telemetry", json={"ts": 1_760_000_000_000, "good": 1, "long": "x" * 5000}, auth=key)
    assert part.status_code == 202
    assert [one["reason"] for one in part.json()["rejected"]] == ["bad_value"]
    assert stage.samples(key[0]) == [("good", 1_760_000_000_000, 1.0)]
    other = await api.post("telemetry", json={"ts": 1_760_000_000_000, "good": 5}, auth=key)
    assert [one["reason"] for one in other.json()["rejected"]] == ["conflict"]


async def test_bodies_that_are_none(stage: Stage, api: httpx.AsyncClient) -> None:
    key = stage.device()
    for status, content, encoding in (
        (400, b"", ""),
        (413, b"x" * (64 * 1024 + 1), ""),
        (415, b"{}", "br"),
        (415, b"{}", "gzip"),
        (415, b"{}", "gzip, zstd"),
    ):
        answer = await api.post(
            "telemetry", content=content, headers={"content-encoding": encoding} if encoding else {}, auth=key
        )
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert answer.json()["detail"].count(" ") > 4
    assert (
        "65,536 bytes" in (await api.post("telemetry", content=iter_bytes(b"x" * 1000, 70), auth=key)).json()["detail"]
    )
    bomb = await api.post("telemetry", content=gzip.compress(b" " * (2 * 1024 * 1024)), auth=key)
    assert (bomb.status_code, bomb.json()["rejected"][0]["reason"]) == (422, "too_large")
    assert stage.sequences(key[0]) == [("telemetry", bomb.json()["boot"], 1, 0)]


async def iter_bytes(chunk: bytes, count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield chunk


async def test_nobody_sends_for_others(stage: Stage, api: httpx.AsyncClient) -> None:
    device, secret = stage.device()
    foreign, _ = stage.device("other")
    token = stage.token("acme", "telemetry:write")
    bearer = {"authorization": f"Bearer {token}"}
    for status, headers in (
        (401, {}),
        (401, {"authorization": "Bearer otr_wrong"}),
        (401, {"authorization": basic(device, secret + "x")}),
        (401, {"authorization": basic(foreign, secret)}),
        (404, {"authorization": basic(device, secret), "outrider-device": foreign}),
        (404, {**bearer, "outrider-device": foreign}),
        (404, {**bearer, "outrider-device": device, "outrider-tenant": "other"}),
        (422, bearer),
        (403, {"authorization": f"Bearer {stage.token('acme', 'telemetry:read')}", "outrider-device": device}),
    ):
        answer = await api.post("telemetry", json={"n": 1}, headers=headers)
        assert answer.status_code == status, answer.text
        assert ("www-authenticate" in answer.headers) == (status == 401)
    assert stage.samples(device) == stage.samples(foreign) == []
    assert (
        await api.post("telemetry", json={"n": 1}, headers={**bearer, "outrider-device": device})
    ).status_code == 202
    assert len(stage.samples(device)) == 1


# ------------------------------------------------------------------------------------------------------------ retries
async def test_a_retry_with_its_key_is_stored_once_in_any_replica(stage: Stage, api: httpx.AsyncClient) -> None:
    device = stage.device()
    headers = {"idempotency-key": secrets.token_hex(8)}

    async def post(client: httpx.AsyncClient, body: Any = None, key: Any = device) -> httpx.Response:
        return await client.post("telemetry", json=body or {"n": 1}, headers=headers, auth=key)

    async with stage.gateway() as other:
        together = await asyncio.gather(*(post(client) for client in (api, other) * 4))
        assert {answer.status_code for answer in together} == {202}
        assert len({(answer.json()["boot"], answer.json()["seq"]) for answer in together}) == 1
        again = await post(other)
        assert (again.status_code, again.json(), again.headers["idempotency-replayed"]) == (
            202,
            together[0].json(),
            "true",
        )
        refused = await post(other, {"n": 2})
        assert (refused.status_code, "another upload" in refused.json()["detail"]) == (422, True)
        another = stage.device()
        assert (await post(api, {"n": 2}, another)).status_code == 202  # a key is its device's own
    assert len(stage.samples(device[0])) == 1
    # numbers that were not used are declared gone, so there is no gap
    await eventually(lambda: all(not missing for *_, missing in stage.sequences(device[0])))


async def test_an_upload_without_an_ack_is_answered_503_and_stored_later(stage: Stage) -> None:
    device = stage.device()
    await stage.services["writer-timeseries"].stop()
    async with stage.gateway(gateway_ack_timeout_s=0.5) as client:
        answers = await asyncio.gather(*(client.post("telemetry", json={"n": n}, auth=device) for n in range(3)))
        assert {(answer.status_code, answer.headers["retry-after"]) for answer in answers} == {(503, "30")}
        assert {answer.json()["seq"] for answer in answers} == {1, 2, 3}
        assert stage.samples(device[0]) == []
        await stage.start(writer_timeseries)
        await eventually(lambda: len(stage.samples(device[0])) == 3)  # by itself
        await eventually(lambda: stage.sequences(device[0])[0][2:] == (3, 0))


async def test_a_number_that_is_given_up_is_declared_gone(stage: Stage) -> None:
    device = stage.device()
    async with stage.gateway(gateway_ack_timeout_s=0.2, gateway_give_up_s=0.2) as client:
        stage.broker.kill()
        answer = await client.post("telemetry", json={"n": 1}, auth=device)
        assert (answer.status_code, "broker" in answer.json()["detail"]) == (503, True)
        await asyncio.to_thread(stage.broker.start)
        gone = "SELECT last_seq, missing, gone FROM telemetry.sequence_state WHERE device = %s"
        await eventually(lambda: stage.database.rows(gone, device[0]) == [(1, 0, 1)])
    assert stage.samples(device[0]) == []


async def test_a_killed_broker_costs_nothing(stage: Stage, api: httpx.AsyncClient) -> None:
    devices = [stage.device() for _ in range(3)]

    async def post(n: int) -> httpx.Response:
        return await api.post("telemetry", json={f"m{n}": n}, auth=devices[n % 3], headers={"idempotency-key": str(n)})

    await asyncio.gather(*(post(n) for n in range(3)))
    posts = [asyncio.create_task(post(n)) for n in range(3, 30)]
    await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
    stage.broker.kill()
    await asyncio.to_thread(stage.broker.start)
    answers = await asyncio.gather(*posts)
    assert {answer.status_code for answer in answers} <= {202, 503}
    for n in range(30):
        while (answer := await post(n)).status_code == 503:
            pass
        assert answer.status_code == 202
    for i, (device, _) in enumerate(devices):
        assert sorted(value for *_, value in stage.samples(device)) == [float(n) for n in range(30) if n % 3 == i]
        assert stage.sequences(device)[0][3] == 0


@pytest.mark.parametrize("name", ["ingest", "writer-timeseries"])
async def test_a_kill_behind_the_gateway_costs_nothing(stage: Stage, api: httpx.AsyncClient, name: str) -> None:
    device, service = stage.device(), next(service for service in PIPELINE if service.name == name)
    await stage.services[name].stop()
    async with stage.process(name) as process:
        await api.post("telemetry", json={"m0": 0}, auth=device)
        posts = [asyncio.create_task(api.post("telemetry", json={f"m{n}": n}, auth=device)) for n in range(1, 30)]
        await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
        process.kill()
    await stage.start(service)
    assert {answer.status_code for answer in await asyncio.gather(*posts)} <= {202, 503}
    await eventually(lambda: len(stage.samples(device[0])) == 30)
    await eventually(lambda: stage.sequences(device[0])[0][2:] == (30, 0))


async def test_a_gateway_killed_between_publish_and_ack(stage: Stage, api: httpx.AsyncClient) -> None:
    device, port = stage.device(), ports.free_port()
    headers = {"idempotency-key": "k"}
    async with (
        stage.process("gateway", OUTRIDER_GATEWAY_HTTP_PORT=str(port), OUTRIDER_GATEWAY_ACK_TIMEOUT_S="0.5") as process,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1/") as client,
    ):
        await client.post("telemetry", json={"n": 0}, auth=device)
        await stage.services["ingest"].stop()
        lost = await client.post("telemetry", json={"n": 1}, auth=device, headers=headers)
        assert lost.status_code == 503
        process.send_signal(signal.SIGKILL)
        await process.wait()
    await stage.start(ingest)
    answer = await api.post("telemetry", json={"n": 1}, auth=device, headers=headers)
    assert answer.status_code == 202
    assert [answer.json()[name] for name in ("boot", "seq")] == [lost.json()[name] for name in ("boot", "seq")]
    await eventually(lambda: [value for *_, value in stage.samples(device[0])] == [0.0, 1.0])
    assert stage.sequences(device[0]) == [("telemetry", answer.json()["boot"], 2, 0)]


async def test_what_a_dead_process_left_open_is_declared_gone(stage: Stage, api: httpx.AsyncClient) -> None:
    device, boot = stage.device(), secrets.randbelow(2**53) + 1
    for stream, body in (("telemetry", {"n": 1}), ("log", {"msg": "x"})):
        async with connected(stage.broker.url_of("gateway"), "svc:gateway:dead") as client:
            await client.publish(
                f"fleet/v1/acme/{device[0]}/{stream}", body, user_properties=envelope.user_properties(boot, 3)
            )
    schemas = ("telemetry", "logs")
    missing = "SELECT missing FROM {}.sequence_state WHERE device = %s"
    for schema in schemas:
        await eventually(lambda schema=schema: stage.database.rows(missing.format(schema), device[0]) == [(2,)])

    stage.database.rows(
        "INSERT INTO gateway.process (boot, replica, seen_at) VALUES (%s, 'dead', now() - interval '1 day')", boot
    )
    async with stage.link(1) as uploads:
        await uploads.house.declare_gone()
    for schema in schemas:
        await eventually(lambda schema=schema: stage.database.rows(missing.format(schema), device[0]) == [(0,)])
    async with stage.link(1) as uploads:
        await uploads.house.declare_gone()
    assert stage.database.rows("SELECT 1 FROM gateway.process WHERE boot = %s", boot) == []


async def test_what_a_restored_ledger_misses_is_declared_gone(stage: Stage, api: httpx.AsyncClient) -> None:
    device = stage.device()
    for n in range(3):
        answer = await api.post("telemetry", json={"n": n}, auth=device)
    boot = answer.json()["boot"]
    stage.database.rows("UPDATE telemetry.sequence SET stored = '{[1,1],[3,3]}' WHERE device = %s", device[0])
    async with stage.link(boot) as uploads:
        await uploads.house.declare_gone()
        assert stage.sequences(device[0]) == [("telemetry", boot, 1, 1)]
        await uploads.house.declare_gone()  # still missing at the second look
        await eventually(lambda: stage.sequences(device[0]) == [("telemetry", boot, 3, 0)])


async def test_a_stopping_gateway_finishes_what_is_in_hand(stage: Stage) -> None:
    device = stage.device()
    async with stage.gateway(gateway_ack_timeout_s=10) as client:
        await client.post("telemetry", json={"m0": 0}, auth=device)
        posts = [asyncio.create_task(client.post("telemetry", json={f"m{n}": n}, auth=device)) for n in range(1, 20)]
        await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
        await stage.services["gateway"].stop()
        answers = await asyncio.gather(*posts, return_exceptions=True)
    stored = sum(isinstance(answer, httpx.Response) and answer.status_code == 202 for answer in answers)
    assert stored >= 1
    assert len(stage.samples(device[0])) >= stored + 1


# ------------------------------------------------------------------------------------------------------------- limits
async def test_limits_say_which_one_it_is(stage: Stage) -> None:
    device, neighbour = stage.device(), stage.device()
    await stage.services["writer-timeseries"].stop()
    async with stage.gateway(
        gateway_device_in_hand=2, gateway_tenant_in_hand=3, gateway_process_in_hand=4, gateway_ack_timeout_s=0.1
    ) as client:

        async def post(key: tuple[str, str]) -> tuple[int, str | None]:
            answer = await client.post("telemetry", json={"n": 1}, auth=key)
            assert "retry-after" in answer.headers
            return answer.status_code, answer.json().get("limit", {}).get("name")

        assert [await post(device) for _ in range(3)] == [(503, None), (503, None), (429, "device")]
        assert [await post(neighbour) for _ in range(2)] == [(503, None), (429, "tenant")]
        assert [await post(stage.device("other")) for _ in range(2)] == [(503, None), (429, "process")]
        await stage.start(writer_timeseries)
        await eventually(lambda: len(stage.samples(device[0])) == 2)
        async with asyncio.timeout(5):
            while (await client.post("telemetry", json={"n": 1}, auth=device)).status_code == 429:
                pass


# ------------------------------------------------------------------------------------------------------------- phones
async def test_owntracks(stage: Stage, api: httpx.AsyncClient) -> None:
    device = stage.device()
    at = {"lat": 48.2, "lon": 16.37, "tst": 1_760_000_000}
    for document in (
        {"_type": "location", "vel": 50, "cog": 90, "acc": 5, "alt": 170, "batt": 80, "tid": "ab", **at},
        {"_type": "transition", "event": "enter", "desc": "home", "acc": 5, **at},
        {"_type": "waypoint", "desc": "home", "rad": 50, **at},
        {"_type": "lwt", "tst": 1},
    ):
        answer = await api.post("owntracks", json=document, auth=device)
        assert (answer.status_code, answer.json()) == (200, [])
    assert {metric: value for metric, _, value in stage.samples(device[0])} == {
        "lat": 48.2,
        "lon": 16.37,
        "speed_kmh": 50.0,
        "heading_deg": 90.0,
        "accuracy_m": 5.0,
        "alt_m": 170.0,
        "battery_pct": 80.0,
    }
    events = stage.database.rows(
        "SELECT type, (extract(epoch FROM ts) * 1000)::bigint FROM telemetry.event WHERE device = %s ORDER BY 1",
        device[0],
    )
    assert events == [("geofence", 1_760_000_000_000), ("owntracks_waypoint", 1_760_000_000_000)]
    conflict = await api.post("owntracks", json={"_type": "location", **at, "lat": 48.3}, auth=device)
    assert (conflict.status_code, conflict.headers["outrider-rejected"]) == (200, "conflict")
    encrypted = await api.post("owntracks", json={"_type": "encrypted", "data": "x"}, auth=device)
    assert (encrypted.status_code, "encryption off" in encrypted.json()["detail"]) == (422, True)
    assert (await api.post("owntracks", json={"_type": "location", **at})).status_code == 401


async def test_osmand_and_traccar_client(stage: Stage, api: httpx.AsyncClient) -> None:
    (device, secret), ts = stage.device(), 1_760_000_000
    query = {
        "id": device,
        "key": secret,
        "lat": 48.2,
        "lon": 16.37,
        "speed": 10,
        "bearing": 90,
        "batt": 55,
        "hdop": 1.5,
    }
    json_ = {
        "device_id": device,
        "location": {"timestamp": "2025-10-09T08:53:22.000Z", "coords": {"latitude": 1, "longitude": 2, "speed": 10}},
    }
    answers = [
        await api.get("osmand", params={**query, "timestamp": ts}),
        await api.post("osmand", params={**query, "timestamp": ts + 1, "alarm": "sos"}),
        await api.post("osmand", json=json_, params={"key": secret}),
        await api.post("osmand", data={**query, "timestamp": ts + 3, "speed_unit": "ms"}),
        await api.get("osmand", params={"lat": 1, "lon": 2, "timestamp": ts + 4}, auth=(device, secret)),
    ]
    assert [(answer.status_code, answer.content) for answer in answers] == [(200, b"")] * 5
    speeds = {at // 1000 - ts: value for metric, at, value in stage.samples(device) if metric == "speed_kmh"}
    assert speeds == {0: 18.52, 1: 18.52, 2: 36.0, 3: 36.0}
    assert {at // 1000 - ts for metric, at, _ in stage.samples(device) if metric == "lat"} == {0, 1, 2, 3, 4}
    assert {metric for metric, *_ in stage.samples(device)} == {
        "lat",
        "lon",
        "speed_kmh",
        "heading_deg",
        "battery_pct",
        "hdop",
    }
    assert stage.database.rows("SELECT type FROM telemetry.event WHERE device = %s", device) == [("alarm",)]
    for status, params in (
        (401, {**query, "key": "wrong"}),
        (401, {name: value for name, value in query.items() if name != "key"}),
        (401, {"key": secret, "lat": 1, "lon": 2}),
        (422, {**query, "lat": 91}),
        (422, {**query, "timestamp": "yesterday"}),
        (422, {**query, "speed_unit": "c"}),
    ):
        assert (await api.get("osmand", params=params)).status_code == status, params
    # nothing of the key went further
    assert stage.database.value("SELECT count(*) FROM telemetry.sample_text WHERE value = %s", secret) == 0


# ----------------------------------------------------------------------------------------------------------- bad input
ANYTHING: list[tuple[str, bytes]] = []
NAMES = st.sampled_from(["_type", "ts", "boot", "lat", "location", "gone", "é"]) | st.text(max_size=5)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=10) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["telemetry", "log", "event", "owntracks", "osmand"]),
    st.binary(max_size=200) | DOCUMENTS.map(lambda document: json.dumps(document).encode()),
)
def anything(path: str, body: bytes) -> None:
    ANYTHING.append((path, body))


async def test_anything_is_answered_without_a_mistake(stage: Stage, api: httpx.AsyncClient) -> None:
    device = stage.device()
    anything()
    answers = await asyncio.gather(*(api.post(path, content=body, auth=device) for path, body in ANYTHING))
    for answer, sent in zip(answers, ANYTHING, strict=True):
        assert answer.status_code in (200, 202, 400, 413, 422), (sent, answer.text)
        if answer.status_code >= 400:
            assert answer.json()["detail"], sent


def basic(device: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{device}:{secret}".encode()).decode()
