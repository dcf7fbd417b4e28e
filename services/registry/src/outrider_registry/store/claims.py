"""Claims as rows: tokens that each let one device in. What becomes of one is decided in `store.redemption`."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from outrider.access.keys import KeyRing
from outrider.access.secrets import claim_token
from outrider_registry.errors import Conflict, NotFound
from outrider_registry.store import devices
from outrider_registry.store.rows import many

_ID_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
COLUMNS = """
id, tenant, state, key_id, device, serial, template, approval, request, request_digest, used_by, generation, created_by,
created_at, expires_at, used_at, client_until, decided_by, refusals, expires_at <= now() AS over,
coalesce(now() < client_until, false) AS answers,
(SELECT t.disabled_at IS NOT NULL FROM registry.tenant t WHERE t.name = claim.tenant) AS closed
"""
INSERT = """
INSERT INTO registry.claim (id, tenant, key_id, device, serial, template, approval, created_by, expires_at)
SELECT id, %(tenant)s, %(key_id)s, %(device)s, %(serial)s, %(template)s, %(approval)s, %(by)s, now() + %(age)s
FROM unnest(%(ids)s::text[]) AS id RETURNING id, expires_at
"""
LIST = (
    "SELECT "
    + COLUMNS
    + """ FROM registry.claim WHERE tenant = current_setting('outrider.tenant')
AND (%(states)s::text[] IS NULL OR state = ANY(%(states)s)) AND (%(at)s::timestamptz IS NULL OR (created_at, id) < (%(at)s, %(id)s))
ORDER BY created_at DESC, id DESC LIMIT %(limit)s"""
)
GET = "SELECT " + COLUMNS + " FROM registry.claim WHERE id = %s"
LOCK = GET + " FOR UPDATE"
SET_REVOKED = "UPDATE registry.claim SET state = 'revoked', client_until = NULL, decided_by = %s WHERE id = %s"
EXPIRE = """
UPDATE registry.claim SET state = 'expired' WHERE id IN (
    SELECT id FROM registry.claim WHERE state IN ('open', 'awaiting_approval') AND expires_at <= now()
    ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED)
RETURNING id, tenant, used_by
"""
# Somebody may have made it a gateway meanwhile.
DELETE_PENDING = """
WITH gone AS (SELECT id FROM registry.device WHERE id = ANY(%s) AND status = 'pending' FOR UPDATE),
     freed AS (UPDATE registry.device SET gateway = NULL, version = version + 1, updated_at = now()
               WHERE gateway IN (SELECT id FROM gone))
DELETE FROM registry.device WHERE id IN (SELECT id FROM gone)
"""
# Seen connected after the claim was answered: it has its credential, so nobody needs to ask again.
SEEN = """
UPDATE registry.claim c SET client_until = now() FROM registry.presence p
WHERE p.device = c.used_by AND c.state = 'used' AND c.client_until > now() AND p.state = 'online' AND p.since > c.used_at
  AND (%(everything)s OR c.used_by = ANY(%(devices)s))
"""
REPLIED = "UPDATE registry.claim SET reply_due = false WHERE id = ANY(%s)"


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim as it is stored."""

    id: str
    tenant: str
    state: Literal["open", "awaiting_approval", "used", "refused", "revoked", "expired"]
    key_id: str
    device: str | None
    serial: str | None
    template: dict[str, Any]
    approval: bool
    request: dict[str, Any] | None
    request_digest: bytes | None
    used_by: str | None
    generation: int | None
    created_by: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    client_until: datetime | None
    decided_by: str
    refusals: int
    over: bool
    """Its time is over."""
    answers: bool
    """Decided, and the device may still ask what was decided."""
    closed: bool
    """Its tenant is disabled."""

    def token(self, keys: KeyRing) -> str:
        """What a device shows. Raises UnknownKey."""
        return claim_token(keys, self.id, self.key_id)


