"""What a user should know of a platform that has just started: versions, where programs came from, where data lies."""

from __future__ import annotations

import sys
from importlib import metadata

from outrider.servers import Mosquitto, Postgres


def versions(mosquitto: Mosquitto | None, postgres: Postgres | None) -> dict[str, str]:
    """Of everything that runs, by name."""
    found = {"outrider": metadata.version("outrider"), "python": sys.version.split()[0]}
    if mosquitto:
        found["mosquitto"] = mosquitto.version
    if postgres:
        found["postgres"] = postgres.version
    return found


def notes(mosquitto: Mosquitto | None, postgres: Postgres | None) -> list[str]:
    """What a user should know about where the servers came from and where their data lies."""
    found = []
    if mosquitto:
        found += [f"passed over: {reason}" for reason in mosquitto.program.passed_over]
        found.append(f"Mosquitto {mosquitto.version}: {mosquitto.program.source}")
    if postgres:
        found.append(f"PostgreSQL {postgres.version}: {postgres.programs.source}")
        found += [postgres.note] if postgres.note else []
    return found
