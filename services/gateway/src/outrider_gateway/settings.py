"""Settings of gateway."""

from __future__ import annotations

from outrider.runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """What gateway reads from the environment beside the settings of every service."""
