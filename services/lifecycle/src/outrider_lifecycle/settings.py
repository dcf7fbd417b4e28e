"""Settings of lifecycle."""

from __future__ import annotations

from outrider.runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """What lifecycle reads from the environment beside the settings of every service."""
