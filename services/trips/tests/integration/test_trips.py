"""Trips are a function of the set of rows: whatever order, batches, crashes, replicas and late data there are."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from outrider.testing.waiting import eventually
from outrider.trips import Rules, Sample, follow, segment, to_json
from outrider_trips import metrics
from outrider_trips.segmenter import Segmenter
from outrider_trips.testing import HOUR, MINUTE, T0, Crash, Fleet, drive


def day(start_ms: int = T0) -> list[dict[str, Any]]:
    """Three drives: two with a short pause between them, one in the evening."""
    return [*drive(start_ms), *drive(start_ms + 30 * MINUTE, lat=52.09), *drive(start_ms + 8 * HOUR, lat=52.18)]


def pure(rows: list[dict[str, Any]], as_of_ms: int) -> list[dict[str, Any]]:
    """What the core says of these rows, all at once."""
    found = segment([Sample(**row) for row in rows], Rules(), as_of_ms).trips
    return [{"rev": 1, **to_json(trip), "edits": []} for trip in found]


async def in_order(fleet: Fleet, device: str, rows: list[dict[str, Any]], batch: int = 12) -> None:
    """Messages come as they are sent, and the service keeps up."""
    for i in range(0, len(rows), batch):
        await fleet.feed(device, rows[i : i + batch])
        await fleet.work()
    await fleet.clock(rows[-1]["ts"] + 3 * HOUR)
    await fleet.work()


async def test_live_trip_opens_pauses_and_closes(fleet: Fleet) -> None:
    rows = drive(T0)
    await fleet.feed("live", rows[:30])
    await fleet.work()
    assert [(trip["state"], trip["rev"]) for trip in fleet.trips("live")] == [("driving", 1)]
    await fleet.feed("live", rows[30:])
    await fleet.work()
    assert [trip["state"] for trip in fleet.trips("live")] == ["paused"]
    await fleet.clock(rows[-1]["ts"] + 3 * HOUR)
    await fleet.work()
    assert fleet.trips("live") == pure(rows, rows[-1]["ts"] + 3 * HOUR)
    assert fleet.events("live") == ["opened", "paused", "closed"]
    state = fleet.database.rows("SELECT state, due_at FROM trips.vehicle WHERE device = 'live'")
    assert state == [("idle", None)]


async def test_same_trips_in_any_order_and_replayed(fleet: Fleet) -> None:
    rows = day()
    expected = pure(rows, rows[-1]["ts"] + 3 * HOUR)
    assert len(expected) == 3
    await in_order(fleet, "ordered", rows)
    assert fleet.trips("ordered") == expected

    shuffled = random.Random(5).sample(rows, len(rows))
    for i in range(0, len(rows), len(rows) // 9):
        await fleet.feed("shuffled", shuffled[i : i + len(rows) // 9], received_ms=rows[-1]["ts"])
        await fleet.work()
    await fleet.clock(rows[-1]["ts"] + 3 * HOUR)
    await fleet.work()
    assert [{**trip, "rev": 1} for trip in fleet.trips("shuffled")] == expected

    await fleet.feed("ordered", rows)  # all again, in one batch
    assert await fleet.work() == 0, "what was stored already touches nothing"
    await in_order(fleet, "ordered", rows, batch=7)
    assert fleet.trips("ordered") == expected


async def test_killed_between_any_two_statements(fleet: Fleet) -> None:
    rows = day()
    crashes = 0
    for batch, i in enumerate(range(0, len(rows), 24)):
        for at in range(1 + batch % 3, 40, 3):
            fleet.pool.crash_at(at)
            try:
                await fleet.feed("killed", rows[i : i + 24])
                await fleet.work()
            except Crash:
                crashes += 1
            else:
                break
        fleet.pool.crash_at(0)
        await fleet.feed("killed", rows[i : i + 24])  # its ack was lost
        await fleet.work()
    for at in range(1, 40):
        fleet.pool.crash_at(at)
        try:
            await fleet.clock(rows[-1]["ts"] + 3 * HOUR)
            await fleet.work()
        except Crash:
            crashes += 1
        else:
            break
    assert crashes > 40
    fleet.pool.crash_at(0)
    fleet.database.rows("DELETE FROM trips.progress")
    await in_order(fleet, "unhurt", rows, batch=24)
    assert fleet.trips("killed") == fleet.trips("unhurt") == pure(rows, rows[-1]["ts"] + 3 * HOUR)
    assert fleet.events("killed") == fleet.events("unhurt")


async def test_backlog_of_a_day_out_of_order(fleet: Fleet) -> None:
    rows = day(T0 - 24 * HOUR)
    await fleet.feed("silent", drive(T0, lat=50.0), received_ms=T0 + 11 * MINUTE)
    await fleet.work()
    parts = [rows[i : i + 20] for i in range(0, len(rows), 20)]
    random.Random(7).shuffle(parts)
    for n, part in enumerate(parts):
        await fleet.feed("silent", part, received_ms=T0 + 11 * MINUTE + n * 1000)
        await fleet.work()
    await fleet.clock(T0 + 3 * HOUR)
    await fleet.work()
    expected = pure([*rows, *drive(T0, lat=50.0)], T0 + 3 * HOUR)
    assert [{**trip, "rev": 1} for trip in fleet.trips("silent")] == expected
    assert len(expected) == 4


async def test_backlog_in_order_ends_no_trip_in_the_middle(fleet: Fleet) -> None:
    """Years later, faster than it was recorded: while it comes, its own time is the clock."""
    rows = drive(T0, minutes=20)
    received = T0 + 9000 * HOUR
    for i in range(0, len(rows), 10):
        received += 2_000
        await fleet.feed("old", rows[i : i + 10], received_ms=received)
        await fleet.work()
    assert [(trip["rev"], trip["state"]) for trip in fleet.trips("old")] == [(1, "paused")]
    await fleet.clock(received + 11_000)
    await fleet.work()
    assert fleet.trips("old") == pure(rows, received)


async def test_clock_waits_for_what_is_not_stored_yet(fleet: Fleet) -> None:
    rows = drive(T0)
    await fleet.feed("waiting", rows, slot=3)
    await fleet.work()
    await fleet.clock(T0 + 9 * HOUR, slot=2)
    assert await fleet.work() == 0
    assert [trip["state"] for trip in fleet.trips("waiting")] == ["paused"]
    await fleet.clock(T0 + 9 * HOUR, slot=3)
    assert await fleet.work() == 1
    assert [(trip["state"], trip["rev"]) for trip in fleet.trips("waiting")] == [("final", 1)]


async def test_late_data_reads_only_its_window(fleet: Fleet) -> None:
    rows = [row for n in range(6) for row in drive(T0 + n * 24 * HOUR, minutes=30)]
    hole = [row for row in rows if T0 + 48 * HOUR + 5 * MINUTE < row["ts"] < T0 + 48 * HOUR + 20 * MINUTE]
    await in_order(fleet, "late", [row for row in rows if row not in hole], batch=100)
    before = {trip["start_ms"]: trip for trip in fleet.trips("late")}
    read = metrics.WINDOW_ROWS._value.get()
    await fleet.feed("late", hole, received_ms=rows[-1]["ts"] + 3 * HOUR)
    await fleet.work()
    read = metrics.WINDOW_ROWS._value.get() - read
    after = {trip["start_ms"]: trip for trip in fleet.trips("late")}
    assert list(after.values()) == [
        {**trip, "rev": after[trip["start_ms"]]["rev"]} for trip in pure(rows, rows[-1]["ts"] + 3 * HOUR)
    ]
    changed = [start for start, trip in after.items() if trip != before.get(start)]
    assert len(changed) == 1
    assert after[changed[0]]["rev"] == 2
    assert read < len(rows) / 2


async def test_evening_of_a_busy_day_costs_what_its_morning_does(fleet: Fleet) -> None:
    """Twenty drives with rests too short for a cut: in order the last one reads no more than the third."""
    rows = [row for n in range(20) for row in drive(T0 + n * 20 * MINUTE, lat=52 + n * 0.09, every_s=20)]
    read = []
    for i in range(0, len(rows), 17):
        before = metrics.WINDOW_ROWS._value.get()
        await fleet.feed("busy", rows[i : i + 17])
        await fleet.work()
        read.append(metrics.WINDOW_ROWS._value.get() - before)
    assert max(read[20:]) <= 200 < len(rows) / 3
    late = {**rows[40], "ts": rows[40]["ts"] + 5_000}
    await fleet.feed("busy", [late], received_ms=rows[-1]["ts"] + HOUR)
    await fleet.clock(rows[-1]["ts"] + 3 * HOUR)
    await fleet.work()
    whole = pure([*rows, late], rows[-1]["ts"] + 3 * HOUR)
    assert [{**trip, "rev": 1} for trip in fleet.trips("busy")] == whole
    assert [trip["rev"] for trip in fleet.trips("busy")].count(2) == 1


async def test_rows_that_change_nothing_wait_and_a_stop_does_not(fleet: Fleet) -> None:
    patient = Fleet(fleet.database, fleet.pool, fleet.settings.model_copy(update={"trips_refresh_s": 30.0}))
    rows = drive(T0, minutes=20)
    stop = next(i for i, row in enumerate(rows) if row["speed_kmh"] == 0)
    await patient.feed("calm", rows[: stop - 3])
    assert await patient.work() == 1, "what nobody has seen yet is looked at"
    await patient.feed("calm", rows[stop - 3 : stop - 2])
    await patient.feed("calm", rows[stop - 2 : stop - 1])
    assert await patient.work() == 0, "it drives on"
    await patient.feed("calm", rows[stop - 1 : stop])
    assert await patient.work() == 1, "after as long a time as a silence it is looked at, and was none"
    assert [trip["end_ms"] for trip in patient.trips("calm")] == [rows[stop - 1]["ts"]]
    await patient.feed("calm", rows[stop : stop + 1])
    assert await patient.work() == 1
    await patient.feed("calm", rows[stop + 1 : stop + 2])
    assert await patient.work() == 1
    assert patient.events("calm") == ["opened", "paused"]
    await patient.feed("calm", rows[stop + 2 :])
    assert await patient.work() == 0, "it stands on"
    await patient.feed("calm", [rows[20] | {"ts": rows[20]["ts"] + 1000}], received_ms=rows[-1]["ts"])
    assert await patient.work() == 1, "what comes late does not wait"
    await patient.clock(rows[-1]["ts"] + 3 * HOUR)
    await patient.work()
    expected = pure([*rows, rows[20] | {"ts": rows[20]["ts"] + 1000}], rows[-1]["ts"] + 3 * HOUR)
    assert patient.trips("calm") == expected
    await patient.feed("calm", [rows[-1] | {"ts": rows[-1]["ts"] + HOUR}])
    assert await patient.work() == 0, "it is still parked"
    waits = "SELECT extract(epoch FROM look_at - at)::int FROM trips.touched JOIN trips.vehicle v ON v.id = vehicle"
    assert patient.database.rows(f"{waits} WHERE device = 'calm'") == [(300,)]


async def test_two_replicas(fleet: Fleet) -> None:
    names = [f"pair-{n}" for n in range(5)]
    other = Segmenter(fleet.pool, fleet.settings)
    rows = day()
    for i in range(0, len(rows), 40):
        for name in names:
            await fleet.feed(name, rows[i : i + 40])
        ids = [id_ for (id_,) in fleet.database.rows("SELECT id FROM trips.vehicle WHERE starts_with(device, 'pair-')")]
        await asyncio.gather(*(s.segment(id_) for id_ in ids for s in (fleet.segmenter, other)))
        await fleet.work()
    await fleet.clock(rows[-1]["ts"] + 3 * HOUR)
    await fleet.work()
    for name in names:
        assert fleet.trips(name) == pure(rows, rows[-1]["ts"] + 3 * HOUR)


async def test_edits_survive_late_data(fleet: Fleet) -> None:
    rows = day()
    late = [row for row in rows if T0 + 3 * MINUTE < row["ts"] < T0 + 5 * MINUTE]
    await in_order(fleet, "edited", [row for row in rows if row not in late], batch=60)
    ids = [id_ for (id_,) in fleet.database.rows("SELECT id FROM trips.trip WHERE device = 'edited' ORDER BY start_at")]
    plain = fleet.trips("edited")
    merged = fleet.call("SELECT trips.tenant_edit_merge(%s, 'user:ada')", ids[:2])
    await fleet.work()
    one, evening = fleet.trips("edited")
    assert (one["start_ms"], one["end_ms"], one["rev"]) == (plain[0]["start_ms"], plain[1]["end_ms"], 2)
    assert one["edits"] == [str(merged)]
    assert one["distance_km"] == pytest.approx(plain[0]["distance_km"] + plain[1]["distance_km"])
    assert evening == plain[2]

    await fleet.feed("edited", late, received_ms=rows[-1]["ts"] + 3 * HOUR)
    await fleet.work()
    one, _ = fleet.trips("edited")
    assert (one["start_ms"], one["end_ms"], one["rev"]) == (plain[0]["start_ms"], plain[1]["end_ms"], 3)
    assert one["points"] == plain[0]["points"] + plain[1]["points"] + len(late)


async def test_trip_is_split_and_undone(fleet: Fleet) -> None:
    rows = drive(T0)
    await in_order(fleet, "split", rows)
    (plain,) = fleet.trips("split")
    (id_,) = fleet.database.rows("SELECT id FROM trips.trip WHERE device = 'split'")[0]
    at = f"timestamptz 'epoch' + {T0 + 5 * MINUTE} * interval '1 millisecond'"
    edit = fleet.call(f"SELECT trips.tenant_edit_split(%s, {at}, 'user:ada')", id_)
    await fleet.work()
    first, second = fleet.trips("split")
    assert first["end_ms"] < T0 + 5 * MINUTE <= second["start_ms"]
    assert (first["end_reason"], second["start_reason"]) == ("split", "split")
    assert first["edits"] == second["edits"] == [str(edit)]
    assert first["distance_km"] + second["distance_km"] == pytest.approx(plain["distance_km"], rel=0.05)
    fleet.call("SELECT trips.tenant_edit_undo(%s, 'user:ada')", edit)
    await fleet.work()
    assert [{**trip, "rev": 1} for trip in fleet.trips("split")] == [plain]


async def test_vehicle_that_fails_does_not_hold_the_others(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(samples: list[Sample], *rest: Any) -> Any:
        if samples[0].lon == 77.0:
            raise ZeroDivisionError("a mistake")
        return follow(samples, *rest)

    monkeypatch.setattr("outrider_trips.segmenter.follow", fails)
    rows = drive(T0)
    await fleet.feed("fails", [{**row, "lon": 77.0} for row in rows])
    await fleet.feed("works", rows)
    task = asyncio.create_task(fleet.segmenter.run())
    try:
        await eventually(lambda: fleet.trips("works"))
        await eventually(lambda: "a mistake" in (fleet.segmenter.problem() or ""))
    finally:
        task.cancel()
    assert fleet.trips("fails") == []
    monkeypatch.undo()
    fleet.database.rows("UPDATE trips.vehicle SET not_before = now() WHERE device = 'fails'")
    await fleet.work()
    assert len(fleet.trips("fails")) == 1
