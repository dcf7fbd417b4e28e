"""What a running platform writes down for other commands: addresses, ports, process ids."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ValidationError

FILE_NAME = "state.json"
LOCK_NAME = "lock"
SCALE_FOLDER = "run/scale"
"""One file per service of which another number of processes is wanted; its content is the number."""


class NotRunning(Exception):
    """Nothing runs in this data folder; start it with `outrider up`."""


class ProcessState(BaseModel):
    """One supervised process; `pid` is None while it does not run."""

    service: str
    log: Path
    pid: int | None = None
    http_port: int | None = None
    console_port: int | None = None
    """Of a registry: where the console and the REST API are."""
    gateway_port: int | None = None
    """Of a gateway: where devices without MQTT send, and the query API is."""

    @property
    def ready_url(self) -> str | None:
        """Where the process says whether it is ready; None for the servers."""
        return f"http://127.0.0.1:{self.http_port}/readyz" if self.http_port else None


class BrokerLogin(BaseModel):
    """User name and password of a person who may look at the broker."""

    username: str
    password: str


class State(BaseModel):
    """A running platform. Holds passwords: the file is readable by its owner only."""

    pid: int
    """The process of `outrider up`."""
    data_dir: Path
    mqtt_url: str
    """The broker's door for services, with the account of the tools: reads everything, publishes what was rejected again."""
    mqtt_urls: dict[str, str]
    """The same door with each service's own account."""
    device_mqtt_url: str
    """The broker's door for devices; each adds its name and secret."""
    device_tls_url: str = ""
    """The same with TLS; empty where there is none."""
    device_certificate_url: str = ""
    """The door for devices that show a certificate instead of a secret; empty where there is none."""
    tls_folder: Path | None = None
    """`ca.crt` for devices, and what else the TLS doors need."""
    master_key_file: Path | None = None
    console_url: str = ""
    """The console and the REST API; empty while no registry runs."""
    gateway_url: str = ""
    """For devices without MQTT, and the query API; empty while no gateway runs."""
    archive_url: str = ""
    """Where lifecycle archives what expires: a folder in `data_dir` unless OUTRIDER_ARCHIVE_URL names another place."""
    archive_identity_file: Path | None = None
    """The secret keys that read it."""
    api_token: str = ""
    """For commands: a token of the administrator, made anew at every start."""
    sign_in_link: str = ""
    """Opens the console, once."""
    broker_login: BrokerLogin | None = None
    """A person's read-only login at the broker."""
    tenant: str = "demo"
    """The tenant that the first start made."""
    database_url: str
    """With the administrator's role; services have their own in `database_urls`."""
    database_urls: dict[str, str]
    services: dict[str, ProcessState]
    """By process name: `ingest`, or `ingest-1`, `ingest-2` when there are several."""
    servers: dict[str, ProcessState]
    """The embedded servers, `mosquitto` and `postgres`; without those that were named by an address."""
    versions: dict[str, str]
    started_at: datetime
    supervisor_socket: Path
    notes: list[str] = []

    @classmethod
    def load(cls, data_dir: Path) -> Self:
        """The state of the platform that runs in this folder; NotRunning if none does."""
        path = data_dir / FILE_NAME
        try:
            text = path.read_text()
        except FileNotFoundError:
            raise NotRunning(f"Nothing runs in {data_dir}: start it with `outrider up`.") from None
        if not is_locked(data_dir):
            raise NotRunning(f"What ran in {data_dir} has ended: start it again with `outrider up`.")
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            raise NotRunning(
                f"{path} was written by another version: stop that with `outrider down` and start with `outrider up`."
            ) from None

    def save(self) -> None:
        """Replaces the file as a whole, so that a reader never sees half of it."""
        _replace(self.data_dir / FILE_NAME, self.model_dump_json(indent=2) + "\n")

    def ask_scale(self, service: str, count: int) -> None:
        """Asks the process of `outrider up` to run so many processes of a service; it looks about once a second."""
        folder = self.data_dir / SCALE_FOLDER
        folder.mkdir(exist_ok=True, mode=0o700)
        _replace(folder / service, f"{count}\n")

    def take_asked_scale(self) -> Iterator[tuple[str, int]]:
        """Yields (service, wanted number of processes) for each `ask_scale()` since the last time, once."""
        for wanted in sorted((self.data_dir / SCALE_FOLDER).glob("[!.]*")):
            taken = wanted.rename(wanted.with_name(f".{wanted.name}"))
            yield wanted.name, int(taken.read_text())


def _replace(path: Path, text: str) -> None:
    descriptor, fresh = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # readable by its owner only
    with open(descriptor, "w") as file:
        file.write(text)
    os.replace(fresh, path)


def is_locked(data_dir: Path) -> bool:
    """True while an `outrider up` holds the folder, whatever files it left."""
    try:
        with (data_dir / LOCK_NAME).open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
