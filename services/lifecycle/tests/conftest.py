"""A lifecycle that works on a test's database, without a broker and without waiting for a lease."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from outrider.runtime.database import Database as Pool
from outrider.runtime.session import Publisher
from outrider.testing.fixtures import Database
from outrider_lifecycle.context import GROUP, Lifecycle
from outrider_lifecycle.settings import Settings

MakeLifecycle = Callable[..., Awaitable[Lifecycle]]
LEASE = """
INSERT INTO runtime.slot (group_name, slot, holder, epoch, heartbeat_at) VALUES (%s, 0, %s, 1, now())
ON CONFLICT (group_name, slot) DO UPDATE SET holder = excluded.holder
"""


@contextlib.asynccontextmanager
async def working(database: Database, name: str = "lifecycle-test", **settings: Any) -> AsyncIterator[Lifecycle]:
    """A lifecycle of this name that holds the lease from now on."""
    pool = Pool(database.service_urls[GROUP], name)
    await pool.open()
    database.rows(LEASE, GROUP, name)
    try:
        # Nothing of these tests publishes; the publisher connects to nobody until it runs.
        yield Lifecycle(Settings(**settings), pool, Publisher("mqtt://127.0.0.1:1", "svc:lifecycle:test"))
    finally:
        await pool.close()


@pytest.fixture
async def lifecycle(database: Database) -> AsyncIterator[Lifecycle]:
    """It holds the lease; five minutes are closed as soon as they end."""
    async with working(database, rollup_grace_s=0.0) as made:
        yield made
