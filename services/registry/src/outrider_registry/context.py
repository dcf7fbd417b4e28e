"""What every part of the registry works with: built once in `app.py`, handed to API, console, control plane and broker."""

from __future__ import annotations

from dataclasses import dataclass

from outrider.access.keys import KeyRing
from outrider.runtime.database import Database
from outrider.runtime.session import Publisher
from outrider_registry.settings import Settings


@dataclass(frozen=True)
class Registry:
    """The running registry."""

    settings: Settings
    database: Database
    keys: KeyRing
    publisher: Publisher
    """Publishes as svc:registry."""
    url: str
    """Where people reach the console and the API, without a slash at the end."""
