"""The broker's TLS listeners with certificates of the platform's own authority: who gets in, and who does not."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from outrider.access import authority
from outrider.access.authority import Authority, Issued, read_request
from outrider.access.keys import KeyRing
from outrider.access.secrets import device_secret
from outrider.servers import Mosquitto, ServerError, mosquitto
from outrider.testing.devices import add_device
from outrider.testing.fixtures import unavailable
from outrider.testing.waiting import eventually

pytestmark = pytest.mark.servers

ACCEPTED, NOT_AUTHORIZED = 0, 5


@pytest.fixture(params=["2.1", "2.0"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker with TLS listeners, whose folder is `tmp_path / "tls"`, of both series."""
    keys = KeyRing({"k1": b"a test's own master key, 32 bytes and more"})
    authority.write_tls_folder(tmp_path / "tls", keys, ["localhost", "127.0.0.1"])
    try:
        program = mosquitto.find() if request.param == "2.1" else mosquitto.find_old()
        server = Mosquitto(tmp_path / "broker", program=program, tls=tmp_path / "tls", keys=keys, test_account=True)
    except ServerError as error:
        unavailable("Mosquitto", error)
    with server:
        yield server


class Device:
    """A device with a key of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.key_file = folder / f"{name}.key"
        self.certificate_file = folder / f"{name}.crt"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.key_file.write_bytes(
            self._key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    def certified(self, keys: KeyRing) -> Issued:
        """Gets a certificate."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(self._key, hashes.SHA256())
        request = read_request(csr.public_bytes(serialization.Encoding.PEM).decode())
        issued = Authority(keys).issue_device(request, self.name)
        self.certificate_file.write_text(issued.pem)
        return issued


def text(value: str) -> bytes:
    """A string of MQTT 3.1.1 (section 1.5.3)."""
    return len(value).to_bytes(2, "big") + value.encode()


def connect(port: int, ca_file: Path, device: Device | None = None, login: tuple[str, str] | None = None) -> int:
    """The return code of the broker's CONNACK. Raises OSError (ssl.SSLError is one) where TLS fails."""
    context = ssl.create_default_context(cafile=str(ca_file))
    if device is not None:
        context.load_cert_chain(device.certificate_file, device.key_file)
    flags, rest = (0xC2, text(login[0]) + text(login[1])) if login else (0x02, b"")
    body = text("MQTT") + bytes([4, flags, 0, 60]) + text("") + rest
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        tls.sendall(bytes([0x10, len(body)]) + body)
        answer = tls.recv(4)
        if len(answer) < 4:
            raise ConnectionError("closed without an answer")
        return answer[3]


async def test_a_device_with_a_secret_comes_in_over_tls(broker: Mosquitto, tmp_path: Path) -> None:
    await add_device(broker, "van-7")
    ca_file = tmp_path / "tls" / "ca.crt"
    port = broker.device_tls_port
    assert connect(port, ca_file, login=("van-7", device_secret(broker.keys, "van-7", 1))) == ACCEPTED
    assert connect(port, ca_file, login=("van-7", "wrong")) == NOT_AUTHORIZED
    assert connect(port, ca_file) == NOT_AUTHORIZED


async def test_a_device_does_not_trust_another_authority(broker: Mosquitto, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.crt"
    stranger.write_text(Authority(KeyRing({"k1": b"x" * 32})).pem)
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(broker.device_tls_port, stranger)


async def test_a_device_with_a_certificate_comes_in_until_it_is_revoked(broker: Mosquitto, tmp_path: Path) -> None:
    device, other = Device(tmp_path, "van-7"), Device(tmp_path, "van-8")
    await add_device(broker, "van-7")
    await add_device(broker, "van-8")
    folder = tmp_path / "tls"
    port, ca_file = broker.device_cert_port, folder / "ca.crt"
    issued = device.certified(broker.keys)
    other.certified(broker.keys)
    assert connect(port, ca_file, device) == ACCEPTED
    assert connect(port, ca_file, other) == ACCEPTED

    assert authority.write_revocation_lists(folder, broker.keys, [(issued.serial, datetime.now(UTC))])
    os.kill(broker.pid, signal.SIGHUP)

    def refused() -> bool:
        try:
            connect(port, ca_file, device)
        except OSError:
            return True
        return False

    await eventually(refused)
    assert connect(port, ca_file, other) == ACCEPTED, "only that one"
    broker.restart()
    assert refused()
    assert connect(port, ca_file, other) == ACCEPTED
    device.certified(broker.keys)
    assert connect(port, ca_file, device) == ACCEPTED, "with a new certificate it is back"


async def test_certificates_that_open_nothing(broker: Mosquitto, tmp_path: Path) -> None:
    await add_device(broker, "van-7")
    ca_file = tmp_path / "tls" / "ca.crt"
    port = broker.device_cert_port
    with pytest.raises(OSError):  # none at all
        connect(port, ca_file, login=("van-7", device_secret(broker.keys, "van-7", 1)))
    forged = Device(tmp_path, "van-7")
    forged.certified(KeyRing({"k1": b"x" * 32}))
    with pytest.raises(OSError):  # another authority's
        connect(port, ca_file, forged)
    server = Device(tmp_path, "server")
    certificate, key = Authority(broker.keys).issue_server(["van-7"])
    server.certificate_file.write_text(certificate)
    server.key_file.write_text(key)
    with pytest.raises(OSError):  # a server's, with a device's name
        connect(port, ca_file, server)
