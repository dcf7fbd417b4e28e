"""A small certificate authority: its key is derived from the master key, so it can be made again whenever it is lost.

It signs the broker's server certificates, certificates of devices from their requests (PKCS #10), and revocation lists.
Each master key has an authority of its own. What is trusted is all of them; the oldest signs for servers, because devices
know it already, the newest signs for devices, so that an old master key can be let go.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from outrider.access.keys import KeyRing
from outrider.contract import topics
from outrider.runtime.errors import OutriderError

YEAR = timedelta(days=365)
VALID = YEAR
"""How long certificates and revocation lists are good for."""
RENEW_BEFORE = timedelta(days=30)
CSR_MAX_CHARS = 16_384
RSA_BITS = (2048, 4096)
CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
HOSTS_MAX = 100
# The authority's own certificate must come out the same whenever it is made again.
_FROM = datetime(2026, 1, 1, tzinfo=UTC)
_UNTIL = datetime(2056, 1, 1, tzinfo=UTC)
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
# Clocks differ: a new certificate must be good on a device whose clock is a little behind.
_BACK = timedelta(hours=1)

CA_FILE, CERTIFICATE_FILE, KEY_FILE, CRL_FILE = "ca.crt", "server.crt", "server.key", "crl.pem"


class BadRequest(OutriderError):
    """A certificate request cannot be signed; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A signed certificate."""

    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        """The certificate."""
        return _pem(self.certificate)

    @property
    def der(self) -> bytes:
        """The certificate's bytes, which a fingerprint is taken of."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def serial(self) -> str:
        """Its serial number, hex."""
        return f"{self.certificate.serial_number:x}"

    @property
    def expires_at(self) -> datetime:
        """When it ends."""
        return self.certificate.not_valid_after_utc


@dataclass(frozen=True, slots=True)
class Request:
    """A certificate request whose signature proves that the sender has the key."""

    common_name: str | None
    csr: x509.CertificateSigningRequest


class Authority:
    """The authority of one master key."""

    def __init__(self, keys: KeyRing, key_id: str | None = None) -> None:
        """`key_id` None: of the newest key. Raises UnknownKey."""
        self.key_id = key_id or keys.newest
        # 2^256 − n is 2^-32 of n: reducing a 256-bit number modulo n − 1 leaves no bias anybody could use.
        secret = int.from_bytes(keys.derive("authority", key_id=self.key_id), "big") % (_P256_ORDER - 1) + 1
        self._key = ec.derive_private_key(secret, ec.SECP256R1())
        self._name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Outrider"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"Outrider authority {self.key_id}"),
            ]
        )
        public = self._key.public_key()
        self._identifier = x509.SubjectKeyIdentifier.from_public_key(public)
        serial = int.from_bytes(keys.derive("authority-serial", key_id=self.key_id)[:16], "big") | 1
        self.certificate = (
            x509.CertificateBuilder(self._name, self._name, public, serial, _FROM, _UNTIL)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(self._identifier, critical=False)
            .sign(self._key, hashes.SHA256(), ecdsa_deterministic=True)
        )

    @property
    def pem(self) -> str:
        """The authority's certificate: the same whenever it is made."""
        return _pem(self.certificate)

    def issue_server(self, hosts: Sequence[str], now: datetime | None = None) -> tuple[str, str]:
        """(certificate, private key) for a server that is reached under these names and addresses. Raises BadRequest."""
        names = [_host(host) for host in hosts]
        if not 1 <= len(names) <= HOSTS_MAX:
            raise BadRequest(f"Name 1 to {HOSTS_MAX} hosts or addresses that the server is reached under.")
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(hosts[0][:64], key.public_key(), now, ExtendedKeyUsageOID.SERVER_AUTH)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return _pem(builder.sign(self._key, hashes.SHA256())), private.decode()

    def issue_device(self, request: Request, device: str, now: datetime | None = None) -> Issued:
        """A client certificate for this device, good for a year.

        Raises BadRequest where the request names somebody else.
        """
        if request.common_name not in (None, device):
            raise BadRequest(
                f"The request is for {request.common_name[:64]!r} and the device is {device}. Make one with "
                f"`openssl req -new -key KEY -subj /CN={device}`, or with an empty subject."
            )
        builder = self._builder(device, request.csr.public_key(), now, ExtendedKeyUsageOID.CLIENT_AUTH)  # type: ignore[arg-type]
        return Issued(builder.sign(self._key, hashes.SHA256()))

    def revocation_list(self, revoked: Iterable[tuple[str, datetime]], now: datetime | None = None) -> str:
        """The list of (serial number in hex, revoked when), good for a year."""
        now = now or datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder(self._name, now - _BACK, now + VALID)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._identifier), critical=False
            )
            .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
        )
        for serial, revoked_at in sorted(revoked):
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(revoked_at).build()
            )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def signed(self, certificate: x509.Certificate) -> bool:
        """True if this authority signed it."""
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def _builder(
        self,
        common_name: str,
        public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
        now: datetime | None,
        usage: x509.ObjectIdentifier,
    ) -> x509.CertificateBuilder:
        now = now or datetime.now(UTC)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        return (
            x509.CertificateBuilder(
                self._name,
                name,
                public_key,
                x509.random_serial_number(),
                max(now - _BACK, _FROM),
                min(now + VALID, _UNTIL),
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._identifier), critical=False
            )
        )


