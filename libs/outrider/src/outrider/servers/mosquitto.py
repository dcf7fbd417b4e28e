"""Runs a Mosquitto privately, with identities: two doors on loopback, and nobody comes in without an account."""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import sys
from pathlib import Path
from string import Template
from typing import ClassVar
from urllib.parse import quote

from outrider.access import bootstrap, rights, seed
from outrider.access import keys as access_keys
from outrider.access.bootstrap import ENCODED_SINCE, Account, username_of
from outrider.access.keys import KeyRing
from outrider.access.rights import Acl
from outrider.access.secrets import service_password
from outrider.servers import base, ports
from outrider.servers.base import Server, ServerError
from outrider.servers.mosquitto_program import (
    CLIENTS,
    MINIMUM,
    REFERENCE,
    SUITES,
    VARIABLE,
    Program,
    Version,
    advice,
    find,
    find_old,
    not_found,
    parse_version,
    text_of,
    too_old,
    version_of,
)

__all__ = [
    "CLIENTS",
    "MINIMUM",
    "PERSISTENCE_VARIABLE",
    "REFERENCE",
    "SUITES",
    "VARIABLE",
    "Mosquitto",
    "Program",
    "Version",
    "advice",
    "find",
    "find_old",
    "not_found",
    "parse_version",
    "text_of",
    "too_old",
    "version_of",
]

PERSISTENCE_VARIABLE = "OUTRIDER_MOSQUITTO_PERSISTENCE"
TEST_SERVICE = "test"
_FOLDER = Path(__file__).parent
_DEVICE, _DEVICE_TLS, _DEVICE_CERT = "device-port", "device-tls-port", "device-cert-port"
_CONNACK = 0x20
_DISCONNECT = b"\xe0\x00"
_EVERYTHING = ("#", "$SYS/#", "$CONTROL/#")
# "Topics" that start with a dollar are not matched by `#` (MQTT 5.0 section 4.7.2), and a shared subscription is asked
# for as it was written.
_TEST_RIGHTS = tuple(
    Acl(kind, topic, True, 0)
    for kind in ("publishClientSend", "publishClientReceive", "subscribePattern")
    for topic in (*_EVERYTHING, *(("$share/#",) if kind == "subscribePattern" else ()))
)


