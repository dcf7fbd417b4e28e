"""Registers devices straight in the database, as many as a harness needs, faster than any API; the registry tells the broker."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg

from outrider.access.keys import KeyRing, verifier
from outrider.access.secrets import device_secret

ALL_TENANTS = "SELECT set_config('outrider.tenant', '*', true)"
TENANT = "INSERT INTO registry.tenant (name) VALUES (%s) ON CONFLICT DO NOTHING"
DEVICES = "INSERT INTO registry.device (id, tenant) SELECT unnest(%s::text[]), %s ON CONFLICT DO NOTHING"
CREDENTIALS = """
INSERT INTO registry.credential (device, generation, tenant, kind, state, key_id, verifier, rotates_at, confirmed_at)
SELECT device, 1, %s, 'secret', 'active', %s, verifier, now() + interval '90 days', now()
FROM unnest(%s::text[], %s::bytea[]) AS n (device, verifier) ON CONFLICT DO NOTHING
"""


def register(database_url: str, keys: KeyRing, tenant: str, devices: Sequence[str]) -> dict[str, str]:
    """Registers devices of a tenant with a first secret each, unless they are; device → secret."""
    secrets = {device: device_secret(keys, device, 1) for device in devices}
    verifiers = [verifier(secret) for secret in secrets.values()]
    with psycopg.connect(
        database_url, connect_timeout=10, options="-c default_transaction_read_only=off"
    ) as connection:
        connection.execute(ALL_TENANTS)
        connection.execute(TENANT, (tenant,))
        connection.execute(DEVICES, (list(secrets), tenant))
        connection.execute(CREDENTIALS, (tenant, keys.newest, list(secrets), verifiers))
    return secrets


def login(url: str, device: str, secret: str) -> str:
    """The address of the devices' door with a device's login."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{device}:{quote(secret, safe='')}@{parts.netloc.rpartition('@')[2]}"))
