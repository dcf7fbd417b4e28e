"""`outrider.client` against the API over HTTP: every method, pages, files, and errors in the server's words."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import httpx
import pyarrow as pa
import pytest

from outrider.client import Client, GatewayError
from outrider.runtime.http import HttpServer, Listen

from .conftest import Asker, moment
from .test_trips_and_fleet import HOUR, MINUTE, NOW, add_trip

T = TypeVar("T")


@pytest.fixture
async def fleet(asker: Asker) -> AsyncIterator[Client]:
    """A client of acme, over a socket."""
    server = HttpServer(Listen("TEST", "127.0.0.1", 0))
    server.app = asker.app
    serving = asyncio.create_task(server.run())
    token = asker.acme.headers["authorization"].removeprefix("Bearer ")
    with Client(server.url, token, timeout_s=10) as client:
        yield client
    serving.cancel()
    await asyncio.wait([serving])


async def aside(ask: Callable[[], T]) -> T:
    return await asyncio.to_thread(ask)


async def test_every_method_gives_what_the_api_says(asker: Asker, fleet: Client) -> None:
    tag = f"tag-{secrets.token_hex(3)}"
    device = asker.device(f"van-{tag}", tags=[tag])
    asker.store(device, "speed_kmh", [(NOW + n * 1000, float(n)) for n in range(100)])
    trip = add_trip(asker, device, NOW, minutes=1)

    latest = await aside(lambda: fleet.latest(device))
    assert (latest.values[0].value, latest.values[0].ts) == (99.0, moment(NOW + 99_000))
    assert [one.device for one in await aside(lambda: list(fleet.latest_of_many(tag=tag)))] == [device]

    table = await aside(
        lambda: fleet.telemetry(
            device, ["speed_kmh"], start=moment(NOW), end=NOW + HOUR, step="1m", aggregate=["min", "max"]
        )
    )
    assert list(table.rows()) == [(NOW, [0.0, 59.0]), (NOW + MINUTE, [60.0, 99.0])]
    assert (table.start, table.step_ms, table.source) == (moment(NOW), MINUTE, "raw")
    assert [column.name for column in table.columns] == ["speed_kmh.min", "speed_kmh.max"]
    asked = {"start": moment(NOW).replace(tzinfo=None), "end": NOW + HOUR, "aggregate": ["raw"], "limit": 30}
    pages = await aside(lambda: list(fleet.telemetry_pages(device, ["speed_kmh"], **asked)))
    assert [len(page.ts) for page in pages] == [30, 30, 30, 10]
    arrow = await aside(
        lambda: b"".join(
            fleet.telemetry_file(device, ["speed_kmh"], "arrow", start=NOW, end=NOW + HOUR, aggregate=["raw"])
        )
    )
    assert pa.ipc.open_stream(arrow).read_all().num_rows == 100

    (listed,) = await aside(lambda: list(fleet.trips([device], start=NOW - 1, end=NOW + HOUR, state=["final"], page=1)))
    detail = await aside(lambda: fleet.trip(trip, ["speed_kmh"]))
    assert detail.trip == listed
    assert listed.start_at == moment(NOW)
    assert detail.metrics["speed_kmh"]["count"] == 61
    assert b"LineString" in await aside(lambda: fleet.trip_file(trip, "geojson"))

    steps = await aside(
        lambda: fleet.fleet("speed_kmh", tag=tag, start=NOW, end=NOW + HOUR, step="1h", aggregate=["p50"])
    )
    assert steps.data["p50"] == [49.5]
    ranking = await aside(
        lambda: fleet.fleet_by_device("speed_kmh", tag=tag, start=NOW, end=NOW + HOUR, aggregate=["max"])
    )
    assert ranking.rows == ({"device": device, "max": 99.0},)
    figures = await aside(lambda: fleet.fleet_trips(tag=tag, start=NOW, end=NOW + HOUR, by="device", order="trips"))
    assert (figures.rows[0]["key"], figures.rows[0]["trips"]) == (device, 1)


async def test_errors_carry_the_servers_sentence(asker: Asker, fleet: Client) -> None:
    device = asker.device("van-client")
    asker.store(device, "speed_kmh", [(NOW, 1.0)])
    with pytest.raises(GatewayError, match="near it are: speed_kmh") as refused:
        await aside(lambda: fleet.telemetry(device, ["speed"]))
    assert refused.value.status == 400
    with pytest.raises(GatewayError, match="no device"):
        await aside(lambda: fleet.latest("no-such"))
    with pytest.raises(GatewayError, match="no format"):
        await aside(lambda: list(fleet.telemetry_file(device, ["speed_kmh"], "xml")))  # type: ignore[arg-type]
    with (
        Client("http://127.0.0.1:9", "x", timeout_s=2) as nobody,
        pytest.raises(GatewayError, match="cannot be reached") as away,
    ):
        await aside(lambda: nobody.latest(device))
    assert away.value.status == 0
    busy = httpx.MockTransport(
        lambda _: httpx.Response(503, json={"detail": "Many questions."}, headers={"retry-after": "2"})
    )
    with Client("http://x", "x", transport=busy) as later, pytest.raises(GatewayError, match="Many questions") as waits:
        later.latest(device)
    assert waits.value.retry_after_s == 2.0
    strange = httpx.MockTransport(lambda _: httpx.Response(502, text="<html>"))
    with Client("http://x", "x", transport=strange) as proxy, pytest.raises(GatewayError, match="status 502"):
        proxy.trip("x")
