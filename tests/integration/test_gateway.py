"""A gateway speaks for its children, on both series of Mosquitto: stored, counted and acknowledged as theirs (delivery rule 20)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from outrider.runtime.errors import Transient
from outrider.runtime.mqtt import Connection, Delivery
from outrider.servers import Mosquitto, ServerError, mosquitto
from outrider.testing.bus import now_ms
from outrider.testing.fixtures import Database, unavailable
from outrider.testing.services import Client, running
from outrider.testing.waiting import eventually
from outrider_ingest.app import service as ingest
from outrider_registry.testing import KEYS
from outrider_registry.testing.broker import At, Fleet, leading, until
from outrider_writer_timeseries.app import service as writer

pytestmark = pytest.mark.servers


@pytest.fixture(params=["2.1", "2.0"])
def at(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[At]:
    try:
        program = mosquitto.find(series=request.param)
    except ServerError as error:
        if request.param == "2.0":
            pytest.skip(f"no Mosquitto 2.0 can be had here: {error}")
        unavailable("Mosquitto", error)
    with Mosquitto(tmp_path / "mosquitto", program=program, keys=KEYS) as server:
        yield At(server)


async def test_what_a_gateway_sends_for_a_child_is_the_child_s(at: At, database: Database) -> None:
    fleet, urls = Fleet(database), database.service_urls
    fleet.tenant("acme")
    fleet.devices("acme", "gw-1", "van-1")
    fleet.devices("acme", "sensor-1", "sensor-2", gateway="gw-1", secret=False)
    fleet.rows("UPDATE registry.device SET status = 'disabled' WHERE id = 'sensor-2'")
    received: list[Delivery] = []

    def keep(delivery: Delivery) -> None:
        received.append(delivery)
        delivery.connection.ack([delivery.packet_id])

    def message(seq: int) -> str:
        return json.dumps({"boot": 1, "seq": seq, "ts": now_ms(), "n": seq})

    async with (
        leading(database, at.server, reconcile_interval_s=600),
        running(writer, at.server.url_of("writer-timeseries"), urls["writer-timeseries"]),
        running(ingest, at.server.url_of("ingest"), urls["ingest"], ingest_directory="registry", ingest_slots=1),
    ):
        await until(lambda: at.lets_in(at.device_url("gw-1")))
        connection = await Connection.open(
            at.device_url("gw-1"), "gw-1", keep, clean_start=True, session_expiry_s=0, receive_maximum=100
        )
        client = Client(connection, received)
        await connection.subscribe(["fleet/v1/acme/gw-1/#", "fleet/v1/acme/sensor-1/#"])
        for device in ("gw-1", "sensor-1"):
            await client.publish(f"fleet/v1/acme/{device}/telemetry", message(1))
        for stranger in ("van-1", "sensor-2"):
            with pytest.raises(Transient, match="refused a message"):
                await client.publish(f"fleet/v1/acme/{stranger}/telemetry", message(2))
        for device in ("gw-1", "sensor-1"):
            (ack,) = await eventually(partial(client.documents, f"fleet/v1/acme/{device}/ack"))
            assert (ack["boot"], ack["seq"]) == (1, [[1, 1]])
        await connection.close(end_session=True)
    counted = database.rows("SELECT tenant, device, contiguous_seq FROM telemetry.sequence_state ORDER BY device")
    assert counted == [("acme", "gw-1", 1), ("acme", "sensor-1", 1)]
    assert database.rows("SELECT device, value FROM telemetry.latest ORDER BY 1") == [("gw-1", 1.0), ("sensor-1", 1.0)]
    assert database.rows("SELECT * FROM rejected.message") == []
