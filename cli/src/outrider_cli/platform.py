"""The whole platform on one machine: embedded servers, migrations and every installed service, from one data folder."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from http.client import HTTPException
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Self

from outrider.access.keys import FILE_VARIABLE, KEY_VARIABLE, BadMasterKey, KeyRing
from outrider.runtime import migrate
from outrider.servers import Mosquitto, Postgres, Server, ports
from outrider_cli import accounts, notes, supervision
from outrider_cli.logs import Followers, LogSink
from outrider_cli.state import FILE_NAME, LOCK_NAME, SCALE_FOLDER, BrokerLogin, ProcessState, State
from outrider_cli.supervision import Program, Supervisor

MQTT_VARIABLE = "OUTRIDER_MQTT_URL"
DATABASE_VARIABLE = "OUTRIDER_DATABASE_URL"
REGISTRY = "registry"
REGISTRY_URL_VARIABLE = "OUTRIDER_REGISTRY_URL"
GATEWAY = "gateway"
GATEWAY_URL_VARIABLE = "OUTRIDER_GATEWAY_URL"
LIFECYCLE = "lifecycle"
ARCHIVE_VARIABLE = "OUTRIDER_ARCHIVE_URL"
IDENTITY_VARIABLE = "OUTRIDER_ARCHIVE_IDENTITY_FILE"
DISK_VARIABLE = "OUTRIDER_STORAGE_DISK_PATH"
_WATCH_S = 1.0
_SERVER_START_TIMEOUT_S = 120.0


class PlatformError(Exception):
    """The platform could not be started or does not get ready; the text says what to do."""


def process_names(service: str, count: int) -> list[str]:
    """`ingest` for one process of a service, `ingest-1`, `ingest-2` … for several."""
    return [service] if count == 1 else [f"{service}-{number}" for number in range(1, count + 1)]


def is_ready(url: str) -> bool:
    """True if GET answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, HTTPException, ValueError):  # URLError is an OSError
        return False


