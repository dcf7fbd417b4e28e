"""People's accounts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import class_row

from outrider_registry.principals import Role

_COLUMNS = """
SELECT a.id, a.tenant, a.name, a.role, a.password_hash, a.totp_generation, a.totp_key_id, a.totp_confirmed_at,
       a.totp_last_step, a.mqtt_generation, a.mqtt_key_id, a.mqtt_issued, a.created_at, a.password_changed_at,
       a.disabled_at, a.version, (SELECT max(s.seen_at) FROM registry.session s WHERE s.account = a.id) AS seen_at,
       t.disabled_at IS NOT NULL AS tenant_disabled
FROM registry.account a LEFT JOIN registry.tenant t ON t.name = a.tenant
"""
BY_NAME = _COLUMNS + "WHERE a.name = %s"
BY_ID = _COLUMNS + "WHERE a.id = %s"
LOCKED = " FOR UPDATE OF a"
LIST = (
    _COLUMNS
    + """
WHERE (%(after)s::text IS NULL OR a.name > %(after)s) AND (%(q)s::text IS NULL OR strpos(a.name, %(q)s) > 0)
  AND (NOT %(platform)s OR a.tenant IS NULL)
ORDER BY a.name LIMIT %(limit)s
"""
)
ADD = "INSERT INTO registry.account (tenant, name, role) VALUES (%s, %s, %s) RETURNING id"
CHANGE = """
UPDATE registry.account SET role = %(role)s, version = version + 1,
    disabled_at = CASE WHEN %(disabled)s THEN coalesce(disabled_at, now()) END WHERE id = %(id)s
"""
REMOVE = "DELETE FROM registry.account WHERE id = %s"
# Whoever takes an administrator away first takes this lock, so that two cannot take the last two away at once.
LOCK_ADMINISTRATORS = "SELECT pg_advisory_xact_lock(hashtextextended('outrider administrators ' || %s, 0))"
OTHER_ADMINISTRATORS = """
SELECT count(*) FROM registry.account
WHERE tenant IS NOT DISTINCT FROM %s AND role = 'admin' AND disabled_at IS NULL AND id <> %s
"""
SET_PASSWORD = """
UPDATE registry.account SET password_hash = %s, password_changed_at = now(), version = version + 1 WHERE id = %s
"""
REHASH = "UPDATE registry.account SET password_hash = %s WHERE id = %s AND password_hash = %s"
BEGIN_TOTP = """
UPDATE registry.account SET totp_generation = totp_generation + 1, totp_key_id = %s, totp_last_step = 0, version = version + 1
WHERE id = %s AND totp_confirmed_at IS NULL RETURNING totp_generation
"""
USE_TOTP_STEP = "UPDATE registry.account SET totp_last_step = %(step)s WHERE id = %(id)s AND totp_last_step < %(step)s"
CONFIRM_TOTP = "UPDATE registry.account SET totp_confirmed_at = now(), version = version + 1 WHERE id = %s"
END_TOTP = "UPDATE registry.account SET totp_confirmed_at = NULL, version = version + 1 WHERE id = %s"
ISSUE_BROKER_LOGIN = """
UPDATE registry.account SET mqtt_issued = mqtt_issued + 1, mqtt_generation = mqtt_issued + 1, mqtt_key_id = %s,
    version = version + 1 WHERE id = %s RETURNING mqtt_generation
"""
END_BROKER_LOGIN = """
UPDATE registry.account SET mqtt_generation = 0, mqtt_key_id = NULL, version = version + 1
WHERE id = %s AND mqtt_generation > 0
"""


@dataclass(frozen=True, slots=True)
class Account:
    """A person's account."""

    id: UUID
    tenant: str | None
    name: str
    role: Role
    password_hash: str | None
    totp_generation: int
    totp_key_id: str | None
    totp_confirmed_at: datetime | None
    totp_last_step: int
    mqtt_generation: int
    mqtt_key_id: str | None
    mqtt_issued: int
    created_at: datetime
    password_changed_at: datetime | None
    disabled_at: datetime | None
    version: int
    seen_at: datetime | None
    tenant_disabled: bool

    @property
    def has_totp(self) -> bool:
        """True if signing in takes a code."""
        return self.totp_confirmed_at is not None


