"""The state machine of trips, case by case: what a vehicle did, what its device reported, what comes out."""

from __future__ import annotations

import random
from typing import Any

import pytest

from outrider.testing.journeys import NOON_MS, Journey
from outrider.trips import Rules, Sample, Segmentation, Trip, segment

RULES = Rules()


def at_end(journey: Journey, later_s: float = 0) -> Segmentation:
    return segment(journey.samples, RULES, journey.now_ms + int(1000 * later_s))


def final(journey: Journey) -> tuple[Trip, ...]:
    found = at_end(journey, 86_400)
    assert found.state == "idle"
    return found.trips


def test_parked_heartbeats_are_no_trip() -> None:
    found = at_end(Journey(every_s=300).stand(86_400))
    assert (found.trips, found.state, found.due_ms) == ((), "idle", None)


def test_driving_at_the_first_seconds() -> None:
    found = at_end(Journey().stand(30).drive(8))
    assert found.state == "driving"
    assert found.trips[0].open
    assert found.trips[0].end_reason is None


def test_paused_after_five_seconds_of_standing_and_driving_again() -> None:
    journey = Journey().drive(300)
    arrived = journey.stand(1).now_ms
    assert at_end(journey.stand(3)).state == "driving"
    found = at_end(journey.stand(2))
    assert (found.state, found.since_ms, found.trips[0].state) == ("paused", arrived, "paused")
    assert at_end(journey.drive(5)).state == "driving"
    assert len(final(journey)) == 1


def test_standing_ends_the_trip_at_arrival() -> None:
    journey = Journey().drive(300)
    arrived = journey.stand(1).now_ms
    journey.stand(898)
    paused = at_end(journey)
    assert (paused.state, paused.due_ms) == ("paused", arrived + 900_000)
    (trip,) = at_end(journey.stand(2)).trips
    assert (trip.state, trip.end_ms, trip.end_reason, trip.stop_s) == ("final", arrived, "still", 0)


def test_start_is_the_last_still_moment() -> None:
    journey = Journey().stand(3000)
    left = journey.now_ms
    (trip,) = final(journey.drive(300))
    assert (trip.start_ms, trip.start_reason) == (left, "motion")


def test_start_is_waking_up_after_a_silence() -> None:
    journey = Journey().drive(300).silence(3000)
    woken = journey.stand(1).now_ms
    trip = final(journey.stand(240).drive(300))[1]
    assert (trip.start_ms, trip.start_reason, trip.stop_s) == (woken, "wake", 240)


@pytest.mark.parametrize(("seconds", "trips"), [(60, 1), (98, 1), (101, 2), (3000, 2)])
def test_silence_without_displacement(seconds: float, trips: int) -> None:
    journey = Journey().drive(300)
    before = journey.now_ms
    found = final(journey.silence(seconds).drive(300))
    assert len(found) == trips
    if trips == 1:
        assert found[0].gaps[0].moved is False
    else:
        assert (found[0].end_ms, found[0].end_reason) == (before, "silence")


@pytest.mark.parametrize(
    ("seconds", "kmh", "trips"),
    [(90, 50, 1), (600, 80, 1), (1700, 60, 1), (1900, 60, 2), (1200, 3, 2), (1200, 10, 2), (7200, 40, 2)],
)
def test_silence_with_displacement_is_bridged_when_it_was_driving(seconds: float, kmh: float, trips: int) -> None:
    found = final(Journey().drive(300).silence(seconds, kmh).drive(300))
    assert len(found) == trips
    if trips == 1:
        (gap,) = found[0].gaps
        assert gap.moved is True
        assert gap.confidence > 0.4
        assert found[0].distance_km == pytest.approx((600 * 50 + seconds * kmh) / 3600, rel=0.02)
        assert found[0].confidence < 0.92
    elif seconds < RULES.idle_resume_s:
        assert found[0].end_reason == found[1].start_reason == "silence_moved"


