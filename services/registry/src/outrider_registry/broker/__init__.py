"""The broker's accounts, as a cache of the database: one replica compares and mends them without end."""

from __future__ import annotations

from outrider_registry.broker import file, reconcile
from outrider_registry.context import Registry
from outrider_registry.leader import Duty


def duties(registry: Registry) -> list[Duty]:
    """What the leader does about the broker."""
    found: list[Duty] = [("broker", reconcile.KINDS, lambda changes: reconcile.reconcile(registry, changes))]
    path = registry.settings.dynsec_file
    if path is not None:
        found.append(("broker-file", (), lambda changes: file.watch(registry, path, changes)))
    return found
