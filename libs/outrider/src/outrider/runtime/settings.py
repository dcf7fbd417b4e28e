"""Settings from the environment: one class a service, each with type, default, unit in the name and one sentence."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from outrider.runtime.mqtt import with_ca_file

BAD_SETTINGS_EXIT_CODE = 78
"""sysexits.h EX_CONFIG: a supervisor must not restart on it, only a person can mend it."""


class ServiceSettings(BaseSettings):
    """What every service reads; `OUTRIDER_` stands before each name."""

    model_config = SettingsConfigDict(env_prefix="OUTRIDER_", extra="ignore", frozen=True)

    mqtt_url: str = Field(
        "mqtt://127.0.0.1:1883",
        description="The broker's listener for services, with this service's account "
        "(`mqtt://svc%3Aingest:PASSWORD@HOST:1883`); mqtts:// for TLS.",
    )
    mqtt_ca_file: Path | None = Field(
        None, description="Certificate of the authority that an mqtts:// broker's own is from; unset: the machine's."
    )
    database_url: str = Field(
        "postgresql://127.0.0.1:5432/outrider", description="PostgreSQL with this service's own role."
    )
    http_host: str = Field("127.0.0.1", description="Address that /metrics, /healthz and /readyz are served on.")
    http_port: int = Field(0, description="Port for them; 0 takes a free one and logs it.", ge=0, le=65535)
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: Literal["json", "console"] = Field("json", description="json for machines, console for people.")
    replica: str = Field(
        default_factory=socket.gethostname,
        description="Name of this replica; a restarted replica of the same name takes its slots back at once.",
    )
    lease_timeout_s: float = Field(
        6.0,
        gt=0.5,
        description="A slot whose holder has not renewed it for this long is taken over by another replica.",
    )
    in_hand_max_bytes: int = Field(
        64 * 1024 * 1024,
        ge=1024 * 1024,
        description="Bytes of un-acknowledged messages a replica holds over all its slots; beyond it the broker waits.",
    )

    @property
    def broker_url(self) -> str:
        """`mqtt_url` with the authority to trust in it."""
        return with_ca_file(self.mqtt_url, self.mqtt_ca_file)


def load(settings: type[ServiceSettings]) -> Any:
    """The settings of the environment. Exits with status 78 and the names of the variables that are wrong."""
    try:
        return settings()  # type: ignore[call-arg]
    except ValidationError as error:
        lines = [
            f"  {variable(settings, str(problem['loc'][0]))}={os.environ.get(variable(settings, str(problem['loc'][0])), '')!r}:"
            f" {problem['msg']}"
            for problem in error.errors()
        ]
        print("These settings cannot be used:", *lines, sep="\n", flush=True)
        raise SystemExit(BAD_SETTINGS_EXIT_CODE) from None


def variable(settings: type[ServiceSettings], name: str) -> str:
    """Name of the environment variable of a setting."""
    return f"{settings.model_config['env_prefix']}{name}".upper()


def table(settings: type[ServiceSettings]) -> str:
    """The settings as a Markdown table: variable, default, what it does."""
    rows = ["| variable | default | what it does |", "|---|---|---|"]
    for name, info in settings.model_fields.items():
        default = "host name" if info.default_factory is not None else info.default
        rows.append(f"| `{variable(settings, name)}` | `{default}` | {info.description} |")
    return "\n".join(rows)
