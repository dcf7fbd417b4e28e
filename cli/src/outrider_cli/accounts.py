"""Who everybody is on a platform of one folder: its master key, the services at the broker, the first people."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from cryptography import x509

from outrider.access import authority
from outrider.access import keys as access_keys
from outrider.access.bootstrap import username_of
from outrider.access.keys import FILE_VARIABLE, KEY_VARIABLE, KeyRing
from outrider.access.secrets import service_password
from outrider.servers import Mosquitto, ports

DEVICE_MQTT_VARIABLE = "OUTRIDER_DEVICE_MQTT_URL"
KEY_FILE = "master.key"
TOOLS = "tools"
VIEWER = "viewer"
"""The person whose read-only login at the broker is printed."""
HOSTS = ("localhost", "127.0.0.1")
"""Names in the certificate of the embedded broker, which listens on loopback only."""
PORT_VARIABLE = "OUTRIDER_REGISTRY_HTTP_PORT"
CONSOLE_PORT = 8080
"""The console's port where it is free; else another one, kept from then on."""
GATEWAY_PORT_VARIABLE = "OUTRIDER_GATEWAY_HTTP_PORT"
GATEWAY_PORT = 8081
"""The gateway's, likewise."""
BOOTSTRAP_S = 60
UNREGISTERED = """
SELECT count(*) FROM (SELECT DISTINCT device FROM telemetry.series) s
WHERE NOT EXISTS (SELECT FROM registry.directory d WHERE d.device = s.device)
"""


class CannotBootstrap(Exception):
    """The first accounts could not be made; the text says why."""


def master_keys(data_dir: Path) -> tuple[KeyRing, Path | None]:
    """The platform's master keys and the file they are in: those of the environment, else `master.key` in the data folder,
    made at the first start. Raises BadMasterKey."""
    named = os.environ.get(FILE_VARIABLE)
    if key := os.environ.get(KEY_VARIABLE):
        return KeyRing.load(key, None), None
    if named:
        return KeyRing.load(None, Path(named)), Path(named).absolute()
    path = data_dir / KEY_FILE
    return access_keys.ensure_file(path), path


@dataclass(frozen=True)
class Doors:
    """The broker's addresses: for each service with its own account, and for devices, which add theirs."""

    tools: str
    services: dict[str, str]
    devices: str
    devices_tls: str = ""
    devices_certificate: str = ""


def doors(mosquitto: Mosquitto | None, given: str | None, keys: KeyRing, services: Iterable[str]) -> Doors:
    """Those of the embedded broker, else those of the one whose address was `given`."""
    if mosquitto is None:
        assert given
        urls = {service: service_url(given, service, keys) for service in services}
        devices = os.environ.get(DEVICE_MQTT_VARIABLE) or without_account(given)
        return Doors(service_url(given, TOOLS, keys), urls, devices)
    urls = {service: mosquitto.url_of(service) for service in services}
    tls, certificate = mosquitto.device_tls_port, mosquitto.device_cert_port
    host = "mqtts://127.0.0.1"
    return Doors(mosquitto.url_of(TOOLS), urls, mosquitto.device_url, f"{host}:{tls}", f"{host}:{certificate}")


def tls_folder(data_dir: Path, keys: KeyRing) -> Path:
    """The folder with the certificate of the embedded broker and what its devices need to trust it; made or renewed.

    Certificates that the registry has revoked stay revoked.
    """
    folder = data_dir / "tls"
    revoked = [(serial, datetime.now(UTC)) for serial in _revoked(folder / authority.CRL_FILE)]
    authority.write_tls_folder(folder, keys, HOSTS, revoked)
    return folder


def _revoked(path: Path) -> Iterator[str]:
    """Serial numbers, hex, in a file of revocation lists."""
    end = b"-----END X509 CRL-----\n"
    content = path.read_bytes() if path.exists() else b""
    for part in content.split(end)[:-1]:
        with contextlib.suppress(ValueError):
            yield from (f"{entry.serial_number:x}" for entry in x509.load_pem_x509_crl(part + end))


def service_url(url: str, service: str, keys: KeyRing) -> str:
    """The address of a broker that is not ours, for a service: with its own account, derived from the master key as
    `outrider broker bootstrap` makes it there, unless the address names an account."""
    parts = urlsplit(url)
    if parts.username:
        return url
    account = f"{quote(username_of(service), safe='')}:{service_password(keys, service)}"
    return urlunsplit(parts._replace(netloc=f"{account}@{parts.netloc}"))


def without_account(url: str) -> str:
    """An address as it may be shown."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def console_port(data_dir: Path) -> int:
    """The port of the console: OUTRIDER_REGISTRY_HTTP_PORT, else as `known_port` finds one, 8080 first."""
    return known_port(data_dir / "console-port", PORT_VARIABLE, CONSOLE_PORT)


def gateway_port(data_dir: Path) -> int:
    """The port of the gateway: OUTRIDER_GATEWAY_HTTP_PORT, else as `known_port` finds one, 8081 first."""
    return known_port(data_dir / "gateway-port", GATEWAY_PORT_VARIABLE, GATEWAY_PORT)


def known_port(path: Path, variable: str, first: int) -> int:
    """A port that people know: that of the variable, else that of the last run (which `path` keeps), else `first`; where
    that is taken (or 0 is asked for), a free one."""
    given = os.environ.get(variable, "")
    if given.isdecimal() and int(given):
        return int(given)
    try:
        port = int(path.read_text())
    except (OSError, ValueError):
        port = 0 if given == "0" else first
    if not port or not ports.is_free(port):
        port = ports.free_port()
    path.write_text(f"{port}\n")
    return port


def bootstrap(environment: Mapping[str, str]) -> dict[str, Any]:
    """Makes the first tenant, its administrator, a token for commands and a link to sign in; what the registry prints.

    `environment` is that of a registry. Raises CannotBootstrap.
    """
    command = [sys.executable, "-m", "outrider_registry.bootstrap", "--viewer", VIEWER]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=BOOTSTRAP_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode == 0:
            found: dict[str, Any] = json.loads(done.stdout)
            return found
        why = done.stderr or done.stdout
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        why = str(error)
    raise CannotBootstrap(f"The registry's first accounts could not be made:\n{why.strip()[-2000:]}")


def database_passwords(data_dir: Path, services: Iterable[str]) -> dict[str, str]:
    """The services' database passwords; the same in every run on this folder."""
    path = data_dir / "passwords.json"
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    passwords = {service: known.get(service) or secrets.token_urlsafe(24) for service in services}
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(known | passwords, file)
    return passwords


def unregistered(database_url: str) -> int:
    """How many devices the ledger has heard of that the registry does not know, so that the broker refuses them."""
    with psycopg.connect(database_url, connect_timeout=10) as connection:
        connection.execute("SELECT set_config('outrider.tenant', '*', true)")
        row = connection.execute(UNREGISTERED.encode()).fetchone()
        return int(row[0]) if row else 0
