"""Who gets into the broker by which door, on both series of Mosquitto, and what happens when its accounts are lost."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import signal
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from outrider.access import bootstrap
from outrider.runtime.errors import ConnectionLost, Transient
from outrider.runtime.mqtt import Connection, Delivery
from outrider.servers import Mosquitto, ServerError, base, mosquitto
from outrider.testing.devices import add_device
from outrider.testing.fixtures import unavailable
from outrider.testing.services import connected
from outrider.testing.waiting import eventually

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module", params=["2.1", "2.0"])
def program(request: pytest.FixtureRequest) -> mosquitto.Program:
    try:
        return mosquitto.find() if request.param == "2.1" else mosquitto.find_old()
    except ServerError as error:
        if request.param == "2.0":
            pytest.skip(f"no Mosquitto 2.0 can be had here: {error}")
        unavailable("Mosquitto", error)


@pytest.fixture
def broker(tmp_path: Path, program: mosquitto.Program) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "mosquitto", program=program, test_account=True) as running:
        yield running


async def refused(url: str) -> str:
    """Why the broker does not let this in."""
    with pytest.raises(Transient) as caught:
        async with connected(url, "stranger"):
            pass
    return str(caught.value)


async def test_nobody_is_anonymous_at_either_door(broker: Mosquitto) -> None:
    for port in (broker.port, broker.device_port):
        assert "refused" in await refused(f"mqtt://127.0.0.1:{port}")
        assert "refused" in await refused(f"mqtt://svc%3Aregistry:wrong@127.0.0.1:{port}")
        assert "refused" in await refused(f"mqtt://nobody:secret@127.0.0.1:{port}")


async def test_every_service_has_its_account(broker: Mosquitto) -> None:
    for service in bootstrap.services():
        async with connected(broker.url_of(service), f"svc:{service}:0"):
            pass
    async with connected(broker.url_of("ingest"), "svc:ingest:0") as client:
        await client.connection.subscribe(["$share/ingest/fleet/v1/+/+/telemetry/#"])
        with pytest.raises(Transient, match="refused to subscribe"):
            await client.connection.subscribe(["#"])
        with pytest.raises(Transient, match="not authorized"):
            await client.publish("$CONTROL/dynamic-security/v1", '{"commands":[{"command":"listClients"}]}')
        with pytest.raises(Transient, match="not authorized"):
            await client.publish("fleet/v1/demo/car-1/shadow/desired", "{}")


async def test_a_service_may_unsubscribe(broker: Mosquitto) -> None:
    """A retired slot that could not would go on collecting messages for ever."""
    name = "$share/ingest/fleet/v1/+/+/log"
    async with (
        connected(broker.url_of("ingest"), "svc:ingest:0", [name]) as ingest,
        connected(broker.url, "writer") as writer,
    ):
        await writer.publish("fleet/v1/demo/car-1/log", "1")
        await eventually(lambda: len(ingest.received) == 1)
        await ingest.connection.unsubscribe([name])
        with pytest.raises(Transient, match="nobody subscribes"):
            await writer.publish("fleet/v1/demo/car-1/log", "2")


async def test_a_device_reaches_its_own_topics_only(broker: Mosquitto) -> None:
    url = await add_device(broker, "car-1")
    await add_device(broker, "car-2")
    async with connected(broker.url, "reader", ["fleet/v1/#"]) as reader, connected(url, "whatever") as device:
        await device.publish("fleet/v1/demo/car-1/telemetry", "own")
        for foreign in ("fleet/v1/demo/car-2/telemetry", "fleet/v1/demo/car-1/ack", "outrider/v1/samples/0", "x"):
            with pytest.raises(Transient, match="not authorized"):
                await device.publish(foreign, "foreign")
        await device.connection.subscribe(["fleet/v1/demo/car-1/ack"])
        await reader.publish("fleet/v1/demo/car-2/ack", "foreign")
        await reader.publish("fleet/v1/demo/car-1/ack", "own")
        await eventually(lambda: device.received)
        assert [delivery.payload for delivery in device.received] == [b"own"]
        topics = [d.topic for d in reader.received if not d.topic.endswith("/ack")]
        assert topics == ["fleet/v1/demo/car-1/telemetry"]


async def test_a_device_cannot_take_a_slots_session(broker: Mosquitto) -> None:
    device_url = await add_device(broker, "car-1")
    shared = ["$share/ingest/fleet/v1/+/+/telemetry/#"]
    received: list[Delivery] = []
    slot = await Connection.open(
        broker.url_of("ingest"),
        "svc:ingest:0",
        received.append,
        clean_start=False,
        session_expiry_s=600,
        receive_maximum=10,
    )
    await slot.subscribe(shared)
    async with connected(device_url, "svc:ingest:0") as device:  # a clean start would empty the slot's queue
        assert not slot.closed.is_set()
        await device.publish("fleet/v1/demo/car-1/telemetry", "still here")
        await eventually(lambda: received)
    # and two connections of one device are one client, whatever they call themselves
    async with connected(device_url, "a") as first, connected(device_url, "b"):
        await asyncio.wait_for(first.connection.closed.wait(), 5)
    await slot.close()


DAMAGE: dict[str, Any] = {
    "zero length": lambda path: path.write_text(""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "deleted": lambda path: path.unlink(),
    "made up by Mosquitto": lambda path: path.write_text('{"clients":[{"username":"democlient"}],"roles":[]}'),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_lost_accounts_are_back_after_a_restart(damage: str, broker: Mosquitto) -> None:
    """Fault 3: a supervisor knows nothing but the command. The service accounts work, and nobody was made up."""
    broker.kill()
    DAMAGE[damage](broker.dynsec_file)
    process = base.spawn(broker.command(), broker.log_path)
    try:
        await eventually(broker.is_ready)
        async with connected(
            broker.url_of("registry"), "svc:registry:0", ["$CONTROL/dynamic-security/v1/response"]
        ) as registry:
            await registry.publish("$CONTROL/dynamic-security/v1", {"commands": [{"command": "listClients"}]})
            await eventually(lambda: registry.received)
            (answer,) = json.loads(registry.received[0].payload)["responses"]
        # newer ones say "svc:…", older ones list objects when verbose
        assert set(answer["data"]["clients"]) == {f"svc:{name}" for name in [*bootstrap.services(), "test"]}
        assert "refused" in await refused(f"mqtt://democlient:x@127.0.0.1:{broker.port}")
        assert not list(broker.data_dir.glob("*.pw")), "where Mosquitto leaves the passwords it makes up"
        # what is put there now is kept over the next restart
        url = await add_device(broker, "car-9")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)
    process = base.spawn(broker.command(), broker.log_path)
    try:
        await eventually(broker.is_ready)
        async with connected(url, "car-9") as device:
            await device.connection.subscribe(["fleet/v1/demo/car-9/ack"])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


async def test_file_deleted_while_the_broker_runs(broker: Mosquitto) -> None:
    """The broker has it in memory: it goes on, and writes the file whole with the next change."""
    broker.dynsec_file.unlink()
    url = await add_device(broker, "car-1")
    async with connected(url, "car-1"):
        pass
    await eventually(broker.dynsec_file.exists)
    broker.kill()
    broker.start()
    async with connected(url, "car-1"):
        pass


# ------------------------------------------------------------------------------------------------------------- TLS


class Authority:
    """A throwaway authority of these tests."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
        self.now = datetime.datetime.now(datetime.UTC)
        builder = self._builder(self.name, self.key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        usage = dict.fromkeys(
            ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "encipher_only", "decipher_only"], False)  # fmt: skip
        builder = builder.add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        self.certificate = builder.sign(self.key, hashes.SHA256())
        (folder / "ca.crt").write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        self.issue("server")
        self.revoke()

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder(issuer_name=self.name, subject_name=subject, public_key=key)
        builder = builder.not_valid_before(self.now - datetime.timedelta(hours=1))
        builder = builder.not_valid_after(self.now + datetime.timedelta(days=1))
        return builder.serial_number(x509.random_serial_number())

    def issue(self, name: str) -> int:
        """Writes {name}.crt and {name}.key; returns the serial number."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = self._builder(subject, key.public_key())
        if name == "server":
            names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
            builder = builder.add_extension(names, critical=False)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(identifier, critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        (self.folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        (self.folder / f"{name}.key").write_bytes(key.private_bytes(*private))
        return certificate.serial_number

    def revoke(self, *serials: int) -> None:
        """Writes crl.pem."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name).last_update(self.now)
        builder = builder.next_update(self.now + datetime.timedelta(days=1))
        for serial in serials:
            entry = x509.RevokedCertificateBuilder(serial_number=serial, revocation_date=self.now).build()
            builder = builder.add_revoked_certificate(entry)
        crl = builder.sign(self.key, hashes.SHA256())
        (self.folder / "crl.pem").write_bytes(crl.public_bytes(serialization.Encoding.PEM))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls")


