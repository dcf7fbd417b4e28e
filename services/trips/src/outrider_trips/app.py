"""Positions become trips and stops."""

from __future__ import annotations

from outrider.runtime.service import Chassis, Service
from outrider_trips.settings import Settings

GROUP = "trips"


async def build(chassis: Chassis[Settings]) -> None:
    """Wire the service."""


service = Service(GROUP, Settings, build, __doc__ or "")
