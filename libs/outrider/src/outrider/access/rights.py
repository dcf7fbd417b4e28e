"""Who may touch which topic at the broker, as the contract says (provisional until slice B1 writes it whole)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["publishClientSend", "publishClientReceive", "subscribeLiteral", "subscribePattern"]


@dataclass(frozen=True)
class Acl:
    """One rule of a role."""

    kind: Kind
    topic: str
    allow: bool
    priority: int


def _read(*filters: str) -> tuple[Acl, ...]:
    return tuple(Acl(kind, f, True, 0) for f in filters for kind in ("subscribePattern", "publishClientReceive"))


def _write(*filters: str) -> tuple[Acl, ...]:
    return tuple(Acl("publishClientSend", f, True, 0) for f in filters)


_RAW = ("telemetry/#", "log", "event")
SERVICES: Mapping[str, tuple[Acl, ...]] = {
    "ingest": (
        *(Acl("subscribePattern", f"$share/ingest/fleet/v1/+/+/{stream}", True, 0) for stream in _RAW),
        *(Acl("publishClientReceive", f"fleet/v1/+/+/{stream}", True, 0) for stream in _RAW),
        *_write("outrider/v1/#", "fleet/v1/+/+/ack"),
    ),
    "writer-timeseries": (*_read("outrider/v1/samples/+", "outrider/v1/events/+"), *_write("fleet/v1/+/+/ack")),
    "writer-logs": (*_read("outrider/v1/logs/+"), *_write("fleet/v1/+/+/ack")),
    "registry": (
        *_read("fleet/v1/#", "$SYS/#", "$CONTROL/dynamic-security/#"),
        *_write("fleet/v1/#", "$CONTROL/dynamic-security/#"),
    ),
    "tools": (*_read("fleet/v1/#", "outrider/v1/#", "$SYS/#"), *_write("fleet/v1/#")),
}


def service_role(service: str) -> tuple[Acl, ...]:
    """Rights of a service."""
    return SERVICES.get(service, _read("outrider/v1/#"))


def tenant_role(tenant: str) -> tuple[Acl, ...]:
    """Rights of a tenant's devices, each for itself (Mosquitto 2.1)."""
    own = f"fleet/v1/{tenant}/%u/"
    written = (*_WRITE[1:], "telemetry/#")
    return (*_write(*(own + t for t in written)), *_read(*(own + t for t in _READ)))


_WRITE = (
    "telemetry",
    "telemetry/+",
    "log",
    "event",
    "status",
    "shadow/reported",
    "command/+/response",
    "job/progress",
    "credential/confirm",
)
_READ = ("ack", "shadow/desired", "command/+", "job", "trip", "credential")


def acl_file() -> str:
    """Static patterns for Mosquitto 2.0."""
    lines = [f"pattern write fleet/v1/+/%u/{t}" for t in _WRITE] + [f"pattern read fleet/v1/+/%u/{t}" for t in _READ]
    return "\n".join(lines) + "\n"