def read_request(pem: str) -> Request:
    """A certificate request, checked: its signature, its key (EC P-256, P-384, P-521, or RSA of 2048 to 4096 bits).

    Raises BadRequest.
    """
    if len(pem) > CSR_MAX_CHARS:
        raise BadRequest(f"The request is longer than {CSR_MAX_CHARS} characters.")
    try:
        csr = x509.load_pem_x509_csr(pem.encode())
        key = csr.public_key()
        genuine = csr.is_signature_valid
        names = csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except (ValueError, TypeError, UnsupportedAlgorithm, UnicodeError):
        raise BadRequest("This is no certificate request in PEM. Make one with `openssl req -new -key KEY`.") from None
    if not genuine:
        raise BadRequest("The signature of the request is wrong, so it does not prove that the device has the key.")
    if isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, CURVES):
            raise BadRequest(f"The curve {key.curve.name} is not accepted. Use P-256, P-384 or P-521.")
    elif not isinstance(key, rsa.RSAPublicKey):
        raise BadRequest("Use an EC key (P-256) or an RSA key of 2048 to 4096 bits.")
    elif not RSA_BITS[0] <= key.key_size <= RSA_BITS[1]:
        raise BadRequest(f"The RSA key has {key.key_size} bits. Use 2048 to 4096 bits, or better an EC key (P-256).")
    if len(names) > 1:
        raise BadRequest("The request has several common names. Use one, the id of the device.")
    return Request(str(names[0].value) if names else None, csr)


def for_servers(keys: KeyRing) -> Authority:
    """The authority that signs for servers: of the oldest key, which devices know already."""
    return Authority(keys, keys.ids[-1])


def trusted(keys: KeyRing) -> str:
    """`ca.crt`: the certificates of all authorities, the oldest first."""
    return "".join(Authority(keys, key_id).pem for key_id in reversed(keys.ids))


def revocation_lists(keys: KeyRing, revoked: Iterable[tuple[str, datetime]], now: datetime | None = None) -> str:
    """`crl.pem`: a list of every authority, because one that has none refuses everybody. Serial numbers are random,
    so each list simply holds all."""
    everything = list(revoked)
    return "".join(Authority(keys, key_id).revocation_list(everything, now) for key_id in reversed(keys.ids))


def write_tls_folder(
    folder: Path,
    keys: KeyRing,
    hosts: Sequence[str],
    revoked: Iterable[tuple[str, datetime]] = (),
    now: datetime | None = None,
) -> bool:
    """Makes ca.crt, server.crt, server.key (readable by the owner only) and crl.pem right; True if anything changed.

    A server certificate that is good for another month, for the same hosts, stays. A broker reads changes on SIGHUP.
    Raises BadRequest for hosts that are none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    changed = write_file(folder / CA_FILE, trusted(keys))
    if not _still_good(folder, for_servers(keys), hosts, now or datetime.now(UTC)):
        certificate, key = for_servers(keys).issue_server(hosts, now)
        # The key last: a pair that does not match is found and made again.
        write_file(folder / CERTIFICATE_FILE, certificate)
        write_file(folder / KEY_FILE, key, mode=0o600)
        changed = True
    return write_revocation_lists(folder, keys, revoked, now) or changed


def write_revocation_lists(
    folder: Path, keys: KeyRing, revoked: Iterable[tuple[str, datetime]], now: datetime | None = None
) -> bool:
    """Makes crl.pem right: rewritten when it differs, or is half a year old; True if it was."""
    now = now or datetime.now(UTC)
    everything = list(revoked)
    path = folder / CRL_FILE
    with contextlib.suppress(OSError, ValueError):
        lists = _split(path)
        serials = {int(serial, 16) for serial, _ in everything}
        authorities = [Authority(keys, key_id) for key_id in reversed(keys.ids)]
        if len(lists) == len(authorities) and all(
            found.is_signature_valid(authority.certificate.public_key())  # type: ignore[arg-type]
            and {entry.serial_number for entry in found} == serials
            and found.next_update_utc is not None
            and found.next_update_utc - now > VALID / 2
            for found, authority in zip(lists, authorities, strict=True)
        ):
            return False
    return write_file(path, revocation_lists(keys, everything, now))


def write_file(path: Path, text: str, mode: int = 0o644) -> bool:
    """Replace the file whole, if its text differs; True if it did."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if path.read_text() == text:
            return False
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    return True


def device_name(request: Request) -> str | None:
    """The device id that a request names, None for an empty subject. Raises BadRequest for what is no device id."""
    if request.common_name is not None and not topics.is_name(request.common_name):
        raise BadRequest(f"The common name {request.common_name[:64]!r} is no device id ([a-z0-9-], at most 63).")
    return request.common_name


def _still_good(folder: Path, authority: Authority, hosts: Sequence[str], now: datetime) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate((folder / CERTIFICATE_FILE).read_bytes())
        key = serialization.load_pem_private_key((folder / KEY_FILE).read_bytes(), None)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, x509.ExtensionNotFound):
        return False
    return (
        authority.signed(certificate)
        and key.public_key() == certificate.public_key()
        and set(names) == {_host(host) for host in hosts}
        and certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - RENEW_BEFORE
    )


def _host(host: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(host))
    labels = host.removeprefix("*.").split(".")
    if len(host) > 253 or not all(
        1 <= len(label) <= 63 and label.isascii() and label.replace("-", "").replace("_", "").isalnum()
        for label in labels
    ):
        raise BadRequest(f"{host[:80]!r} is neither a host name nor an IP address.")
    return x509.DNSName(host)


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _split(path: Path) -> list[x509.CertificateRevocationList]:
    end = b"-----END X509 CRL-----\n"
    return [x509.load_pem_x509_crl(part + end) for part in path.read_bytes().split(end) if part.strip()]


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
