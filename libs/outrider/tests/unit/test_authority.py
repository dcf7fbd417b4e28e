"""The certificate authority: the same whenever it is made, and careful with what it signs."""

from __future__ import annotations

import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from outrider.access import authority
from outrider.access.authority import Authority, BadRequest, read_request
from outrider.access.keys import KeyRing

ONE = KeyRing({"k1": b"a" * 32})
BOTH = KeyRing({"k2": b"b" * 32, "k1": b"a" * 32})
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def csr(*names: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None) -> str:
    """A certificate request with these common names."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
    signed = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def openssl(*arguments: str | Path) -> str:
    """The output of openssl, which must succeed."""
    result = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_authority_is_the_same_whenever_it_is_made() -> None:
    assert Authority(ONE).pem == Authority(ONE).pem
    assert Authority(BOTH, "k1").pem == Authority(ONE).pem
    assert Authority(BOTH).pem != Authority(ONE).pem
    assert Authority(KeyRing({"k1": b"c" * 32})).pem != Authority(ONE).pem


def test_a_device_certificate_is_for_one_device_and_for_clients_only() -> None:
    issued = Authority(ONE).issue_device(read_request(csr("van-7")), "van-7", NOW)
    certificate = issued.certificate
    certificate.verify_directly_issued_by(Authority(ONE).certificate)
    assert certificate.subject.rfc4514_string() == "CN=van-7"
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert issued.expires_at == NOW + timedelta(days=365)
    assert int(issued.serial, 16) == certificate.serial_number


def test_nothing_of_a_request_but_its_key_is_taken_over() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    greedy = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Outrider")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("broker.example.org")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    request = read_request(greedy.public_bytes(serialization.Encoding.PEM).decode())
    certificate = Authority(ONE).issue_device(request, "van-7", NOW).certificate
    assert certificate.subject.rfc4514_string() == "CN=van-7"
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_a_request_for_another_device_is_refused() -> None:
    with pytest.raises(BadRequest, match="the device is van-7"):
        Authority(ONE).issue_device(read_request(csr("van-8")), "van-7")


def test_a_request_that_was_tampered_with_is_refused() -> None:
    der = bytearray(x509.load_pem_x509_csr(csr("van-7").encode()).public_bytes(serialization.Encoding.DER))
    at = der.index(b"van-7")
    der[at : at + 5] = b"van-8"
    changed = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(BadRequest, match="does not prove"):
        read_request(changed)


@pytest.mark.parametrize(
    ("pem", "why"),
    [
        ("", "no certificate request"),
        ("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "no certificate request"),
        ("x" * 20_000, "longer than"),
        (Authority(ONE).pem, "no certificate request"),
    ],
)
def test_what_is_no_request_is_refused(pem: str, why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        read_request(pem)


def test_weak_and_strange_keys_are_refused() -> None:
    with pytest.raises(BadRequest, match="1024 bits"):
        read_request(csr("van-7", key=rsa.generate_private_key(65537, 1024)))
    with pytest.raises(BadRequest, match="secp192r1"):
        read_request(csr("van-7", key=ec.generate_private_key(ec.SECP192R1())))
    edwards = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(
        ed25519.Ed25519PrivateKey.generate(), None
    )  # fmt: skip
    with pytest.raises(BadRequest, match="EC key"):
        read_request(edwards.public_bytes(serialization.Encoding.PEM).decode())
    with pytest.raises(BadRequest, match="several common names"):
        read_request(csr("van-7", "van-8"))
    read_request(csr("van-7", key=rsa.generate_private_key(65537, 2048)))
    read_request(csr("van-7", key=ec.generate_private_key(ec.SECP384R1())))


def test_device_name_takes_device_ids_only() -> None:
    assert authority.device_name(read_request(csr("van-7"))) == "van-7"
    assert authority.device_name(read_request(csr())) is None
    for name in ("claim:abc", "svc:ingest", "Van", "a/b", "+"):
        with pytest.raises(BadRequest, match="no device id"):
            authority.device_name(read_request(csr(name)))


def test_openssl_agrees(tmp_path: Path) -> None:
    """With every authority of two master keys: chains, names, dates, and that revoked is revoked."""
    old = Authority(BOTH, "k1").issue_device(read_request(csr("van-1")), "van-1")
    new = Authority(BOTH).issue_device(read_request(csr("van-2")), "van-2")
    authority.write_tls_folder(tmp_path, BOTH, ["mqtt.example.org", "127.0.0.1", "::1"])
    trusted = ["-CAfile", tmp_path / "ca.crt"]
    for name, issued in (("old", old), ("new", new)):
        (tmp_path / name).write_text(issued.pem)
    checked = [*trusted, "-crl_check", "-CRLfile", tmp_path / "crl.pem"]
    openssl(
        "verify", *checked, "-purpose", "sslserver", "-verify_hostname", "mqtt.example.org", tmp_path / "server.crt"
    )
    openssl("verify", *checked, "-purpose", "sslserver", "-verify_ip", "127.0.0.1", tmp_path / "server.crt")
    openssl("verify", *checked, "-purpose", "sslclient", tmp_path / "old", tmp_path / "new")
    authority.write_revocation_lists(tmp_path, BOTH, [(old.serial, datetime.now(UTC))])
    openssl("verify", *checked, "-purpose", "sslclient", tmp_path / "new")
    refused = subprocess.run(
        ["openssl", "verify", *map(str, checked), str(tmp_path / "old")], capture_output=True, text=True, check=False
    )
    assert "certificate revoked" in refused.stderr


def test_the_folder_is_mended_and_else_left_alone(tmp_path: Path) -> None:
    def write(keys: KeyRing = ONE, hosts: tuple[str, ...] = ("localhost",), now: datetime = NOW) -> bool:
        return authority.write_tls_folder(tmp_path, keys, hosts, (), now)

    assert write()
    assert stat.S_IMODE((tmp_path / "server.key").stat().st_mode) == 0o600
    before = (tmp_path / "server.crt").read_text()
    assert not write()
    assert not write(now=NOW + timedelta(days=100))
    for damage in ("ca.crt", "server.crt", "server.key", "crl.pem"):
        (tmp_path / damage).write_text("")
        assert write(), damage
        (tmp_path / damage).unlink()
        assert write(), damage
        assert not write(), damage
    assert (tmp_path / "server.crt").read_text() != before
    assert (tmp_path / "ca.crt").read_text() == Authority(ONE).pem, "the very same as before"
    assert write(hosts=("localhost", "127.0.0.1"))
    assert write(hosts=("localhost", "127.0.0.1"), now=NOW + timedelta(days=340)), "a month before it ends"
    server = (tmp_path / "server.crt").read_text()
    assert write(keys=BOTH, hosts=("localhost", "127.0.0.1"), now=NOW + timedelta(days=340)), "one more authority"
    assert (tmp_path / "server.crt").read_text() == server, "devices know the older one"
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".new")] == []


def test_revocation_lists_are_written_when_they_differ_or_grow_old(tmp_path: Path) -> None:
    revoked = [("a1", NOW)]
    assert authority.write_revocation_lists(tmp_path, ONE, revoked, NOW)
    assert not authority.write_revocation_lists(tmp_path, ONE, revoked, NOW + timedelta(days=1))
    assert authority.write_revocation_lists(tmp_path, ONE, [*revoked, ("b2", NOW)], NOW + timedelta(days=1))
    assert authority.write_revocation_lists(tmp_path, ONE, [*revoked, ("b2", NOW)], NOW + timedelta(days=200))
    assert authority.write_revocation_lists(tmp_path, BOTH, [*revoked, ("b2", NOW)], NOW + timedelta(days=200))
    assert (tmp_path / "crl.pem").read_text().count("BEGIN X509 CRL") == 2
    assert authority.write_revocation_lists(tmp_path, BOTH, [], NOW + timedelta(days=200))


@pytest.mark.parametrize("host", ["", "a b", "-", "http://x", "x" * 64, "a..b", "ü.example", "*"])
def test_hosts_that_are_none_are_refused(host: str) -> None:
    with pytest.raises(BadRequest):
        Authority(ONE).issue_server([host])


def test_a_server_without_hosts_is_refused() -> None:
    with pytest.raises(BadRequest, match="Name 1 to"):
        Authority(ONE).issue_server([])
    certificate, _ = Authority(ONE).issue_server(["*.example.org", "fleet_1.example.org"])
    names = x509.load_pem_x509_certificate(certificate.encode()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["*.example.org", "fleet_1.example.org"]