async def by_name(connection: psycopg.AsyncConnection, name: str, *, lock: bool = False) -> Account | None:
    """The account of this name, if the transaction sees it."""
    return await _one(connection, BY_NAME + LOCKED if lock else BY_NAME, name)


async def by_id(connection: psycopg.AsyncConnection, id_: UUID, *, lock: bool = False) -> Account | None:
    """The account of this id, if the transaction sees it."""
    return await _one(connection, BY_ID + LOCKED if lock else BY_ID, id_)


async def listed(
    connection: psycopg.AsyncConnection, after: str | None, limit: int, q: str | None = None, *, platform: bool = False
) -> list[Account]:
    """Accounts by name; `q` is a part of it. `platform`: of administrators of the platform only."""
    async with connection.cursor(row_factory=class_row(Account)) as cursor:
        await cursor.execute(LIST, {"after": after, "limit": limit, "q": q, "platform": platform})
        return await cursor.fetchall()


async def add(connection: psycopg.AsyncConnection, tenant: str | None, name: str, role: Role) -> UUID:
    """A new account, which cannot sign in until it gets a link. Raises UniqueViolation."""
    row = await (await connection.execute(ADD, (tenant, name, role))).fetchone()
    assert row is not None
    id_: UUID = row[0]
    return id_


async def change(connection: psycopg.AsyncConnection, account: Account, role: Role, *, disabled: bool) -> None:
    """Another role, or disabled or enabled."""
    await connection.execute(CHANGE, {"id": account.id, "role": role, "disabled": disabled})


async def remove(connection: psycopg.AsyncConnection, account: Account) -> None:
    """Delete it, with its sessions, links and tokens."""
    await connection.execute(REMOVE, (account.id,))


async def other_administrators(connection: psycopg.AsyncConnection, account: Account) -> int:
    """How many administrators its tenant, or the platform, has without it; nobody can take one away until the
    transaction ends."""
    await connection.execute(LOCK_ADMINISTRATORS, (account.tenant or "*",))
    row = await (await connection.execute(OTHER_ADMINISTRATORS, (account.tenant, account.id))).fetchone()
    return int(row[0]) if row else 0


async def set_password(connection: psycopg.AsyncConnection, id_: UUID, hash_: str) -> None:
    """Another password."""
    await connection.execute(SET_PASSWORD, (hash_, id_))


async def rehash(connection: psycopg.AsyncConnection, account: Account, hash_: str) -> None:
    """The same password, hashed with today's parameters."""
    await connection.execute(REHASH, (hash_, account.id, account.password_hash))


async def begin_totp(connection: psycopg.AsyncConnection, id_: UUID, key_id: str) -> int | None:
    """A new secret for the second factor; returns its generation, None where one is in force."""
    row = await (await connection.execute(BEGIN_TOTP, (key_id, id_))).fetchone()
    return row[0] if row else None


async def use_totp_step(connection: psycopg.AsyncConnection, id_: UUID, step: int) -> bool:
    """True once for each step of a code, in growing order."""
    return (await connection.execute(USE_TOTP_STEP, {"id": id_, "step": step})).rowcount > 0


async def confirm_totp(connection: psycopg.AsyncConnection, id_: UUID) -> None:
    """From now on signing in takes a code."""
    await connection.execute(CONFIRM_TOTP, (id_,))


async def end_totp(connection: psycopg.AsyncConnection, id_: UUID) -> None:
    """Signing in takes no code any more."""
    await connection.execute(END_TOTP, (id_,))


async def issue_broker_login(connection: psycopg.AsyncConnection, id_: UUID, key_id: str) -> int:
    """A new generation of the password at the broker."""
    row = await (await connection.execute(ISSUE_BROKER_LOGIN, (key_id, id_))).fetchone()
    if row is None:
        raise LookupError(id_)
    return int(row[0])


async def end_broker_login(connection: psycopg.AsyncConnection, id_: UUID) -> bool:
    """No login at the broker; False where there was none."""
    return (await connection.execute(END_BROKER_LOGIN, (id_,))).rowcount > 0


async def _one(connection: psycopg.AsyncConnection, query: str, value: Any) -> Account | None:
    async with connection.cursor(row_factory=class_row(Account)) as cursor:
        return await (await cursor.execute(query.encode(), (value,))).fetchone()
