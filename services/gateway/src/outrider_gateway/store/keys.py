"""What the registry says about keys, tokens and devices: through its functions, which show no secret and no verifier."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg.rows import class_row

from outrider.runtime.database import Database

TOKEN = "SELECT * FROM registry.check_token(%s)"
KEY = "SELECT * FROM registry.check_device_key(%s, %s)"
DEVICE = "SELECT * FROM registry.check_device(%s)"
TENANT = "SELECT registry.tenant_enabled(%s)"


@dataclass(frozen=True, slots=True)
class Token:
    """A token that is good, or why it is not: `refused` is the sentence, or '' where it is not known."""

    holder: str | None
    """Its id."""
    name: str
    tenant: str | None
    """None: it administrates the platform."""
    role: str
    scopes: list[str]
    refused: str | None
    valid_s: float | None


@dataclass(frozen=True, slots=True)
class Key:
    """A device's key, likewise."""

    holder: str | None
    """The device."""
    tenant: str | None
    refused: str | None
    valid_s: float | None


@dataclass(frozen=True, slots=True)
class Device:
    """Whose a device is; `tenant` None where there is none of this name."""

    tenant: str | None
    gateway: str | None
    """The device that speaks for it."""
    refused: str | None


async def token(database: Database, hashed: bytes) -> Token:
    """Whose token has this SHA-256. Raises Transient."""
    async with database.transaction() as connection, connection.cursor(row_factory=class_row(Token)) as cursor:
        found = await (await cursor.execute(TOKEN, (hashed,))).fetchone()
    return found or Token(None, "", None, "", [], "", None)


async def key(database: Database, device: str, hashed: bytes) -> Key:
    """Whether this is the SHA-256 of a secret of the device. Raises Transient."""
    async with database.transaction() as connection, connection.cursor(row_factory=class_row(Key)) as cursor:
        found = await (await cursor.execute(KEY, (device, hashed))).fetchone()
    return found or Key(None, None, "", None)


async def device(database: Database, name: str) -> Device:
    """Whose device this is. Raises Transient."""
    async with database.transaction() as connection, connection.cursor(row_factory=class_row(Device)) as cursor:
        found = await (await cursor.execute(DEVICE, (name,))).fetchone()
    return found or Device(None, None, None)


async def tenant_exists(database: Database, tenant: str) -> bool:
    """True for a tenant that is not disabled. Raises Transient."""
    async with database.transaction() as connection:
        row = await (await connection.execute(TENANT, (tenant,))).fetchone()
    return bool(row and row[0])