@pytest.fixture
def tls_broker(tmp_path: Path, program: mosquitto.Program, authority: Authority) -> Iterator[Mosquitto]:
    folder = tmp_path / "mosquitto"
    with Mosquitto(folder, program=program, test_account=True, tls=authority.folder) as running:
        yield running


@asynccontextmanager
async def with_certificate(broker: Mosquitto, authority: Authority, name: str | None) -> AsyncIterator[Connection]:
    """A connection at the certificates' door; MQTT says another name on purpose."""
    context = ssl.create_default_context(cafile=str(authority.folder / "ca.crt"))
    if name:
        context.load_cert_chain(authority.folder / f"{name}.crt", authority.folder / f"{name}.key")
    connection = await Connection.open(
        f"mqtts://svc%3Aregistry:x@localhost:{broker.device_cert_port}",
        "svc:ingest:0",
        lambda _: None,
        clean_start=True,
        session_expiry_s=0,
        receive_maximum=10,
        tls=context,
    )
    try:
        yield connection
    finally:
        await connection.close(end_session=True)


async def test_tls_with_a_secret(tls_broker: Mosquitto, authority: Authority) -> None:
    await add_device(tls_broker, "car-1")
    login = (await add_device(tls_broker, "car-2")).rpartition("@")[0].removeprefix("mqtt://")
    url = f"mqtts://{login}@localhost:{tls_broker.device_tls_port}"
    with pytest.raises(Transient, match="CERTIFICATE_VERIFY_FAILED"):
        async with connected(url, "car-2"):
            pass
    async with connected(f"{url}?cafile={authority.folder}/ca.crt", "svc:ingest:0") as device:
        await device.connection.subscribe(["fleet/v1/demo/car-2/ack"])
        with pytest.raises(Transient, match="not authorized"):
            await device.publish("fleet/v1/demo/car-1/telemetry", "foreign")
    wrong_name = url.replace("localhost", "127.0.0.1")
    with pytest.raises(Transient, match="certificate"):
        async with connected(f"{wrong_name}?cafile={authority.folder}/ca.crt", "car-2"):
            pass