async def create(
    connection: psycopg.AsyncConnection,
    keys: KeyRing,
    tenant: str,
    *,
    by: str,
    hours: float,
    count: int = 1,
    device: str | None = None,
    serial: str | None = None,
    approval: bool = False,
    template: dict[str, Any] | None = None,
) -> list[tuple[str, str, datetime]]:
    """(id, token, end) of `count` new claims, in one statement. Raises Conflict where `device` cannot be enrolled (again)."""
    if device is not None:
        row = await devices.lock(connection, device)
        if row is not None and row["gateway"] is not None:
            raise Conflict(f"{device} is behind the gateway {row['gateway']}, which speaks for it: it needs no claim.")
        if row is not None and row["status"] == "disabled":
            raise Conflict(f"{device} is disabled. Enable it first.")
    cursor = await connection.execute(
        INSERT,
        {
            "tenant": tenant,
            "key_id": keys.newest,
            "device": device,
            "serial": serial,
            "template": Jsonb(template or {}),
            "approval": approval,
            "by": by,
            "age": timedelta(hours=hours),
            "ids": [new_id(12) for _ in range(count)],
        },
    )
    return [(id_, claim_token(keys, id_), expires_at) for id_, expires_at in await cursor.fetchall()]


async def page(
    connection: psycopg.AsyncConnection, states: Sequence[str] | None, after: tuple[str, str] | None, limit: int
) -> list[Claim]:
    """The tenant's claims, the newest first."""
    values = {"states": states, "at": after[0] if after else None, "id": after[1] if after else None, "limit": limit}
    async with connection.cursor(row_factory=class_row(Claim)) as cursor:
        return await (await cursor.execute(LIST, values)).fetchall()


async def get(connection: psycopg.AsyncConnection, claim: str) -> Claim | None:
    """One claim."""
    async with connection.cursor(row_factory=class_row(Claim)) as cursor:
        return await (await cursor.execute(GET, (claim,))).fetchone()


async def revoke(connection: psycopg.AsyncConnection, claim_id: str, by: str) -> Claim:
    """Take a claim back. The device it became, if it did, stays. Raises NotFound, Conflict where it is not open any more."""
    claim = await locked(connection, claim_id)
    if claim is None:
        raise NotFound(f"There is no claim {claim_id}.")
    if claim.state not in ("open", "awaiting_approval"):
        raise Conflict(f"The claim is {claim.state} already." + about_device(claim))
    await connection.execute(SET_REVOKED, (by, claim.id))
    await connection.execute(DELETE_PENDING, ([claim.used_by],))
    return claim


async def expire(connection: psycopg.AsyncConnection, limit: int) -> list[tuple[str, str]]:
    """Expire up to `limit` claims whose time is over, with the devices that still waited; returns (claim, tenant)."""
    rows = await many(connection, EXPIRE, (limit,))
    await connection.execute(DELETE_PENDING, ([row["used_by"] for row in rows if row["used_by"]],))
    return [(row["id"], row["tenant"]) for row in rows]


async def note_seen(connection: psycopg.AsyncConnection, seen: Sequence[str] | None) -> None:
    """Of these devices (None: all) those that are online have their credential: their claims answer no more."""
    await connection.execute(SEEN, {"everything": seen is None, "devices": list(seen or ())})


async def replied(connection: psycopg.AsyncConnection, claim_ids: Sequence[str]) -> None:
    """Their devices were told."""
    await connection.execute(REPLIED, (list(claim_ids),))


async def locked(connection: psycopg.AsyncConnection, claim_id: str) -> Claim | None:
    """One claim, held until the transaction ends."""
    async with connection.cursor(row_factory=class_row(Claim)) as cursor:
        return await (await cursor.execute(LOCK, (claim_id,))).fetchone()


def about_device(claim: Claim) -> str:
    """What to do instead, where a device came of the claim."""
    return f" The device it became is {claim.used_by}: disable that." if claim.state == "used" and claim.used_by else ""


def new_id(characters: int, prefix: str = "") -> str:
    """A random id."""
    return prefix + "".join(secrets.choice(_ID_ALPHABET) for _ in range(characters))
