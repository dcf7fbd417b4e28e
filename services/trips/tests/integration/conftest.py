"""The parts of the service on a database of the module."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from outrider.testing.fixtures import Database, clone_of
from outrider_trips.settings import Settings
from outrider_trips.testing import CrashingPool, Fleet


@pytest.fixture(scope="module")
def shared(migrated: Database) -> Iterator[Database]:
    """One database for a module: each test has devices of its own."""
    with clone_of(migrated) as database:
        database.rows("SELECT runtime.declare_slots('trips', 4)")
        yield database


@pytest.fixture
async def fleet(shared: Database) -> AsyncIterator[Fleet]:
    """The parts of the service, in the shared database, with its own role."""
    shared.rows("DELETE FROM trips.progress")  # each test has its own clock
    pool = CrashingPool(shared.service_urls["trips"], "trips-test")
    await pool.open()
    try:
        settings = Settings(trips_interval_min_s=0, trips_interval_max_s=0, trips_refresh_s=0)  # type: ignore[call-arg]
        yield Fleet(shared, pool, settings)
    finally:
        await pool.close()
