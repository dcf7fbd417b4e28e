"""Uploads over HTTP with the real pipeline behind them: 202 is in the ledger, whatever is killed on the way."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import pytest_asyncio

from outrider.access.secrets import device_secret
from outrider.servers import Mosquitto, ServerError, ports
from outrider.testing.fixtures import Database, clone_of, unavailable
from outrider.testing.services import Running, running
from outrider_gateway.app import service as gateway
from outrider_ingest.app import service as ingest
from outrider_registry.testing import KEYS
from outrider_registry.testing.broker import Fleet
from outrider_writer_logs.app import service as writer_logs
from outrider_writer_timeseries.app import service as writer_timeseries

pytestmark = [pytest.mark.servers, pytest.mark.asyncio(loop_scope="module")]

PIPELINE = (writer_timeseries, writer_logs, ingest)
ACK_TIMEOUT_S = 1.5


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
        running_service = await self.stack.enter_async_context(
            running(
                service,
                self.broker.url_of(service.name),
                self.database.service_urls[service.name],
                **{"ingest_directory": "registry", "lease_timeout_s": 2.0, **settings},
            )
        )
        self.services[service.name] = running_service
        return running_service

    @contextlib.asynccontextmanager
    async def gateway(self, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
        """A client of a replica of the gateway of its own."""
        port = ports.free_port()
        settings = {"gateway_ack_timeout_s": ACK_TIMEOUT_S, **settings}
        async with (
            running(
                gateway,
                self.broker.url_of("gateway"),
                self.database.service_urls["gateway"],
                gateway_http_port=port,
                **settings,
            ),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1/", timeout=30) as client,
        ):
            yield client

    def device(self, tenant: str = "acme") -> tuple[str, str]:
        """A new device's id and secret: what HTTP Basic wants."""
        name = f"van-{secrets.token_hex(4)}"
        self.fleet.devices(tenant, name)
        return name, device_secret(KEYS, name, 1)

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
    print(answer.text, answer.elapsed)
    assert answer.status_code == 202
    body = answer.json()
    assert body["seq"] == 1
    assert body["rejected"] == []
    assert body["ledger"] == stage.database.value("SELECT telemetry.ledger_id()::text")
    print(stage.samples(key[0]))
