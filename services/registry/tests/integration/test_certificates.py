"""The authority's part of the API: what is public, device certificates, server certificates, revocation lists."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from outrider.access import authority
from outrider.testing.fixtures import Database
from outrider_registry.store import certificates, credentials
from outrider_registry.store.transactions import of_platform
from outrider_registry.testing import KEYS, Api


def csr_for(name: str) -> str:
    """A certificate request of a new key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode()


async def revoked(api: Api) -> set[str]:
    """Serial numbers on the public list."""
    answer = await api.nobody.get("authority/crl.pem")
    assert answer.status_code == 200
    crl = x509.load_pem_x509_crl(answer.content)
    assert crl.is_signature_valid(authority.Authority(KEYS).certificate.public_key())  # type: ignore[arg-type]
    return {f"{entry.serial_number:x}" for entry in crl}


async def test_the_authority_is_public(api: Api) -> None:
    answer = await api.nobody.get("authority/ca.crt")
    assert answer.status_code == 200
    assert answer.text == authority.Authority(KEYS).pem
    assert answer.headers["content-type"].startswith("application/x-pem-file")
    assert await revoked(api) == set()


async def test_a_certificate_is_issued_renewed_and_revoked(api: Api, database: Database) -> None:
    await api.operator.post("devices", json={"id": "van-7"})
    made = []
    for generation in (1, 2):
        answer = await api.operator.post("devices/van-7/certificate", json={"csr": csr_for("van-7")})
        assert answer.status_code == 201, answer.text
        made.append(answer.json())
        assert made[-1]["generation"] == generation
    certificate = x509.load_pem_x509_certificate(made[1]["certificate"].encode())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(made[1]["chain"].encode()))
    listed = (await api.viewer.get("devices/van-7/credentials")).json()["items"]
    assert [(one["kind"], one["state"], one["serial"]) for one in listed] == [
        ("certificate", "active", made[1]["serial"]),
        ("certificate", "replaced", made[0]["serial"]),
    ]
    days = (datetime.fromisoformat(listed[0]["expires_at"]) - datetime.now(UTC)) / timedelta(days=1)
    assert 364 < days < 366
    assert await revoked(api) == set(), "renewing revokes nothing: the device may still be on its way to the new one"
    one = await api.operator.post("devices/van-7/credentials/revoke", json={"generation": 1})
    assert one.json() == {"revoked": [{"generation": 1, "kind": "certificate"}]}
    assert await revoked(api) == {made[0]["serial"]}
    await api.operator.post("devices/van-7/credentials/revoke")
    assert await revoked(api) == {made[0]["serial"], made[1]["serial"]}
    long_ago = "UPDATE registry.revoked_certificate SET expires_at = now() - interval '8 days' WHERE serial = %s"
    database.rows(long_ago, made[0]["serial"])
    async with of_platform(api.registry.database) as connection:
        await certificates.forget_expired(connection)
    assert await revoked(api) == {made[1]["serial"]}
    assert database.value("SELECT count(*) FROM registry.revoked_certificate") == 1


async def test_requests_that_are_not_signed(api: Api) -> None:
    await api.operator.post("devices", json={"id": "van-7"})
    await api.operator.post("devices", json={"id": "sensor-1", "gateway": "van-7"})
    other = await api.operator.post("devices/van-7/certificate", json={"csr": csr_for("van-8")})
    assert other.status_code == 422
    assert "-subj /CN=van-7" in other.json()["detail"]
    assert (await api.operator.post("devices/van-7/certificate", json={"csr": "x"})).status_code == 422
    assert (
        await api.operator.post("devices/sensor-1/certificate", json={"csr": csr_for("sensor-1")})
    ).status_code == 409
    assert (await api.operator.post("devices/van-9/certificate", json={"csr": csr_for("van-9")})).status_code == 404
    assert (await api.other.post("devices/van-7/certificate", json={"csr": csr_for("van-7")})).status_code == 404
    assert (await api.viewer.post("devices/van-7/certificate", json={"csr": csr_for("van-7")})).status_code == 403


async def test_an_erased_device_leaves_no_valid_certificate(api: Api) -> None:
    await api.operator.post("devices", json={"id": "van-7"})
    made = (await api.operator.post("devices/van-7/certificate", json={"csr": csr_for("van-7")})).json()
    assert (await api.operator.delete("devices/van-7")).status_code == 204
    assert await revoked(api) == {made["serial"]}


async def test_a_certificate_that_is_over_expires(api: Api, database: Database) -> None:
    await api.operator.post("devices", json={"id": "van-7"})
    await api.operator.post("devices/van-7/certificate", json={"csr": csr_for("van-7")})
    async with of_platform(api.registry.database) as connection:
        assert await credentials.expire(connection, 10) == []
    database.rows("UPDATE registry.credential SET expires_at = now()")
    async with of_platform(api.registry.database) as connection:
        assert await credentials.expire(connection, 10) == [("van-7", "acme", 1)]


async def test_server_certificates_are_for_the_platform(api: Api) -> None:
    hosts = {"hosts": ["mqtt.example.org", "192.0.2.7"]}
    assert (await api.admin.post("authority/server-certificate", json=hosts)).status_code == 403
    assert (await api.platform.post("authority/server-certificate", json={"hosts": ["a b"]})).status_code == 422
    answer = await api.platform.post("authority/server-certificate", json=hosts)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    certificate = x509.load_pem_x509_certificate(made["certificate"].encode())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(made["chain"].encode()))
    key = serialization.load_pem_private_key(made["key"].encode(), None)
    assert key.public_key() == certificate.public_key()
    assert "BEGIN X509 CRL" in made["crl"]
