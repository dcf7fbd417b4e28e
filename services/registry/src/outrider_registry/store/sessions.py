"""Sessions of the console and one-time sign-in links. Only SHA-256 of their random values is stored."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import class_row, dict_row

from outrider_registry.principals import Role

FIND = """
SELECT s.account, a.name, a.tenant, a.role, s.acting_in, s.hash AS session, NULL::uuid AS token, NULL::text[] AS scopes,
       CASE WHEN a.disabled_at IS NOT NULL THEN 'This account is disabled. Ask an administrator.'
            WHEN t.disabled_at IS NOT NULL THEN 'The tenant is disabled. Ask an administrator of the platform.' END AS refused,
       s.seen_at < now() - interval '1 minute' AS stale
FROM registry.session s JOIN registry.account a ON a.id = s.account LEFT JOIN registry.tenant t ON t.name = a.tenant
WHERE s.hash = %s AND s.expires_at > now()
"""
SEEN = "UPDATE registry.session SET seen_at = now() WHERE hash = %s"
# An administrator of the platform begins in its only tenant, where there is just one.
BEGIN = """
INSERT INTO registry.session (hash, account, tenant, acting_in, expires_at, address, by_link)
SELECT %(hash)s, id, tenant, CASE WHEN tenant IS NULL THEN (SELECT max(name) FROM registry.tenant HAVING count(*) = 1) END,
       now() + %(hours)s * interval '1 hour', %(address)s, %(by_link)s
FROM registry.account WHERE id = %(account)s RETURNING coalesce(tenant, acting_in)
"""
END = "DELETE FROM registry.session WHERE hash = %s"
END_OTHERS = "DELETE FROM registry.session WHERE account = %s AND hash IS DISTINCT FROM %s"
ACT_IN = "UPDATE registry.session SET acting_in = %s WHERE hash = %s"
BY_LINK = "SELECT by_link FROM registry.session WHERE hash = %s"
NO_LONGER_BY_LINK = "UPDATE registry.session SET by_link = false WHERE hash = %s"

ADD_LINK = """
INSERT INTO registry.sign_in_link (hash, account, tenant, expires_at)
SELECT %s, id, tenant, now() + %s * interval '1 hour' FROM registry.account WHERE id = %s RETURNING expires_at
"""
FIND_LINK = """
SELECT l.account, l.used_at IS NOT NULL AS used, l.expires_at <= now() AS expired
FROM registry.sign_in_link l WHERE l.hash = %s FOR UPDATE
"""
USE_LINK = "UPDATE registry.sign_in_link SET used_at = now() WHERE hash = %s"
END_LINKS = "DELETE FROM registry.sign_in_link WHERE account = %s AND used_at IS NULL"


@dataclass(frozen=True, slots=True)
class Found:
    """Whose a session or a token is."""

    account: UUID
    name: str
    tenant: str | None
    role: Role
    acting_in: str | None
    session: bytes | None
    token: UUID | None
    scopes: frozenset[str] | None
    """A token's; None: all of the account's."""
    refused: str | None
    """Why it cannot be used now."""
    stale: bool
    """Its last use has not been noted for a minute."""

    def __post_init__(self) -> None:
        if self.scopes is not None:
            object.__setattr__(self, "scopes", frozenset(self.scopes))


async def find(connection: psycopg.AsyncConnection, hash_: bytes) -> Found | None:
    """Whose session this is; notes the use, at most once a minute. None for one that is unknown or over."""
    async with connection.cursor(row_factory=class_row(Found)) as cursor:
        found = await (await cursor.execute(FIND, (hash_,))).fetchone()
    if found is not None and found.stale:
        await connection.execute(SEEN, (hash_,))
    return found


async def begin(
    connection: psycopg.AsyncConnection, hash_: bytes, account: UUID, hours: float, address: str, *, by_link: bool
) -> str | None:
    """A new session of this account; returns the tenant it acts in."""
    arguments = {"hash": hash_, "account": account, "hours": hours, "address": address, "by_link": by_link}
    row = await (await connection.execute(BEGIN, arguments)).fetchone()
    return row[0] if row else None


async def end(connection: psycopg.AsyncConnection, hash_: bytes) -> None:
    """Sign out."""
    await connection.execute(END, (hash_,))


async def end_links(connection: psycopg.AsyncConnection, account: UUID) -> None:
    """End all unused links of an account."""
    await connection.execute(END_LINKS, (account,))


async def end_others(connection: psycopg.AsyncConnection, account: UUID, keep: bytes | None = None) -> int:
    """End all sessions and unused links of an account but one session; returns how many sessions that were."""
    await end_links(connection, account)
    return (await connection.execute(END_OTHERS, (account, keep))).rowcount


async def act_in(connection: psycopg.AsyncConnection, hash_: bytes, tenant: str | None) -> None:
    """The tenant a platform administrator looks at. Raises ForeignKeyViolation for none that exists."""
    await connection.execute(ACT_IN, (tenant, hash_))


async def is_by_link(connection: psycopg.AsyncConnection, hash_: bytes) -> bool:
    """True until a session that began with a one-time link has set a password."""
    row = await (await connection.execute(BY_LINK, (hash_,))).fetchone()
    return bool(row and row[0])


async def password_was_set(connection: psycopg.AsyncConnection, hash_: bytes) -> None:
    """From now on this session needs the current password to set another one."""
    await connection.execute(NO_LONGER_BY_LINK, (hash_,))


async def add_link(connection: psycopg.AsyncConnection, hash_: bytes, account: UUID, hours: float) -> datetime:
    """A link that signs this account in once; returns when it ends."""
    row = await (await connection.execute(ADD_LINK, (hash_, hours, account))).fetchone()
    if row is None:
        raise LookupError(account)
    expires_at: datetime = row[0]
    return expires_at


async def find_link(connection: psycopg.AsyncConnection, hash_: bytes) -> dict[str, Any] | None:
    """A link with `account`, `used` and `expired`, locked until the transaction ends."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        return await (await cursor.execute(FIND_LINK, (hash_,))).fetchone()


async def use_link(connection: psycopg.AsyncConnection, hash_: bytes) -> None:
    """It cannot be used again."""
    await connection.execute(USE_LINK, (hash_,))
