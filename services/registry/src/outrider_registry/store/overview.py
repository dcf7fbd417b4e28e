"""The fleet in figures."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg

from outrider_registry.store import trips
from outrider_registry.store.rows import many, one, value
from outrider_registry.store.views import available

DEVICES: LiteralString = """
SELECT count(*) AS devices,
       count(*) FILTER (WHERE p.state = 'online') AS online,
       count(*) FILTER (WHERE p.state = 'offline') AS offline,
       count(*) FILTER (WHERE coalesce(p.state, 'unknown') = 'unknown') AS unknown,
       count(*) FILTER (WHERE d.status = 'disabled') AS disabled,
       count(*) FILTER (WHERE d.status = 'pending') AS pending
FROM registry.device d LEFT JOIN registry.presence p ON p.device = d.id
WHERE d.tenant = current_setting('outrider.tenant')
"""
COMMANDS: LiteralString = """
SELECT count(*) FROM registry.command WHERE tenant = current_setting('outrider.tenant') AND finished_at IS NULL
"""
REJECTED: LiteralString = """
SELECT count(*) FROM rejected.tenant_message
WHERE tenant = current_setting('outrider.tenant') AND rejected_at >= now() - interval '24 hours'
"""
GAPS: dict[str, LiteralString] = {
    "telemetry.tenant_sequence": """
SELECT count(*) FROM telemetry.tenant_sequence WHERE tenant = current_setting('outrider.tenant') AND missing > 0
""",
    "logs.tenant_sequence": """
SELECT count(*) FROM logs.tenant_sequence WHERE tenant = current_setting('outrider.tenant') AND missing > 0
""",
}
STOP: LiteralString = """
SELECT tenant = '*' AS everything, reason, stopped_by, stopped_at FROM registry.emergency_stop
WHERE tenant IN ('*', current_setting('outrider.tenant')) ORDER BY tenant LIMIT 1
"""


async def overview(connection: psycopg.AsyncConnection) -> dict[str, Any]:
    """Devices by presence and status, what was rejected in a day, streams with gaps, open commands and trips, the stop."""
    figures: dict[str, Any] = (await many(connection, DEVICES))[0]
    figures["open_commands"] = await value(connection, COMMANDS)
    figures["rejected_24h"] = await value(connection, REJECTED)
    figures["gaps"] = 0
    for view, statement in GAPS.items():
        if await available(connection, view):
            figures["gaps"] += await value(connection, statement)
    figures["open_trips"] = await trips.open_count(connection)
    figures["stop"] = await one(connection, STOP)
    return figures
