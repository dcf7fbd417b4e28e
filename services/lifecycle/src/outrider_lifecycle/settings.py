"""Settings of lifecycle."""

from __future__ import annotations

from pydantic import Field

from outrider.runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """What lifecycle reads from the environment beside the settings of every service."""

    rollup_grace_s: float = Field(
        30.0,
        ge=0,
        description="Five minutes are rolled up so long after their end; longer spares a second time for what comes late.",
    )
    rollup_step_series: int = Field(
        20_000,
        ge=100,
        description="Five minutes of one series in one transaction of the rollups; more is a little cheaper.",
    )
    retention_interval_s: float = Field(
        3600.0,
        gt=0,
        description="How often it is looked for rows whose time is over; they are kept by whole days (UTC).",
    )
    partitions_ahead_days: int = Field(
        7, ge=1, le=60, description="Partitions are made so many days before they are needed."
    )