class Mosquitto(Server):
    """A Mosquitto on loopback for one data folder: a port for services and one for devices.

    `keys` (default: `master.key` in the folder, made if absent) give every service its account; `test_account` adds
    `svc:test`, which may do everything. With a `tls` folder (ca.crt, server.crt, server.key, crl.pem) there are two more
    ports for devices: TLS with a password, and TLS with a client certificate. `settings` are lines added to its
    configuration (an option given twice counts as given last).
    """

    name: ClassVar[str] = "mosquitto"
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(
        self,
        data_dir: Path,
        *,
        program: Program | None = None,
        port: int | None = None,
        device_port: int | None = None,
        tls: Path | None = None,
        settings: str = "",
        keys: KeyRing | None = None,
        test_account: bool = False,
    ) -> None:
        super().__init__(data_dir, port=port)
        self._program = program
        self._settings = settings
        self._keys = keys
        self._tls = tls.absolute() if tls else None
        self._test_account = test_account
        self._fixed_device_port = device_port
        self._ports = {_DEVICE: device_port or self._kept_port(_DEVICE) or ports.free_port()}
        if tls:
            self._ports |= {name: self._kept_port(name) or ports.free_port() for name in (_DEVICE_TLS, _DEVICE_CERT)}

    @property
    def program(self) -> Program:
        """The broker program; found at the first use, which may take seconds and raise ServerError."""
        if self._program is None:
            self._program = find()
        return self._program

    @property
    def keys(self) -> KeyRing:
        """The master keys that the services' passwords are derived from."""
        if self._keys is None:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            self._keys = access_keys.ensure_file(self.data_dir / "master.key")
        return self._keys

    @property
    def url(self) -> str:
        """The address for tools, with their account; for tests with the account that may do everything."""
        return self.url_of(TEST_SERVICE if self._test_account else "tools")

    def url_of(self, service: str) -> str:
        """`mqtt://svc%3A{service}:{password}@127.0.0.1:{port}`: the services' door with a service's own account."""
        user = quote(username_of(service), safe="")
        return f"mqtt://{user}:{quote(service_password(self.keys, service), safe='')}@127.0.0.1:{self.port}"

    @property
    def device_port(self) -> int:
        """The devices' port on 127.0.0.1, without TLS; the client id is the user name there."""
        return self._ports[_DEVICE]

    @property
    def device_url(self) -> str:
        """`mqtt://127.0.0.1:{device_port}`; a device adds its name and secret."""
        return f"mqtt://127.0.0.1:{self.device_port}"

    @property
    def device_tls_port(self) -> int:
        """The devices' port with TLS and a password. KeyError without a `tls` folder."""
        return self._ports[_DEVICE_TLS]

    @property
    def device_cert_port(self) -> int:
        """The devices' port with TLS and a client certificate, whose common name is the user name. KeyError as above."""
        return self._ports[_DEVICE_CERT]

    @property
    def dynsec_file(self) -> Path:
        """The broker's accounts and their rights, as its dynamic-security plugin keeps them."""
        return self.data_dir / "dynamic-security.json"

    @property
    def version(self) -> str:
        """The broker's version, `2.1.2`."""
        return text_of(self.program.version)

    def start(self, clean: bool = False) -> None:
        """Returns when the broker answers; `clean` first forgets all sessions, queues and retained messages."""
        if clean and not self.running:
            self.wipe()
        super().start()

    def wipe(self) -> None:
        """Forgets all sessions, queues and retained messages; only while the broker does not run. Accounts stay."""
        shutil.rmtree(self._store(), ignore_errors=True)

    def prepare(self) -> None:
        """Writes the configuration and mends the accounts; may be repeated while the broker does not run."""
        self._store().mkdir(parents=True, exist_ok=True)
        self._keep_port()
        for name, port in self._ports.items():
            (self.data_dir / name).write_text(f"{port}\n")
        version, extra = self.program.version, self._extra_accounts()
        if version < ENCODED_SINCE:
            seed.write(str(self._acl_file()), rights.acl_file())
        bootstrap.write_seed(self._seed_file(), self.keys, version, extra)
        bootstrap.ensure(self.dynsec_file, self.keys, version, extra)
        Path(self.marker()).write_text(self.configuration())

    def configuration(self) -> str:
        """The rendered mosquitto.conf."""
        version = self.program.version
        plugin = self.program.sqlite_plugin if version >= (2, 1, 0) else None
        wanted = os.environ.get(PERSISTENCE_VARIABLE, "sqlite")
        if wanted not in ("sqlite", "file"):
            raise ServerError(f"{PERSISTENCE_VARIABLE} is {wanted!r}; it may be sqlite or file")
        persistence = _template(f"persistence-{'sqlite' if plugin and wanted == 'sqlite' else 'file'}")
        dynsec = self.program.dynsec_plugin
        if dynsec is None:
            raise ServerError(
                f"{self.program.path} has no mosquitto_dynamic_security.so beside it; "
                "take the distribution's package of Mosquitto, or build it with the plugin"
            )
        return (
            _template("embedded").substitute(
                port=self.port,
                device_port=self.device_port,
                dynsec=dynsec,
                plugin="global_plugin" if version >= (2, 1, 0) else "plugin",
                accounts=self.dynsec_file,
                acl_file=f"acl_file {self._acl_file()}" if version < ENCODED_SINCE else "",
                persistence=persistence.substitute(folder=self._store(), plugin=plugin),
                # a broker started by root would otherwise look for an account of its own, which cannot read this folder
                account="user root" if os.geteuid() == 0 else "",
                tls=self._tls_listeners(),
            )
            + self._settings
            + "\n"
        )

    def command(self) -> list[str]:
        """Runs the broker in the foreground, its accounts put back first if their file was lost; it stops, saving its
        sessions, when its parent dies."""
        broker = [*self.program.argv, "-c", self.marker()]
        files = ["--file", str(self.dynsec_file), "--seed", str(self._seed_file())]
        with_accounts = [sys.executable, "-I", "-S", str(seed.__file__), *files, "--", *broker]
        return base.launcher(with_accounts, death_signal=signal.SIGTERM)

    def marker(self) -> str:
        """The path of the configuration file."""
        return str(self.data_dir / "mosquitto.conf")

    def is_ready(self) -> bool:
        """True if a CONNECT is answered. It comes with an account, because each refusal would be a line in the log."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as sock:
                sock.sendall(_connect(username_of("tools"), service_password(self.keys, "tools")))
                answered = sock.recv(4)[:1] == bytes([_CONNACK])
                with contextlib.suppress(OSError):
                    sock.sendall(_DISCONNECT)
                return answered
        except OSError:
            return False

    def write_client_commands(self, folder: Path) -> list[Path]:
        """Writes a script for each of Mosquitto's client programs that can be found; returns their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name in CLIENTS:
            argv = self.program.client(name)
            if argv:
                path = folder / name
                path.write_text(f'#!/bin/sh\nexec {shlex.join(argv)} "$@"\n')
                path.chmod(0o755)
                written.append(path)
        return written

    def _extra_accounts(self) -> list[Account]:
        if not self._test_account:
            return []
        return [Account(username_of(TEST_SERVICE), service_password(self.keys, TEST_SERVICE), _TEST_RIGHTS)]

    def _tls_listeners(self) -> str:
        if self._tls is None:
            return ""
        return _template("tls").substitute(
            folder=self._tls, tls_port=self.device_tls_port, certificate_port=self.device_cert_port
        )

    def _take_other_ports(self) -> bool:
        names = [name for name in self._ports if name != _DEVICE or self._fixed_device_port is None]
        self._ports |= {name: ports.free_port() for name in names}
        return super()._take_other_ports() or bool(names)

    def _store(self) -> Path:
        return self.data_dir / "sessions"

    def _seed_file(self) -> Path:
        return self.data_dir / "dynamic-security.seed.json"

    def _acl_file(self) -> Path:
        return self.data_dir / "acl"


def _template(name: str) -> Template:
    return Template((_FOLDER / f"{name}.conf.in").read_text())


def _connect(username: str, password: str) -> bytes:
    """MQTT 3.1.1 CONNECT with a clean session, an empty client id and a login (section 3.1)."""

    def text(value: str) -> bytes:
        return len(value).to_bytes(2, "big") + value.encode()

    rest = text("MQTT") + b"\x04\xc2\x00\x3c" + text("") + text(username) + text(password)
    assert len(rest) < 128, "one byte of length"
    return bytes([0x10, len(rest)]) + rest
