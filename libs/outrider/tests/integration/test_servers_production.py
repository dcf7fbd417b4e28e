"""The production configuration: accepted by both series of the broker, and its walls hold."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from outrider.access import authority, rights
from outrider.access.secrets import device_secret
from outrider.runtime.errors import Transient
from outrider.runtime.mqtt import Connection, Delivery
from outrider.servers import Mosquitto, ServerError, mosquitto
from outrider.testing.devices import add_device
from outrider.testing.fixtures import unavailable
from outrider.testing.services import connected
from outrider.testing.waiting import eventually

pytestmark = pytest.mark.servers
FOLDER = Path(__file__).parents[4] / "mosquitto"


class Production(Mosquitto):
    """Runs mosquitto/mosquitto.conf with its paths and ports moved into a test's folder."""

    def configuration(self) -> str:
        text = (FOLDER / "mosquitto.conf").read_text()
        text = text.replace("/var/lib/mosquitto/dynamic-security.json", str(self.dynsec_file))
        text = text.replace("/etc/mosquitto", str(self.data_dir)).replace("/var/lib/mosquitto", str(self._store()))
        text = text.replace("listener 1883 127.0.0.1", f"listener {self.port} 127.0.0.1")
        text = text.replace("\nlistener 8883\n", f"\nlistener {self.device_tls_port} 127.0.0.1\n")
        text = re.sub(r"(?m)^plugin .*", f"plugin {self.program.dynsec_plugin}", text)
        if plugin := self.program.sqlite_plugin:
            text = re.sub(r"(?m)^global_plugin .*", f"global_plugin {plugin}", text)
        else:  # the variant for 2.0: the marked lines change places
            text = re.sub(r"(?m)^(global_plugin|plugin_opt_sync|plugin_opt_flush)", r"#\1", text)
            text = re.sub(r"(?m)^#(persistence true|persistence_file|autosave|acl_file)", r"\1", text)
        before, block = text.split("\n#listener 8884\n")
        block = re.sub(r"(?m)^#([a-z_]+ [a-z0-9/.]+.*)$", r"\1", block.partition("# Browsers")[0])
        return f"{before}\nlistener {self.device_cert_port} 127.0.0.1\n{block}" + (
            "user root\n" if os.geteuid() == 0 else ""
        )


@pytest.fixture(scope="module", params=["2.1", "2.0"])
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    try:
        program = mosquitto.find() if request.param == "2.1" else mosquitto.find_old()
    except ServerError as error:
        if request.param == "2.0":
            pytest.skip(f"no Mosquitto 2.0 can be had here: {error}")
        unavailable("Mosquitto", error)
    folder = tmp_path_factory.mktemp("production")
    shutil.copy(FOLDER / "acl", folder / "acl")
    (folder / "acl").chmod(0o600)
    server = Production(folder, program=program, tls=folder / "tls", test_account=True)
    authority.write_tls_folder(folder / "tls", server.keys, ["localhost"])
    with server as running:
        yield running


async def device_url(broker: Production, device: str) -> str:
    """A device's URL on the listener with TLS; its account is made if need be."""
    if broker.dynsec_file.read_text().count(f'"{device}"') == 0:
        await add_device(broker, device, "t")
    login = f"{device}:{device_secret(broker.keys, device, 1)}"
    return f"mqtts://{login}@localhost:{broker.device_tls_port}?cafile={broker.data_dir}/tls/ca.crt"


@asynccontextmanager
async def slot(broker: Production, received: list[Delivery]) -> AsyncIterator[Connection]:
    """Ingest's first slot."""
    url = broker.url_of("ingest")
    connection = await Connection.open(
        url, "svc:ingest:0", received.append, clean_start=False, session_expiry_s=600, receive_maximum=10
    )
    await connection.subscribe(["$share/ingest/fleet/v1/+/+/telemetry/#"])
    yield connection
    await connection.close()


def test_configuration_is_accepted_without_a_warning(broker: Production) -> None:
    assert broker.is_ready()
    log = broker.log_path.read_text()
    warnings = [line for line in log.splitlines() if ("Warning" in line or "Error" in line) and "root" not in line]
    assert warnings == []


def test_acl_is_written_from_the_contract() -> None:
    assert (FOLDER / "acl").read_text() == rights.acl_file()


