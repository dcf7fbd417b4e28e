"""What becomes of data with time: partitions made ahead, rollups, retention, archive, erasure, the size of the stores.

Each is a job; one replica at a time does them, another one takes over within seconds.
"""

from __future__ import annotations

from outrider.runtime.service import Chassis, Service
from outrider_lifecycle import archive, erase, partitions, retention, rollups, storage
from outrider_lifecycle.context import GROUP, Lifecycle
from outrider_lifecycle.jobs import Jobs
from outrider_lifecycle.settings import Settings


async def build(chassis: Chassis[Settings]) -> None:
    """Wire the service: settings → context → jobs, under one lease."""
    lifecycle = Lifecycle(chassis.settings, chassis.database, chassis.publisher)
    made = rollups.Rollups(lifecycle)
    kept = archive.configured(lifecycle)
    jobs = Jobs(
        lifecycle,
        [
            *partitions.jobs(lifecycle),
            *rollups.jobs(lifecycle, made),
            *retention.jobs(lifecycle, made),
            *(archive.jobs(kept) if kept else ()),
            *erase.jobs(lifecycle, kept),
            *storage.jobs(lifecycle),
        ],
    )
    chassis.health.checks[GROUP] = jobs.problem
    chassis.run_beside("jobs", jobs.run)


service = Service(GROUP, Settings, build, __doc__ or "")
