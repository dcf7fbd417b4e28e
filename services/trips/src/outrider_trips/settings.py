"""Settings of trips."""

from __future__ import annotations

from pydantic import Field

from outrider.runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """What trips reads from the environment beside the settings of every service."""

    trips_slots: int = Field(
        4,
        ge=1,
        le=256,
        description="Slots of the group: slot k of n reads the shards k, k+n, k+2n … of the bus. To change it later, set it and "
        "run `outrider slots trips`.",
    )
    trips_batch_max_messages: int = Field(
        64, ge=1, description="Bus batches in one transaction; more is faster under load and redone when one fails."
    )
    trips_batch_max_age_s: float = Field(
        0.2, ge=0, description="Longest wait to fill a transaction; longer is cheaper, and trips are seen later."
    )
    trips_workers: int = Field(
        2,
        ge=1,
        le=32,
        description="Vehicles segmented at once by a replica; more than two help only several replicas' cores.",
    )
    trips_interval_min_s: float = Field(
        1.0, ge=0, description="A vehicle's open trip is segmented again after this long at the earliest."
    )
    trips_interval_max_s: float = Field(
        8.0,
        ge=0,
        description="And after this long at the latest, however much work it is, once rows came that change what it shows.",
    )
    trips_refresh_s: float = Field(
        30.0,
        ge=0,
        le=300,
        description="Rows by which a vehicle only goes on as before (drives, or stands) are segmented after this long, ten times "
        "this long when its trip is over. Rows that change that are at once.",
    )
    trips_settle_s: float = Field(
        10.0,
        ge=0,
        description="While data of a vehicle comes at shorter pauses than this, its trips' clock is that of the data: "
        "a backlog that is being sent ends no trip in the middle.",
    )
    trips_window_max_rows: int = Field(
        1_000_000,
        ge=1_000,
        description="Most rows segmented at once; a window that would be larger is cut there, and counted.",
    )
