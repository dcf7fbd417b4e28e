"""Certificates of devices: signed on request, renewed by a new one, revoked."""

from __future__ import annotations

from datetime import datetime

import psycopg

from outrider.access.authority import RENEW_BEFORE, Authority, BadRequest, Issued, Request
from outrider.access.keys import KeyRing, verifier
from outrider_registry.errors import Invalid
from outrider_registry.store.credentials import Device

# The certificate that is renewed stays good until it ends: a device may be away when the new one is made.
REPLACE = (
    "UPDATE registry.credential SET state = 'replaced' WHERE device = %s AND kind = 'certificate' AND state = 'active'"
)
INSERT = """
INSERT INTO registry.credential
    (device, generation, tenant, kind, state, key_id, verifier, serial, certificate, expires_at, rotates_at)
SELECT %(device)s, registry.next_generation(%(device)s), %(tenant)s, 'certificate', 'active', %(key_id)s, %(verifier)s,
       %(serial)s, %(certificate)s, %(expires_at)s, %(rotates_at)s
RETURNING generation
"""
REVOKED = "SELECT serial, revoked_at FROM registry.revoked_certificate WHERE expires_at > now() ORDER BY serial"
FORGET = "DELETE FROM registry.revoked_certificate WHERE expires_at < now() - interval '7 days'"
OF_GENERATION = "SELECT certificate FROM registry.credential WHERE device = %s AND generation = %s"


async def issue(
    connection: psycopg.AsyncConnection, keys: KeyRing, device: Device, request: Request
) -> tuple[int, Issued]:
    """(generation, certificate) for a device that the caller has locked. Raises Invalid where the request is for another one."""
    authority = Authority(keys)
    try:
        issued = authority.issue_device(request, device.id)
    except BadRequest as error:
        raise Invalid(str(error)) from None
    await connection.execute(REPLACE, (device.id,))
    cursor = await connection.execute(
        INSERT,
        {
            "device": device.id,
            "tenant": device.tenant,
            "key_id": authority.key_id,
            "verifier": verifier(issued.der),
            "serial": issued.serial,
            "certificate": issued.pem,
            "expires_at": issued.expires_at,
            "rotates_at": issued.expires_at - RENEW_BEFORE,
        },
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0]), issued


async def of_generation(connection: psycopg.AsyncConnection, device: str, generation: int) -> str | None:
    """The certificate (PEM) of this generation; None where it is a secret, or not there."""
    row = await (await connection.execute(OF_GENERATION, (device, generation))).fetchone()
    return row[0] if row else None


async def revoked(connection: psycopg.AsyncConnection) -> list[tuple[str, datetime]]:
    """(serial number in hex, when) of all that are revoked and have not expired. In a transaction of the platform."""
    return await (await connection.execute(REVOKED)).fetchall()


async def forget_expired(connection: psycopg.AsyncConnection) -> None:
    """Drop what has been over for a week: an expired certificate is refused without any list."""
    await connection.execute(FORGET)
