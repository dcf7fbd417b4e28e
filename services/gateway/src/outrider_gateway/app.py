"""HTTP for devices that have no MQTT, and the query API."""

from __future__ import annotations

from outrider.runtime.service import Chassis, Service
from outrider_gateway.settings import Settings

GROUP = "gateway"


async def build(chassis: Chassis[Settings]) -> None:
    """Wire the service."""


service = Service(GROUP, Settings, build, __doc__ or "")
