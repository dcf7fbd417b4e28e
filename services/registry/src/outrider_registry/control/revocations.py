"""The broker's revocation list follows the database."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from outrider.access import authority
from outrider.runtime.errors import Transient
from outrider_registry.context import Registry
from outrider_registry.leader import Changes, Duty
from outrider_registry.store import certificates
from outrider_registry.store.transactions import of_platform

log = logging.getLogger(__name__)

INTERVAL_S = 3600.0


def duties(registry: Registry) -> list[Duty]:
    """What the leader does about revoked certificates: nothing where the broker's folder is not within reach."""
    folder = registry.settings.tls_folder
    if folder is None:
        return []
    return [("revocations", ("revocation",), lambda changes: _follow(registry, folder, changes))]


async def _follow(registry: Registry, folder: Path, changes: Changes) -> None:
    while True:
        await changes.take(INTERVAL_S, settle_s=0.2)
        # Crosses tenants: the broker has one list.
        async with of_platform(registry.database) as connection:
            await certificates.forget_expired(connection)
            revoked = await certificates.revoked(connection)
        try:
            changed = await asyncio.to_thread(authority.write_revocation_lists, folder, registry.keys, revoked)
        except OSError as error:
            raise Transient(f"{folder / authority.CRL_FILE} cannot be written: {error.strerror}") from error
        if changed:
            log.info("revocations_written", extra={"rows": len(revoked)})
