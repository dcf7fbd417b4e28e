"""What a running platform writes down for other commands: addresses, ports, process ids."""

import fcntl
import os
from datetime import datetime
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ValidationError

FILE_NAME = "state.json"
LOCK_NAME = "lock"


class NotRunning(Exception):
    """Nothing runs in this data folder; start it with `outrider up`."""


class ProcessState(BaseModel):
    """One supervised process; `pid` is None while it does not run."""

    service: str
    log: Path
    pid: int | None = None
    http_port: int | None = None

    @property
    def ready_url(self) -> str | None:
        """Where the process says whether it is ready; None for the servers."""
        return f"http://127.0.0.1:{self.http_port}/readyz" if self.http_port else None


class State(BaseModel):
    """A running platform. Holds passwords: the file is readable by its owner only."""

    pid: int
    """The process of `outrider up`."""
    data_dir: Path
    mqtt_url: str
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
        path = self.data_dir / FILE_NAME
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(self.model_dump_json(indent=2) + "\n")
        fresh.replace(path)


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
