"""Erasing comes back for what was on its way, also where that is all there is left of a device."""

from __future__ import annotations

from outrider.testing.fixtures import Database
from outrider_lifecycle.context import Lifecycle
from outrider_lifecycle.erase import Eraser

BEGUN = """
INSERT INTO lifecycle.erasure (tenant, kind, subject, tombstone, requested_at)
VALUES ('acme', 'device', 'van', false, now() - interval '1 hour')
"""


async def test_samples_stored_after_their_series_went_are_erased(lifecycle: Lifecycle, database: Database) -> None:
    """By a writer whose transaction began before the erasure: nothing but an id tells whose they are."""
    series = database.value(
        "INSERT INTO telemetry.series (tenant, device, metric, kind) VALUES ('acme', 'van', 'n', 'number') RETURNING id"
    )
    store = "INSERT INTO telemetry.sample VALUES (%s, '2026-03-01', 1)"
    database.rows(BEGUN)
    eraser = Eraser(lifecycle, None)
    database.rows(store, series)
    await eraser.run()
    assert database.value("SELECT count(*) FROM telemetry.series") == 0
    database.rows(store, series)
    while database.value("SELECT state FROM lifecycle.erasure") != "done":
        await eraser.run()
    assert database.value("SELECT count(*) FROM telemetry.sample") == 0
    assert database.value("SELECT report #>> '{telemetry,sample}' FROM lifecycle.erasure") == "2"
