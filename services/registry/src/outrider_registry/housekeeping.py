"""What has expired is deleted now and then: sessions, links, attempts, kept answers. The leader does it."""

from __future__ import annotations

import logging

from outrider_registry.context import Registry
from outrider_registry.leader import Changes, Duty
from outrider_registry.store.transactions import of_platform

log = logging.getLogger(__name__)

INTERVAL_S = 600.0
EXPIRED = {
    "sessions": "DELETE FROM registry.session WHERE expires_at < now()",
    "links": "DELETE FROM registry.sign_in_link WHERE expires_at < now() - interval '7 days'",
    "tokens": "DELETE FROM registry.token WHERE least(expires_at, revoked_at) < now() - interval '90 days'",
    "attempts": "DELETE FROM registry.attempt WHERE at < now() - interval '1 day'",
    "answers": "DELETE FROM registry.idempotency WHERE created_at < now() - interval '1 day'",
}


async def tidy(registry: Registry) -> dict[str, int]:
    """Delete what has expired; returns how much of what. Raises Transient."""
    async with of_platform(registry.database) as connection:
        return {what: (await connection.execute(query.encode())).rowcount for what, query in EXPIRED.items()}


def duties(registry: Registry) -> list[Duty]:
    """Tidy every ten minutes."""

    async def work(changes: Changes) -> None:
        while True:
            await changes.take(INTERVAL_S)
            deleted = await tidy(registry)
            if any(deleted.values()):
                log.info("tidied", extra=deleted)

    return [("housekeeping", (), work)]
