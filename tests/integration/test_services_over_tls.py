"""A service whose way to the broker is not private: TLS with the platform's own authority, and its own account."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider.access import authority
from outrider.access.keys import KeyRing, new_line
from outrider.servers import Mosquitto, ServerError, ports
from outrider.testing.devices import add_device
from outrider.testing.fixtures import Database, unavailable
from outrider.testing.services import connected, running
from outrider.testing.waiting import eventually
from outrider_ingest.app import service as ingest
from outrider_writer_timeseries.app import service as writer

pytestmark = pytest.mark.servers


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[tuple[Mosquitto, int]]:
    """A broker with a third kind of listener, TLS for services, and that one's port."""
    keys, tls, port = KeyRing.parse(new_line(), "test"), tmp_path / "tls", ports.free_port()
    authority.write_tls_folder(tls, keys, ["localhost"])
    listener = f"listener {port} 127.0.0.1\ncertfile {tls}/server.crt\nkeyfile {tls}/server.key\n"
    try:
        server = Mosquitto(tmp_path / "mosquitto", keys=keys, tls=tls, settings=listener, test_account=True)
    except ServerError as error:
        unavailable("Mosquitto", error)
    with server:
        yield server, port


async def test_services_and_a_device_over_tls(
    broker: tuple[Mosquitto, int], database: Database, tmp_path: Path
) -> None:
    server, port = broker
    ca_file, urls = tmp_path / "tls/ca.crt", database.service_urls

    def url_of(service: str) -> str:
        return (
            server.url_of(service)
            .replace("mqtt://", "mqtts://")
            .replace(f"127.0.0.1:{server.port}", f"localhost:{port}")
        )

    database.rows("INSERT INTO registry.tenant (name) VALUES ('demo')")
    database.rows("INSERT INTO registry.device (id, tenant) VALUES ('van-1', 'demo')")
    login = (await add_device(server, "van-1")).removeprefix("mqtt://").partition("@")[0]
    device_url = f"mqtts://{login}@localhost:{server.device_tls_port}?cafile={ca_file}"
    registry = {"ingest_directory": "registry", "mqtt_ca_file": ca_file}
    async with (
        running(writer, url_of("writer-timeseries"), urls["writer-timeseries"], mqtt_ca_file=ca_file),
        running(ingest, url_of("ingest"), urls["ingest"], **registry),
        connected(device_url, "van-1", ["fleet/v1/demo/van-1/ack"]) as device,
    ):
        await device.publish("fleet/v1/demo/van-1/telemetry", '{"boot":1,"seq":1,"ts":"2026-11-01T00:00:00Z","n":1}')
        await eventually(lambda: device.documents("fleet/v1/demo/van-1/ack"))
    assert database.rows("SELECT tenant, device, metric, value FROM telemetry.latest") == [("demo", "van-1", "n", 1.0)]
