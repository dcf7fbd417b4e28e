"""Rollups, retention, archive, erasure and the size of the stores."""

from __future__ import annotations

from outrider.runtime.service import Chassis, Service
from outrider_lifecycle.settings import Settings

GROUP = "lifecycle"


async def build(chassis: Chassis[Settings]) -> None:
    """Wire the service."""


service = Service(GROUP, Settings, build, __doc__ or "")