@pytest.mark.parametrize(("off_s", "trips"), [(40, 1), (70, 2)])
def test_ignition_off(off_s: float, trips: int) -> None:
    journey = Journey(carry={"ignition": True}).drive(300).stand(20)
    off = journey.now_ms + 1000
    journey.stand(off_s, ignition=False)
    found = final(journey.stand(20).drive(300))
    assert len(found) == trips
    assert found[0].evidence == "ignition"
    assert found[-1].confidence > 0.85
    if trips == 2:
        assert (found[0].end_ms, found[0].end_reason) == (off, "ignition_off")
        assert found[1].start_reason == "ignition_on"
        assert found[1].start_ms == off + 1000 * off_s


def test_ignition_only_on_change() -> None:
    journey = Journey(every_s=10)
    journey.row(ignition=True)
    on = journey.now_ms
    journey.stand(60).drive(1200).stand(60).row(ignition=False)
    off = journey.now_ms
    (trip,) = final(journey.silence(300).stand(10))
    assert (trip.start_ms, trip.end_ms) == (on, off)


@pytest.mark.parametrize(("idle_s", "trips"), [(1200, 1), (3000, 1), (3700, 2)])
def test_standing_with_the_engine_running(idle_s: float, trips: int) -> None:
    found = final(Journey(every_s=5, carry={"rpm": 750.0}).drive(300).stand(idle_s).drive(300))
    assert len(found) == trips
    if trips == 1:
        assert found[0].stops[0].engine is True


@pytest.mark.parametrize(("off", "window_s"), [({"gear": "P"}, 120), ({"rpm": 0.0}, 120)])
def test_gear_and_rpm_wait_for_start_stop(off: dict[str, Any], window_s: float) -> None:
    on: dict[str, Any] = {"gear": "D"} if "gear" in off else {"rpm": 900.0}
    for stand_s, trips in ((window_s - 10, 1), (window_s + 10, 2)):
        journey = Journey(every_s=5).drive(300, **on).stand(stand_s, **off).drive(300, **on)
        assert len(final(journey)) == trips


@pytest.mark.parametrize("halt", [{"gear": "D", "rpm": 0.0}, {"gear": "P", "rpm": 750.0}])
def test_of_gear_and_rpm_the_one_that_runs_is_believed(halt: dict[str, Any]) -> None:
    journey = Journey(every_s=5).drive(300, gear="D", rpm=2000.0).stand(1200, **halt).drive(300, gear="D", rpm=2000.0)
    assert len(final(journey)) == 1


@pytest.mark.parametrize("lie", [{"ignition": False}, {"rpm": 0.0}, {"gear": "P"}])
def test_a_sensor_that_contradicts_motion_is_not_believed(lie: dict[str, Any]) -> None:
    (trip,) = final(Journey(every_s=5, carry=lie).drive(300).stand(400).drive(300))
    assert trip.distrusted == tuple(lie)
    assert trip.evidence == "speed"


def test_queue() -> None:
    journey = Journey().drive(300)
    for _ in range(25):
        journey.stand(60).drive(6, 9)
    (trip,) = final(journey.drive(300))
    assert trip.duration_s == pytest.approx(600 + 25 * 66, abs=2)


def test_tunnel_without_fix_and_speed() -> None:
    journey = Journey().drive(300, 80)
    journey.fixes = False
    journey.lat, journey.lon, start = *_driven(journey, 1200, 80), journey.now_ms
    journey.stand(1200, speed_kmh=0.0)
    journey.fixes = True
    (trip,) = final(journey.drive(300, 80))
    assert journey.now_ms - start == 1_500_000
    assert trip.distance_km == pytest.approx(1800 * 80 / 3600, rel=0.02)


def _driven(journey: Journey, seconds: float, kmh: float) -> tuple[float, float]:
    twin = Journey(lat=journey.lat, lon=journey.lon).silence(seconds, kmh)
    return twin.lat, twin.lon