async def test_the_authority_from_the_environment(
    tls_broker: Mosquitto, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = (await add_device(tls_broker, "car-1")).rpartition("@")[0].removeprefix("mqtt://")
    monkeypatch.setenv("OUTRIDER_MQTT_CA_FILE", str(authority.folder / "ca.crt"))
    async with connected(f"mqtts://{login}@localhost:{tls_broker.device_tls_port}", "car-1"):
        pass
    monkeypatch.setenv("OUTRIDER_MQTT_CA_FILE", str(authority.folder / "no-such-file"))
    with pytest.raises(Transient, match="OUTRIDER_MQTT_CA_FILE"):
        async with connected(f"mqtts://{login}@localhost:{tls_broker.device_tls_port}", "car-1"):
            pass


async def test_tls_with_a_certificate(tls_broker: Mosquitto, authority: Authority) -> None:
    await add_device(tls_broker, "car-1")
    serial = authority.issue("car-1")
    async with connected(tls_broker.url, "reader", ["fleet/v1/#"]) as reader:
        async with with_certificate(tls_broker, authority, "car-1") as device:
            await device.publish("fleet/v1/demo/car-1/telemetry", b"own")
            for foreign in ("fleet/v1/demo/car-2/telemetry", "$CONTROL/dynamic-security/v1"):
                with pytest.raises(Transient, match="not authorized"):
                    await device.publish(foreign, b"foreign")
        await eventually(lambda: reader.received)
        assert [delivery.topic for delivery in reader.received] == ["fleet/v1/demo/car-1/telemetry"]
    with pytest.raises(Transient):
        async with with_certificate(tls_broker, authority, None):
            pass
    stranger = Authority(authority.folder.parent / "stranger")
    stranger.issue("car-1")
    (stranger.folder / "ca.crt").write_bytes((authority.folder / "ca.crt").read_bytes())
    with pytest.raises(Transient):
        async with with_certificate(tls_broker, stranger, "car-1"):
            pass
    # revoked: the broker reads the list at its start and on SIGHUP
    authority.revoke(serial)
    os.kill(tls_broker.pid, signal.SIGHUP)

    async def is_refused() -> bool:
        try:
            async with with_certificate(tls_broker, authority, "car-1") as device:
                await device.subscribe(["fleet/v1/demo/car-1/ack"])
            return False
        except (Transient, ConnectionLost):
            return True

    async with asyncio.timeout(10):
        while not await is_refused():
            await asyncio.sleep(0.05)