class Platform:
    """Everything `outrider up` runs, for use by other commands and by tests.

    `with Platform(data_dir) as platform:` starts it, waits until every service is ready, and stops it at the end: the
    services first, then Mosquitto, then PostgreSQL. A second run on the same folder continues with its data; while one
    runs, another one is refused.

    `scale` gives the number of processes by service (0 leaves one out), `environment` more variables for all services,
    `log_sink` gets every line that any process writes. `mqtt_url` and `database_url` (by default
    OUTRIDER_MQTT_URL and OUTRIDER_DATABASE_URL) name servers to use instead of embedded ones. `test_account` adds an
    account to the embedded broker that may do everything: `test_url`.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        scale: Mapping[str, int] | None = None,
        environment: Mapping[str, str] | None = None,
        log_sink: LogSink | None = None,
        mqtt_url: str | None = None,
        database_url: str | None = None,
        test_account: bool = False,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self._scale = dict(scale or {})
        self._environment = dict(environment or {})
        self._sink: LogSink = log_sink or (lambda process, line: None)
        self._mqtt_url = mqtt_url or os.environ.get(MQTT_VARIABLE)
        self._database_url = database_url or os.environ.get(DATABASE_VARIABLE)
        self._test_account = test_account
        self._mosquitto: Mosquitto | None = None
        self._keys: KeyRing | None = None
        self._key_file: Path | None = None
        self._tls_folder: Path | None = None
        self._revoked_ns = 0
        self._lock: TextIOWrapper | None = None
        self._supervisor: Supervisor | None = None
        self._followers: Followers | None = None
        self._watcher: threading.Thread | None = None
        self._ending = threading.Event()
        self._state: State | None = None
        self._ready_pids: dict[str, int | None] = {}
        self.failure = ""
        """Why the platform can no longer run, once it cannot; empty while all is well."""

    @property
    def state(self) -> State:
        """Addresses, ports and process ids; PlatformError before `start()`."""
        if self._state is None:
            raise PlatformError("the platform has not been started")
        return self._state

    @property
    def keys(self) -> KeyRing:
        """The master keys; PlatformError before `start()`."""
        if self._keys is None:
            raise PlatformError("the platform has not been started")
        return self._keys

    @property
    def test_url(self) -> str:
        """The services' door of the embedded broker, with the account that may do everything."""
        if self._mosquitto is None or not self._test_account:
            raise PlatformError("the platform has no test account")
        return self._mosquitto.url_of("test")

    def start(self) -> None:
        """Starts servers, applies migrations, starts services. They may not be ready yet: see `wait_ready()`."""
        services = self._services()
        try:
            self._take_folder()
            self._keys, self._key_file = accounts.master_keys(self.data_dir)
        except BadMasterKey as error:
            self.stop()
            raise PlatformError(str(error)) from None
        try:
            self._start(services)
        except BaseException:
            self.stop()
            raise

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Returns when every service says it is ready; PlatformError names those that are not after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        waiting = dict(self.state.services)
        while waiting:
            waiting = {
                name: process
                for name, process in waiting.items()
                if not (process.ready_url and is_ready(process.ready_url))
            }
            for name in waiting:
                if self._supervised.status(name).has_bad_settings:
                    raise PlatformError(f"{name} cannot use its settings. {self._log_hint(name)}")
            if waiting and (self.failure or time.monotonic() > deadline):
                hints = "\n".join(self._log_hint(name) for name in waiting)
                why = self.failure or f"not ready after {timeout_s:.0f} s: {', '.join(waiting)}"
                raise PlatformError(f"{why}\n{hints}")
            if waiting:
                self._ending.wait(0.1)

    def scale(self, service: str, count: int) -> None:
        """Runs `count` processes of a service from now on: the last ones stop gracefully, new ones are started.

        Returns when those to stop have ended; `wait_ready()` waits for the new ones. Another process asks for it by
        `State.ask_scale()`. PlatformError for a service that is not installed.
        """
        package = migrate.packages().get(service)
        if package is None:
            raise PlatformError(f"There is no service {service}; there are: {', '.join(migrate.packages())}")
        names = [name for name, process in self.state.services.items() if process.service == service]
        for name in reversed(names[count:]):
            # a new dictionary each time: the watcher may be iterating over the old one
            self.state.services = {known: p for known, p in self.state.services.items() if known != name}
            self._supervised.stop_program(name)
        known = self._supervised.statuses()
        for number in range(len(names), count):
            name = next(
                n for n in (f"{service}-{i}" for i in range(number + 1, count + len(names) + 2)) if n not in names
            )
            names.append(name)
            process = self._new_process(service, name, is_first=number == 0)
            self.state.services = {**self.state.services, name: process}
            self._note_addresses()
            if service == REGISTRY and not self.state.api_token:
                self._make_first_accounts()
            if name not in known:
                self._supervised.add_program(Program(name, [sys.executable, "-m", package], process.log, order=901))
                if self._followers is not None:
                    self._followers.add(name, process.log)
            self._supervised.write_environment(name, self._environment_of(name, process))
            self._supervised.start_program(name)
        self._note_addresses()
        self.state.save()

    def wait(self) -> str:
        """Returns when the platform can no longer run, with the reason; a signal handler may raise out of it."""
        while not self.failure:
            self._ending.wait(0.5)
        return self.failure

    def stop(self) -> None:
        """Stops everything in order; nothing is left running. May be called again."""
        self._ending.set()
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join()
            self._watcher = None
        if self._supervisor is not None:
            self._supervisor.stop()
            self._supervisor = None
        if self._followers is not None:
            self._followers.stop()
            self._followers = None
        if self._lock is not None:
            (self.data_dir / FILE_NAME).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def kill(self) -> None:
        """SIGKILL for every process, for a user in a hurry; `stop()` still tidies up."""
        if self._supervisor is not None:
            self._supervisor.kill()

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _supervised(self) -> Supervisor:
        if self._supervisor is None:
            raise PlatformError("the platform has not been started")
        return self._supervisor

    def _services(self) -> dict[str, int]:
        """Number of processes by installed service."""
        installed = migrate.packages()
        unknown = sorted(set(self._scale) - set(installed))
        if unknown:
            raise PlatformError(f"There is no service {', '.join(unknown)}; there are: {', '.join(installed)}")
        return {name: self._scale.get(name, 1) for name in installed}

    def _take_folder(self) -> None:
        if not self.data_dir.exists():
            # root's PostgreSQL runs as another account, which must be able to pass through
            self.data_dir.mkdir(parents=True, mode=0o711 if os.geteuid() == 0 else 0o700)
        lock = (self.data_dir / LOCK_NAME).open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip()
            lock.close()
            raise PlatformError(
                f"{self.data_dir} is in use by process {holder}. `outrider down` stops it; "
                "`outrider up --data DIR` starts a second platform elsewhere."
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock

    def _start(self, services: dict[str, int]) -> None:
        (self.data_dir / FILE_NAME).unlink(missing_ok=True)
        for name in ("logs", "run"):
            (self.data_dir / name).mkdir(exist_ok=True, mode=0o700)
        shutil.rmtree(self.data_dir / SCALE_FOLDER, ignore_errors=True)
        if not self._mqtt_url:
            self._tls_folder = accounts.tls_folder(self.data_dir, self.keys)
        servers, mosquitto, postgres = self._embedded_servers()
        supervision.end_leftovers(self.data_dir)
        programs = []
        for order, server in enumerate(servers, 1):
            server.end_leftovers()
            server.prepare()
            server.log_path = self._log(server.name)
            programs.append(Program(server.name, server.command(), server.log_path, order, server.stop_signal))
        programs += self._service_programs(services)
        self._supervisor = Supervisor(self.data_dir, programs)
        self._followers = Followers({program.name: program.log for program in programs}, self._sink)
        self._followers.start()
        self._supervisor.start()
        for server in servers:
            self._supervisor.start_program(server.name)
        for server in servers:
            server.wait_ready(lambda: self._supervised.running, _SERVER_START_TIMEOUT_S)

        database_url = postgres.url if postgres else str(self._database_url)
        # the grants of the migrations need the roles
        database_urls = migrate.ensure_roles(database_url, accounts.database_passwords(self.data_dir, services))
        migrate.migrate_all(database_url)
        if mosquitto:
            mosquitto.write_client_commands(self.data_dir / "bin")
        doors = accounts.doors(mosquitto, self._mqtt_url, self.keys, services)
        self._state = State(
            pid=os.getpid(),
            data_dir=self.data_dir,
            mqtt_url=doors.tools,
            mqtt_urls=doors.services,
            device_mqtt_url=doors.devices,
            device_tls_url=doors.devices_tls,
            device_certificate_url=doors.devices_certificate,
            tls_folder=self._tls_folder,
            master_key_file=self._key_file,
            archive_url=self._given(ARCHIVE_VARIABLE) or (self.data_dir / "archive").as_uri(),
            archive_identity_file=Path(self._given(IDENTITY_VARIABLE) or self.data_dir / "archive.key"),
            database_url=database_url,
            database_urls=database_urls,
            services={
                name: self._new_process(service, name, is_first=number == 0)
                for service, count in services.items()
                for number, name in enumerate(process_names(service, count))
            },
            servers={server.name: ProcessState(service=server.name, log=server.log_path) for server in servers},
            versions=notes.versions(mosquitto, postgres),
            started_at=datetime.now(UTC),
            supervisor_socket=self._supervisor.socket,
            notes=notes.notes(mosquitto, postgres),
        )
        self._note_addresses()
        if services.get(REGISTRY):
            self._make_first_accounts()
        for name, process in self._state.services.items():
            self._supervisor.write_environment(name, self._environment_of(name, process))
            self._supervisor.start_program(name)
        self._note_processes()
        self._watcher = threading.Thread(target=self._watch, name="platform-watcher", daemon=True)
        self._watcher.start()

    def _embedded_servers(self) -> tuple[list[Server], Mosquitto | None, Postgres | None]:
        """In the order of their start; they stop in the reverse order."""
        postgres = None if self._database_url else Postgres(self.data_dir / "postgres")
        mosquitto = None
        if not self._mqtt_url:
            folder = self.data_dir / "mosquitto"
            mosquitto = Mosquitto(folder, keys=self.keys, tls=self._tls_folder, test_account=self._test_account)
        self._mosquitto = mosquitto
        return [server for server in (postgres, mosquitto) if server is not None], mosquitto, postgres

    def _make_first_accounts(self) -> None:
        """A tenant, its administrator and what they need to sign in; at every start a new link and a new token."""
        state = self.state
        process = next(process for process in state.services.values() if process.service == REGISTRY)
        made = accounts.bootstrap(self._environment_of(REGISTRY, process))
        state.tenant, state.api_token = made["tenant"], made["token"]
        state.sign_in_link = state.console_url + made["admin"]["path"]
        viewer = made["viewer"]
        state.broker_login = BrokerLogin(username=viewer["username"], password=viewer["password"])
        if count := accounts.unregistered(state.database_url):
            state.notes.append(
                f"{count:,} devices in the database are not registered, so the broker refuses them: `outrider device adopt`"
            )

    def _new_process(self, service: str, name: str, *, is_first: bool) -> ProcessState:
        process = ProcessState(service=service, log=self._log(name), http_port=ports.free_port())
        if service == REGISTRY:  # the first one has the address that people know
            process.console_port = accounts.console_port(self.data_dir) if is_first else ports.free_port()
        elif service == GATEWAY:
            process.gateway_port = accounts.gateway_port(self.data_dir) if is_first else ports.free_port()
        return process

    def _note_addresses(self) -> None:
        processes = list(self.state.services.values())
        self.state.console_url = self._address(REGISTRY_URL_VARIABLE, [one.console_port for one in processes])
        self.state.gateway_url = self._address(GATEWAY_URL_VARIABLE, [one.gateway_port for one in processes])

    def _address(self, variable: str, known: list[int | None]) -> str:
        """Where people reach the first of these ports: as the variable says where a proxy is in front; empty without one."""
        found = [port for port in known if port]
        return (self._given(variable) or f"http://127.0.0.1:{found[0]}") if found else ""

    def _given(self, variable: str) -> str:
        """What the services' environment says, or ours."""
        return self._environment.get(variable) or os.environ.get(variable, "")

    def _service_programs(self, services: dict[str, int]) -> list[Program]:
        packages = migrate.packages()
        return [
            Program(name, [sys.executable, "-m", packages[service]], self._log(name), is_service=True)
            for service, count in services.items()
            for name in process_names(service, count)
        ]

    def _environment_of(self, name: str, process: ProcessState) -> dict[str, str]:
        state = self.state
        environment = {
            "PYTHONUNBUFFERED": "1",
            "OUTRIDER_LOG_FORMAT": "json",
            # nobody but the registry gets to see the master key
            KEY_VARIABLE: "",
            FILE_VARIABLE: "",
            **self._environment,
            MQTT_VARIABLE: state.mqtt_urls[process.service],
            DATABASE_VARIABLE: state.database_urls[process.service],
            "OUTRIDER_HTTP_PORT": str(process.http_port),
            # a restarted process takes its slots back at once under its old name
            "OUTRIDER_REPLICA": f"{name}@{self._place()}" if self._database_url else name,
        }
        if process.service == REGISTRY:
            environment |= {
                accounts.PORT_VARIABLE: str(process.console_port),
                REGISTRY_URL_VARIABLE: state.console_url,
                accounts.DEVICE_MQTT_VARIABLE: state.device_mqtt_url,
                **(
                    {FILE_VARIABLE: str(self._key_file)} if self._key_file else {KEY_VARIABLE: os.environ[KEY_VARIABLE]}
                ),
                **({"OUTRIDER_DYNSEC_FILE": str(self._mosquitto.dynsec_file)} if self._mosquitto else {}),
                **({"OUTRIDER_TLS_FOLDER": str(self._tls_folder)} if self._tls_folder else {}),
                **({"OUTRIDER_BROKER_KEEP_ACCOUNTS": "svc:test"} if self._test_account else {}),
                **(
                    {"OUTRIDER_DEVICE_CERTIFICATE_MQTT_URL": state.device_certificate_url}
                    if state.device_certificate_url
                    else {}
                ),
            }
        elif process.service == LIFECYCLE:
            environment |= {
                ARCHIVE_VARIABLE: state.archive_url,
                IDENTITY_VARIABLE: str(state.archive_identity_file),
            }
            if not self._database_url and not self._given(DISK_VARIABLE):
                environment[DISK_VARIABLE] = str(self.data_dir)
        elif process.service == GATEWAY:
            environment |= {
                accounts.GATEWAY_PORT_VARIABLE: str(process.gateway_port),
                GATEWAY_URL_VARIABLE: state.gateway_url,
            }
        return environment

    def _place(self) -> str:
        """Tells this platform from others on the same database."""
        return f"{socket.gethostname()}-{hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:6]}"

    def _watch(self) -> None:
        """Says what ended, keeps the process ids in the state file true, scales as other processes ask."""
        while not self._ending.wait(_WATCH_S):
            if not self._supervised.running:
                self.failure = f"supervisord ended; the end of {self._supervised.log} may say why"
                self._sink("outrider", self.failure)
                return
            try:  # nothing may end this thread: who would see that supervisord died?
                with contextlib.suppress(supervision.SupervisionError, HTTPException):
                    self._note_processes()
                    self._note_ready()
                for service, count in self.state.take_asked_scale():
                    self.scale(service, count)
                self._tell_revocations()
            except (PlatformError, supervision.SupervisionError, HTTPException, OSError, ValueError) as error:
                self._sink("outrider", f"not scaled or not noted: {error}")

    def _note_processes(self) -> None:
        statuses = self._supervised.statuses()
        changed = False
        for name, process in self._processes():
            if (status := statuses.get(name)) is None:
                continue  # started by scale() since
            pid = status.pid if status.state in supervision.RUNNING_STATES else None
            if pid == process.pid:
                continue
            changed = True
            if status.has_bad_settings:
                self._sink("outrider", f"{name} cannot use its settings and stays stopped. {self._log_hint(name)}")
            elif process.pid is not None:
                self._sink("outrider", f"{name} ended" + (f" and starts again as process {pid}" if pid else ""))
            process.pid = pid
        if changed or not (self.data_dir / FILE_NAME).exists():
            self.state.save()

    def _note_ready(self) -> None:
        """Only a process that dies without having become ready waits before it is started again."""
        for name, process in self.state.services.items():
            new = process.pid is not None and process.pid != self._ready_pids.get(name)
            if new and process.ready_url and is_ready(process.ready_url):
                self._ready_pids[name] = process.pid
                self._supervised.forget_short_lives(name)

    def _tell_revocations(self) -> None:
        """The broker reads the list of revoked certificates again when it is told to."""
        if self._mosquitto is None or self._tls_folder is None:
            return
        with contextlib.suppress(FileNotFoundError):
            changed_ns = (self._tls_folder / "crl.pem").stat().st_mtime_ns
            if self._revoked_ns and changed_ns != self._revoked_ns:
                supervision.call(self.state.supervisor_socket, "signalProcess", self._mosquitto.name, "HUP")
            self._revoked_ns = changed_ns

    def _processes(self) -> Iterator[tuple[str, ProcessState]]:
        yield from self.state.servers.items()
        yield from self.state.services.items()

    def _log(self, process: str) -> Path:
        return self.data_dir / "logs" / f"{process}.log"

    def _log_hint(self, process: str) -> str:
        return f"Its log is {self._log(process)}."
