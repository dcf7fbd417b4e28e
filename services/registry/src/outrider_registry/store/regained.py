"""Secrets that the broker knows and the database has forgotten, because a backup was restored or the last commits were lost.

The broker is told of a secret only after it is committed as active. So where it has one that never was here, or was never
confirmed, that is what the device has: without it, nothing else would let the device in.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import psycopg

from outrider.access.keys import KeyRing, verifier
from outrider_registry.store import audit, credentials
from outrider_registry.store.credentials import Secret

# A generation that ended here, or lies behind one that did, is no forgotten one.
FORGOTTEN = """
SELECT new.device, new.generation FROM unnest(%s::text[], %s::integer[]) AS new (device, generation)
WHERE new.generation >= registry.next_generation(new.device) OR EXISTS (
    SELECT FROM registry.credential c WHERE c.device = new.device AND c.generation = new.generation
    AND c.kind = 'secret' AND c.state = 'delivered')
"""
REPLACE = """
UPDATE registry.credential c SET state = 'replaced', grace_until = NULL
FROM unnest(%s::text[], %s::integer[]) AS new (device, generation)
WHERE c.device = new.device AND c.generation <> new.generation AND c.kind = 'secret' AND c.state IN ('active', 'delivered')
"""
STORE = """
INSERT INTO registry.credential (device, generation, tenant, kind, state, key_id, verifier, rotates_at, confirmed_at)
SELECT device, generation, tenant, 'secret', 'active', key_id, verifier, now() + %(age)s, now()
FROM unnest(%(devices)s::text[], %(generations)s::integer[], %(tenants)s::text[], %(key_ids)s::text[], %(verifiers)s::bytea[])
     AS new (device, generation, tenant, key_id, verifier)
ON CONFLICT (device, generation) DO UPDATE
SET state = 'active', key_id = EXCLUDED.key_id, verifier = EXCLUDED.verifier, confirmed_at = now()
"""


async def take(
    connection: psycopg.AsyncConnection, keys: KeyRing, secrets: Sequence[Secret], rotation_days: float
) -> list[Secret]:
    """Make those of these secrets active again that the database has forgotten; returns them. The broker has all of them.

    In a transaction of the platform.
    """
    tenants = {row.id: row.tenant for row in await credentials.lock_all(connection, [s.device for s in secrets])}
    known = [secret for secret in secrets if secret.device in tenants]
    columns = [secret.device for secret in known], [secret.generation for secret in known]
    forgotten = set(await (await connection.execute(FORGOTTEN, columns)).fetchall())
    regained = [secret for secret in known if (secret.device, secret.generation) in forgotten]
    if regained:
        columns = [secret.device for secret in regained], [secret.generation for secret in regained]
        await connection.execute(REPLACE, columns)
        await connection.execute(
            STORE,
            {
                "age": timedelta(days=rotation_days),
                "devices": columns[0],
                "generations": columns[1],
                "tenants": [tenants[secret.device] for secret in regained],
                "key_ids": [secret.key_id for secret in regained],
                "verifiers": [verifier(secret.of(keys)) for secret in regained],
            },
        )
    for secret in regained:
        noted, object_ = {"generation": secret.generation}, f"device:{secret.device}"
        await audit.append(connection, tenants[secret.device], "registry", "credential.regain", object_, noted)
    return regained