async def test_nobody_is_anonymous(broker: Production) -> None:
    cafile = f"cafile={broker.data_dir}/tls/ca.crt"
    for url in (f"mqtt://127.0.0.1:{broker.port}", f"mqtts://localhost:{broker.device_tls_port}?{cafile}"):
        with pytest.raises(Transient, match="refused"):
            async with connected(url, "stranger"):
                pass


async def test_devices_door_is_tls_only(broker: Production) -> None:
    with pytest.raises(Transient):
        async with connected(f"mqtt://svc%3Atest:x@127.0.0.1:{broker.device_tls_port}", "plain"):
            pass


async def test_device_reaches_its_own_topics_only(broker: Production) -> None:
    received: list[Delivery] = []
    async with slot(broker, received), connected(await device_url(broker, "car-1"), "car-1") as device:
        with pytest.raises(Transient, match="not authorized"):
            await device.publish("fleet/v1/t/car-2/telemetry", "foreign")
        await device.publish("fleet/v1/t/car-1/telemetry", "own")
        await eventually(lambda: received)
    assert [delivery.payload for delivery in received] == [b"own"]


async def test_device_cannot_take_over_a_slot(broker: Production) -> None:
    received: list[Delivery] = []
    async with slot(broker, received) as ingest:
        # a clean start under the slot's client id would end its session and lose its queue
        async with connected(await device_url(broker, "car-2"), "svc:ingest:0") as thief:
            await thief.publish("fleet/v1/t/car-2/telemetry", "still here")
        await eventually(lambda: [delivery for delivery in received if delivery.payload == b"still here"])
        assert not ingest.closed.is_set()


async def test_certificates_door(broker: Production) -> None:
    """Signed by the platform's authority: a device, as whom the certificate names. By anybody else, or by none: out."""
    await device_url(broker, "car-3")
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    request = authority.read_request(csr.public_bytes(serialization.Encoding.PEM).decode())
    issued = authority.Authority(broker.keys).issue_device(request, "car-3")
    files = broker.data_dir / "car-3.crt", broker.data_dir / "car-3.key"
    files[0].write_text(issued.pem)
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
    trusting = ssl.create_default_context(cafile=str(broker.data_dir / "tls/ca.crt"))

    async def publish(context: ssl.SSLContext) -> None:
        url = f"mqtts://localhost:{broker.device_cert_port}"
        options = {"clean_start": True, "session_expiry_s": 0, "receive_maximum": 10}
        connection = await Connection.open(url, "anything", lambda _: None, tls=context, **options)  # type: ignore[arg-type]
        try:
            await connection.publish("fleet/v1/t/car-3/telemetry", b"own")
            with pytest.raises(Transient, match="not authorized"):
                await connection.publish("fleet/v1/t/car-1/telemetry", b"foreign")
        finally:
            await connection.close(end_session=True)

    received: list[Delivery] = []
    async with slot(broker, received):
        with pytest.raises(Transient):
            await publish(trusting)
        trusting.load_cert_chain(*files)
        await publish(trusting)
        await eventually(lambda: received)
    # what another test left in the slot's queue may come first
    assert "fleet/v1/t/car-3/telemetry" in [delivery.topic for delivery in received]


async def test_bootstrap_command_puts_lost_accounts_back(broker: Production, tmp_path: Path) -> None:
    """What outrider-accounts.conf runs before every start of the broker."""
    unit = (FOLDER / "outrider-accounts.conf").read_text()
    (line,) = re.findall(r"(?m)^ExecStartPre=\+\S+/outrider broker bootstrap (.*)$", unit)
    (tmp_path / "master.key").write_text((broker.data_dir / "master.key").read_text())
    arguments = line.replace("/var/lib/mosquitto", str(tmp_path)).replace("/etc/outrider", str(tmp_path)).split()
    command = [sys.executable, "-m", "outrider.access.bootstrap", *arguments, "--mosquitto", broker.version]
    for content in ("", '{"clients":[{"username":"democlient"}],"roles":[]}', "good"):
        if content != "good":
            (tmp_path / "dynamic-security.json").write_text(content)
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30, check=True)
        assert ("as it should be" in done.stdout) == (content == "good")
        assert "svc:registry" in (tmp_path / "dynamic-security.json").read_text()
        assert "democlient" not in (tmp_path / "dynamic-security.json").read_text()