def test_speed_stuck_at_zero() -> None:
    (trip,) = final(Journey().stand(60).drive(900, 60, speed_kmh=0.0).stand(1200))
    assert "speed" in trip.distrusted
    assert trip.distance_km == pytest.approx(15, rel=0.1)


@pytest.mark.parametrize("every_s", [1, 5, 10, 30, 60])
@pytest.mark.parametrize("speeds", [True, False])
def test_any_interval(every_s: float, speeds: bool) -> None:
    """Two drives of 20 minutes with 20 minutes of heartbeats between them; two reports in a row are lost in one."""
    journey = Journey(every_s=every_s, speeds=speeds).drive(600).silence(2 * every_s, 50).drive(600 - 2 * every_s)
    journey.every_s = max(300.0, every_s)
    journey.stand(1200)
    journey.every_s = every_s
    found = final(journey.stand(every_s).drive(1200, 40).stand(every_s).silence(3600))
    assert len(found) == 2
    for trip, kmh in zip(found, (50, 40), strict=True):
        assert trip.duration_s == pytest.approx(1200, abs=2 * every_s + 20)
        assert trip.distance_km == pytest.approx(kmh / 3, rel=0.1 if every_s < 60 else 0.15)


@pytest.mark.parametrize("sigma_m", [5, 20, 60])
@pytest.mark.parametrize("speeds", [True, False])
def test_wandering_while_parked(sigma_m: float, speeds: bool) -> None:
    chance = random.Random(7)
    journey = Journey(every_s=60, speeds=speeds)
    for _ in range(1440):
        journey.stand(60)
        at = journey.samples.pop()
        noise = (chance.gauss(0, sigma_m) / 111_195 for _ in range(2))
        journey.row(
            lat=48.2 + next(noise), lon=16.37 + next(noise) / 0.667, speed_kmh=at.speed_kmh, accuracy_m=sigma_m * 1.5
        )
    assert at_end(journey).trips == ()


def test_drift_with_speed_is_counted() -> None:
    journey = Journey().stand(60).drive(6, 7).turn(240).drive(6, 7).stand(600)
    found = at_end(journey)
    assert found.trips == ()
    assert found.filtered == {"drift": 12}


def test_impossible_fixes_are_filtered_with_counts() -> None:
    journey = Journey().drive(300)
    for values in (
        {"lat": 0.0, "lon": 0.0, "speed_kmh": 50.0},
        {"lat": 47.0, "lon": 16.0, "speed_kmh": 50.0},
        {"lat": 91.0, "lon": 16.0, "speed_kmh": 50.0},
        {"lat": 48.0, "lon": 16.3, "speed_kmh": 50.0, "accuracy_m": 5000.0},
        {"lat": 48.0, "lon": 16.3, "speed_kmh": 50.0, "hdop": 50.0},
        {"speed_kmh": 1e4},
    ):
        journey.drive(10).drive(1)
        journey.samples.pop()
        journey.row(**values)
    (trip,) = final(journey.drive(300))
    assert trip.filtered == {"bad_fix": 3, "bad_speed": 1, "teleport": 1, "zero_island": 1}
    assert trip.distance_km == pytest.approx(666 * 50 / 3600, rel=0.01)


def test_short_trips_are_kept_as_micro() -> None:
    (trip,) = final(Journey().stand(1200).drive(30, 15).stand(1200))
    assert trip.micro
    assert trip.distance_km == pytest.approx(0.125, abs=0.01)


def test_latitude_and_longitude_in_rows_of_their_own() -> None:
    journey = Journey(every_s=5, speeds=False).drive(600)
    split = [Sample(row.ts, lat=row.lat) for row in journey.samples]
    split += [Sample(row.ts + 40, lon=row.lon) for row in journey.samples]
    (trip,) = segment(split, RULES, journey.now_ms + 86_400_000).trips
    assert trip == final(journey)[0]


