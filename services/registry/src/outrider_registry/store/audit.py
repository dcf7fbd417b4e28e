"""The audit: append-only, one hash chain per tenant. Rows go in through `registry.audit_append` only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from outrider_registry.store.rows import Row, many, one, value

PLATFORM = "-"
"""The platform's own chain."""
LIST = """
SELECT number, at, actor, action, object, detail, address, encode(hash, 'hex') AS hash
FROM registry.audit
WHERE tenant = %(chain)s AND number < coalesce(%(before)s::bigint, 9223372036854775807)
  AND (%(object)s::text IS NULL OR object = %(object)s) AND (%(actor)s::text IS NULL OR actor = %(actor)s)
  AND (%(action)s::text IS NULL OR action = %(action)s OR (right(%(action)s, 1) = '.' AND starts_with(action, %(action)s)))
ORDER BY number DESC LIMIT %(limit)s
"""
# A page of the chain: each line must have the number and carry the hash that the one before it gives, and hash to its own.
CHECK = """
WITH line AS (
    SELECT a.*, row_number() OVER page + %(after)s AS expected, lag(hash, 1, %(hash)s) OVER page AS before
    FROM (SELECT * FROM registry.audit WHERE tenant = %(chain)s AND number > %(after)s ORDER BY number LIMIT %(limit)s) a
    WINDOW page AS (ORDER BY number)
)
SELECT count(*) AS checked, max(number) AS number, (array_agg(hash ORDER BY number DESC))[1] AS hash,
       min(least(number, expected)) FILTER (WHERE number <> expected OR previous <> before OR hash IS DISTINCT FROM
           registry.audit_hash(previous, tenant, number, at, actor, action, object, detail, address)) AS first_bad
FROM line
"""
HEAD = "SELECT number, hash FROM registry.audit_head WHERE tenant = %s"
HASH_OF = "SELECT hash FROM registry.audit WHERE tenant = %s AND number = %s"
PAGE = 20_000
APPEND = "SELECT registry.audit_append(%s, %s, %s, %s, %s, %s)"


async def append(
    connection: psycopg.AsyncConnection,
    tenant: str | None,
    actor: str,
    action: str,
    object_: str,
    detail: dict[str, Any] | None = None,
    address: str = "",
) -> None:
    """Note who did what, in the transaction that does it. `tenant` None: the platform. Never put a secret into `detail`.

    Writers of one tenant wait for each other from here to their commit: call it last.
    """
    await connection.execute(APPEND, (tenant or PLATFORM, actor, action, object_, Jsonb(detail or {}), address))


@dataclass(frozen=True, slots=True)
class Verified:
    """What verifying a chain found."""

    checked: int
    number: int
    """The newest line's; 0: there is none."""
    hash: bytes
    first_bad: int | None


async def listed(
    connection: psycopg.AsyncConnection,
    chain: str,
    *,
    before: int | None,
    limit: int,
    object_: str | None = None,
    actor: str | None = None,
    action: str | None = None,
) -> list[Row]:
    """Lines of a chain, the newest first; an `action` that ends with a dot is the beginning of one."""
    return await many(
        connection,
        LIST,
        {"chain": chain, "before": before, "limit": limit, "object": object_, "actor": actor, "action": action},
    )


async def verify(connection: psycopg.AsyncConnection, chain: str, noted: tuple[int, bytes] | None = None) -> Verified:
    """Recompute a chain. `noted`: number and hash of a line that somebody kept elsewhere."""
    head = await one(connection, HEAD, (chain,)) or {"number": 0, "hash": b""}
    checked, number, hash_, first_bad = 0, 0, b"", None
    while True:
        page = await one(connection, CHECK, {"chain": chain, "after": number, "hash": hash_, "limit": PAGE})
        if page is None or page["checked"] == 0:
            break
        checked += page["checked"]
        number, hash_ = page["number"], page["hash"]
        if first_bad is None:
            first_bad = page["first_bad"]
        if page["checked"] < PAGE:
            break
    if first_bad is None and number < head["number"]:
        first_bad = number + 1  # the end was cut off
    if noted is not None:
        kept = await value(connection, HASH_OF, (chain, noted[0]))
        if kept != noted[1]:
            first_bad = min(noted[0], noted[0] if first_bad is None else first_bad)
    return Verified(checked, number, hash_, first_bad)
