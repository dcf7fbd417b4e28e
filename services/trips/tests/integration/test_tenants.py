"""What others may do with trips, what is taken away, and what is kept of it."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from outrider_trips.housekeeping import Housekeeping
from outrider_trips.testing import HOUR, MINUTE, T0, Fleet, drive

DAY = 24 * HOUR


async def driven(fleet: Fleet, device: str, rows: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """A drive, over."""
    rows = rows or drive(T0)
    await fleet.feed(device, rows)
    await fleet.clock(rows[-1]["ts"] + 3 * HOUR)
    await fleet.work()
    return rows


async def test_each_tenant_sees_its_own(fleet: Fleet) -> None:
    await driven(fleet, "seen")
    for view in ("tenant_trip", "tenant_position", "tenant_vehicle"):
        query = f"SELECT count(*) FROM trips.{view} WHERE device = 'seen'"
        assert fleet.call(query, tenant="demo") > 0, view
        assert fleet.call(query, tenant="*") > 0, view
        assert fleet.call(query, tenant="other") == 0, view
        assert fleet.call(query, tenant="") == 0, view
    (id_,) = fleet.database.rows("SELECT id FROM trips.trip WHERE device = 'seen'")[0]
    at = f"timestamptz 'epoch' + {T0 + MINUTE} * interval '1 millisecond'"
    with pytest.raises(psycopg.errors.RaiseException, match="There is no trip"):
        fleet.call(f"SELECT trips.tenant_edit_split(%s, {at}, 'x')", id_, tenant="other")


@pytest.mark.parametrize(("service", "may"), [("registry", True), ("gateway", False)])
async def test_only_the_registry_edits(fleet: Fleet, service: str, may: bool) -> None:
    with psycopg.connect(fleet.database.service_urls[service]) as connection:
        connection.execute("SELECT set_config('outrider.tenant', 'demo', true)")
        connection.execute("SELECT count(*) FROM trips.tenant_trip")
        error = psycopg.errors.RaiseException if may else psycopg.errors.InsufficientPrivilege
        with pytest.raises(error):
            connection.execute("SELECT trips.tenant_edit_merge('{}', 'user:ada')")


async def test_bad_edits_are_refused_in_words(fleet: Fleet) -> None:
    await driven(fleet, "one")
    await driven(fleet, "two")
    ids = [id_ for (id_,) in fleet.database.rows("SELECT id FROM trips.trip WHERE device IN ('one', 'two')")]
    for arguments, words in (
        ([ids], "of one device"),
        ([ids[:1]], "two or more"),
        ([[*ids, ids[0].__class__(int=1)]], "exist"),
    ):
        with pytest.raises(psycopg.errors.RaiseException, match=words):
            fleet.call("SELECT trips.tenant_edit_merge(%s, 'user:ada')", *arguments)
    with pytest.raises(psycopg.errors.RaiseException, match="lies between"):
        fleet.call("SELECT trips.tenant_edit_split(%s, now(), 'user:ada')", ids[0])
    with pytest.raises(psycopg.errors.RaiseException, match="no edit"):
        fleet.call("SELECT trips.tenant_edit_undo(%s, 'user:ada')", ids[0])


async def test_profile_of_type_and_tenant(fleet: Fleet) -> None:
    database = fleet.database
    await Housekeeping(fleet.pool, 4).tell_rules()
    database.rows("INSERT INTO registry.tenant (name) VALUES ('demo') ON CONFLICT DO NOTHING")
    database.rows(
        "INSERT INTO registry.device (id, tenant, type) VALUES ('slow', 'demo', 'tractor'), ('fast', 'demo', 'car')"
    )
    with pytest.raises(psycopg.errors.RaiseException, match=r"no rule micro_km; known are .*micro_m"):
        fleet.call("SELECT trips.tenant_put_profile('tractor', %s::jsonb)", json.dumps({"micro_km": 5}))
    fleet.call("SELECT trips.tenant_put_profile('tractor', %s::jsonb)", json.dumps({"micro_m": 99_000}))
    await driven(fleet, "slow")
    await driven(fleet, "fast")
    assert [fleet.trips(device)[0]["micro"] for device in ("slow", "fast")] == [True, False]

    # One that cannot be used is passed over, and says why.
    fleet.call("SELECT trips.tenant_put_profile('tractor', %s::jsonb)", json.dumps({"micro_m": -1}))
    assert fleet.call("SELECT trips.tenant_resegment('slow', 'epoch', now())") == 1
    await fleet.work()
    assert fleet.trips("slow")[0]["micro"] is False
    problem = fleet.call("SELECT problem FROM trips.tenant_profile WHERE type = 'tractor'")
    assert "micro_m" in problem
    fleet.call("SELECT trips.tenant_drop_profile('tractor')")
    database.rows("INSERT INTO trips.profile (rules) VALUES ('{}')")
    for tenant, count in (("demo", 1), ("other", 1), ("", 0)):
        assert fleet.call("SELECT count(*) FROM trips.tenant_profile", tenant=tenant) == count
    with pytest.raises(psycopg.errors.NotNullViolation):
        fleet.call("SELECT trips.tenant_put_profile('*', '{}')", tenant="")


async def test_erased_device_leaves_nothing_and_comes_not_back(fleet: Fleet) -> None:
    rows = await driven(fleet, "erase-me")
    counts = fleet.call("SELECT trips.erase_device('demo', 'erase-me')")
    assert counts == {"position": len(rows), "trip": 1, "edit": 0, "retained": 1}
    fleet.database.rows("INSERT INTO runtime.tombstone (device, tenant) VALUES ('erase-me', 'demo')")
    await driven(fleet, "erase-me", rows)
    for table in ("vehicle", "trip", "outbox"):
        assert fleet.call(f"SELECT count(*) FROM trips.{table} WHERE device = 'erase-me'") == 0
    again = fleet.call("SELECT trips.erase_device('demo', 'erase-me')")
    assert (again["position"], again["trip"]) == (0, 0)


async def test_removed_device_has_no_topic(fleet: Fleet) -> None:
    database, housekeeping = fleet.database, Housekeeping(fleet.pool, 4)
    database.rows("INSERT INTO registry.tenant (name) VALUES ('demo') ON CONFLICT DO NOTHING")
    database.rows("INSERT INTO registry.device (id, tenant) VALUES ('gone', 'demo')")
    await driven(fleet, "gone")
    await driven(fleet, "unknown-to-registry")
    await housekeeping.clear_removed()
    database.rows("DELETE FROM registry.device WHERE id = 'gone'")
    await housekeeping.clear_removed()
    query = "SELECT payload IS NULL FROM trips.retained WHERE device = %s"
    assert fleet.call(query, "gone") is True
    assert fleet.call(query, "unknown-to-registry") is False
    await driven(fleet, "gone", drive(T0 + 9 * HOUR))
    assert fleet.call(query, "gone") is True


async def test_device_without_evidence_costs_nothing(fleet: Fleet) -> None:
    await fleet.feed("sensor", [{"ts": T0 + n, "temp_c": 20.0, "humidity_pct": 40.0} for n in range(5)])
    assert fleet.call("SELECT count(*) FROM trips.vehicle WHERE device = 'sensor'") == 0
    await fleet.feed("fan", [{"ts": T0, "rpm": 900.0}])
    await fleet.work()
    assert fleet.call("SELECT moves FROM trips.vehicle WHERE device = 'fan'") is False
    assert fleet.trips("fan") == []


async def test_window_whose_positions_are_gone_is_frozen(fleet: Fleet) -> None:
    """Last of this file: what it drops is gone for the other tests too."""
    rows = [row for n in range(3) for row in drive(T0 + n * DAY)]
    hole = rows[20:40]
    await driven(fleet, "frozen", [row for row in rows if row not in hole])
    before = fleet.trips("frozen")
    horizon = f"date_trunc('day', timestamptz 'epoch' + {T0 + DAY} * interval '1 millisecond', 'UTC')"
    fleet.database.rows(f"SELECT runtime.raise_horizon('trips.position', 'demo', {horizon})")
    fleet.database.rows(f"DELETE FROM trips.position WHERE ts < {horizon}")
    await fleet.feed("frozen", hole, received_ms=T0 + 4 * DAY)
    await fleet.work()
    assert fleet.trips("frozen") == before
    assert fleet.call("SELECT frozen_rows FROM trips.vehicle WHERE device = 'frozen'") == len(hole)
    assert fleet.call("SELECT count(*) FROM trips.tenant_position WHERE device = 'frozen' AND ts < " + horizon) == len(
        hole
    )
    assert fleet.call("SELECT count(*) FROM runtime.expired WHERE name = 'trips.position' AND tenant = 'demo'") == 1
    ids = [id_ for (id_,) in fleet.database.rows("SELECT id FROM trips.trip WHERE device = 'frozen' ORDER BY start_at")]
    with pytest.raises(psycopg.errors.RaiseException, match="Positions before"):
        fleet.call("SELECT trips.tenant_edit_merge(%s, 'user:ada')", ids[:2])
    # Behind the horizon all goes on.
    fleet.call("SELECT trips.tenant_edit_merge(%s, 'user:ada')", ids[1:])
    await fleet.work()
    assert [trip["rev"] for trip in fleet.trips("frozen")] == [1, 2]
