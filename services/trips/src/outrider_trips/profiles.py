"""Which rules a vehicle's trips follow: profiles per tenant and type of device, the specific one key by key."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import psycopg

from outrider.trips import Rules

log = logging.getLogger(__name__)

INSTALLED = "SELECT to_regclass('registry.device_types') IS NOT NULL"
TYPE = "SELECT type FROM registry.device_types WHERE (tenant, device) = (%s, %s)"
PROFILES = """
SELECT tenant, type, rules, problem FROM trips.profile WHERE tenant IN ('*', %s) AND type IN ('*', %s)
ORDER BY tenant <> '*', type <> '*'
"""
PROBLEM = "UPDATE trips.profile SET problem = %s WHERE (tenant, type) = (%s, %s)"
RULES = "INSERT INTO trips.rule SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING"
OTHER_RULES = "DELETE FROM trips.rule WHERE name <> ALL (%s::text[])"
_DEFAULTS = Rules()


class Profiles:
    """Looks rules up. A profile that cannot be used is passed over, and says so in its `problem`."""

    def __init__(self) -> None:
        self._types_installed: bool | None = None
        self._known: dict[str, Rules] = {}

    async def of(self, connection: psycopg.AsyncConnection, tenant: str, device: str) -> Rules:
        """The rules of a device, in the connection's transaction."""
        type_ = await self._type(connection, tenant, device)
        rows = await (await connection.execute(PROFILES, (tenant, type_ or "*"))).fetchall()
        chosen: dict[str, Any] = {}
        for profile_tenant, profile_type, overrides, problem in rows:
            found = _usable(chosen | overrides)
            if isinstance(found, Rules):
                chosen |= overrides
            if (now := None if isinstance(found, Rules) else found) != problem:
                log.warning("profile_checked", extra={"tenant": profile_tenant, "reason": now or "usable again"})
                await connection.execute(PROBLEM, (now, profile_tenant, profile_type))
        return Rules.of(chosen) if chosen else _DEFAULTS

    async def _type(self, connection: psycopg.AsyncConnection, tenant: str, device: str) -> str:
        if not self._types_installed:  # the registry may come later
            row = await (await connection.execute(INSTALLED)).fetchone()
            self._types_installed = bool(row and row[0])
        if not self._types_installed:
            return ""
        row = await (await connection.execute(TYPE, (tenant, device))).fetchone()
        return row[0] if row else ""


def _usable(overrides: Mapping[str, Any]) -> Rules | str:
    try:
        return Rules.of(overrides)
    except ValueError as error:
        return str(error)


async def publish_rules(connection: psycopg.AsyncConnection) -> None:
    """Tell the database which rules there are, so that it refuses a profile with others."""
    names = sorted(entry.name for entry in fields(Rules))
    await connection.execute(RULES, (names,))
    await connection.execute(OTHER_RULES, (names,))