def test_odometer_alone() -> None:
    journey = Journey(every_s=30, fixes=False, speeds=False)
    km = 1000.0
    for kmh, rows in ((0, 40), (60, 40), (0, 60), (60, 20), (0, 60)):
        for _ in range(rows):
            km += kmh / 120
            journey.silence(30).row(odometer_km=km)
    one, two = final(journey)
    assert (one.evidence, one.distance_km, two.distance_km) == ("odometer", pytest.approx(20), pytest.approx(10))


def test_odometer_is_the_best_distance() -> None:
    journey = Journey()
    for second in range(600):
        journey.drive(1, odometer_km=5000 + second * 0.0141)
    (trip,) = final(journey)
    assert trip.distance_km == trip.distance_odometer_km == pytest.approx(8.446, abs=0.01)
    assert trip.distance_gps_km == pytest.approx(8.32, abs=0.02)


def test_towed_with_the_odometer_standing_is_no_bridge() -> None:
    journey = Journey(carry={"odometer_km": 5000.0}).drive(300).silence(600, 60).drive(300)
    assert len(final(journey)) == 2


def test_clocks_that_are_wrong() -> None:
    journey = Journey().drive(300)
    drive = list(journey.samples)
    wrong = [Sample(second * 1000, 48.2, 16.37, 50.0) for second in range(30)]  # 1970
    wrong += [Sample(4_070_908_800_000, 48.2, 16.37, 50.0)]  # 2099
    wrong += [Sample(row.ts + 15_552_000_000, row.lat, row.lon, 50.0) for row in drive[100:130]]  # + 6 months
    wrong += [Sample(row.ts - 3_600_000, row.lat, row.lon, 50.0) for row in drive[130:200]]  # - 1 h
    found = segment(drive + wrong, RULES, journey.now_ms + 7200_000)
    assert found.filtered == {"bad_time": 30, "future": 31}
    assert [trip.start_ms for trip in found.trips] == [drive[130].ts - 3_600_000, drive[0].ts]
    assert all(trip.duration_s > 0 for trip in found.trips)
    assert found.due_ms is not None  # when the first row of the future is no longer one


def test_rows_of_the_future_wait_for_their_time() -> None:
    ahead = Journey(now_ms=NOON_MS + 3_600_000).drive(300)
    assert segment(ahead.samples, RULES, NOON_MS).trips == ()
    assert segment(ahead.samples, RULES, NOON_MS).due_ms == ahead.samples[0].ts - 300_000
    assert len(segment(ahead.samples, RULES, ahead.now_ms).trips) == 1


def test_record_adds_up() -> None:
    journey = Journey(carry={"rpm": 2000.0}).drive(600, 60, soc_pct=80.0, fuel_pct=50.0).stand(60).drive(600, 90)
    journey.stand(200).drive(60, 30, soc_pct=70.0, fuel_pct=49.0)
    (trip,) = final(journey)
    assert (trip.moving_s, trip.idle_s, trip.stop_s) == (pytest.approx(1260, abs=4), pytest.approx(59, abs=2), 199)
    assert trip.duration_s == trip.moving_s + trip.idle_s + trip.stop_s
    assert trip.distance_km == pytest.approx(25.5, rel=0.005)
    assert (trip.max_speed_kmh, trip.max_rpm) == (90, 2000)
    assert (trip.soc_start_pct, trip.soc_end_pct, trip.fuel_start_pct, trip.fuel_end_pct) == (80, 70, 50, 49)
    assert abs(trip.distance_km - 25.5) < trip.distance_uncertainty_km


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"still": 3}, "no trip rule 'still'"),
        ({"still_kmh": -1}, "'still_kmh' must be a number above 0"),
        ({"idle_resume_s": 86_401}, "'idle_resume_s' must be at most 86,400"),
        ({"track_points": 1e8}, "'track_points' must be at most 5,000"),
        ({"still_kmh": "fast"}, "'still_kmh' must be"),
        ({"still_kmh": 9}, "must not exceed 'start_kmh'"),
        ({"still_resume_s": 4000}, "'idle_resume_s'"),
    ],
)
def test_rules_refuse_what_does_not_fit(overrides: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Rules.of(overrides)
