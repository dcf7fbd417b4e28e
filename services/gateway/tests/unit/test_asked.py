"""What a question says: times, durations, aggregates, names that are near."""

from __future__ import annotations

import time

import pytest

from outrider_gateway.query.asked import (
    Asking,
    aggregates_of,
    duration_ms,
    fixed,
    iso,
    listed,
    moment_ms,
    near,
    percentile_of,
    range_of,
    round_step_ms,
    unknown_metric,
)

NOW = 1_764_057_600_000  # 2025-11-25T08:00:00Z


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2025-11-25T08:00:00Z", NOW),
        ("2025-11-25T09:00:00+01:00", NOW),
        ("2025-11-25T09:00:00 01:00", NOW),  # the plus of a URL that nobody escaped
        ("2025-11-25T08:00:00", NOW),
        ("2025-11-25", NOW - 8 * 3_600_000),
        ("1764057600", NOW),
        ("1764057600.25", NOW + 250),
        ("1764057600000", NOW),
        ("now", NOW),
        ("-6h", NOW - 6 * 3_600_000),
        ("-1.5d", NOW - 36 * 3_600_000),
    ],
)
def test_moment_ms_takes(text: str, ms: int) -> None:
    assert moment_ms(text, NOW, "from") == ms


@pytest.mark.parametrize(
    "text", ["", "yesterday", "-6", "6h", "2025-13-01", "9999-01-01", "1e9", "-1", "NaN", "99999999999999"]
)
def test_moment_ms_refuses_with_what_to_write(text: str) -> None:
    with pytest.raises(Asking, match=r"`from` is .*write a time"):
        moment_ms(text, NOW, "from")


@pytest.mark.parametrize(
    ("text", "ms"),
    [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000), ("1.5d", 129_600_000), ("1W", 604_800_000)],
)
def test_duration_ms_takes(text: str, ms: int) -> None:
    assert duration_ms(text) == ms


@pytest.mark.parametrize("text", ["", "5", "m", "0s", "-5m", "5 minutes", "99999999999w"])
def test_duration_ms_refuses(text: str) -> None:
    with pytest.raises(Asking, match="number and a unit"):
        duration_ms(text)


def test_range_of_defaults_to_an_hour_and_refuses_what_is_none() -> None:
    assert range_of(None, None, NOW).width_ms == 3_600_000
    with pytest.raises(Asking, match="must be before"):
        range_of("now", "-1h", NOW)
    with pytest.raises(Asking, match="longer than"):
        range_of("1980-01-01", None, NOW)


def test_fixed_times_are_those_that_stay() -> None:
    assert fixed("2025-11-25", "1764057600")
    assert not fixed("-6h", "2025-11-25")
    assert not fixed("2025-11-25", "now")
    assert not fixed("2025-11-25", None)


def test_aggregates_of() -> None:
    assert aggregates_of(["mean, max", "mean"]) == ("mean", "max")
    assert aggregates_of(["p95", "p99.9"], percentiles=True) == ("p95", "p99.9")
    for names, words in (
        (["median"], "no aggregate 'median'"),
        (["raw", "mean"], "two questions"),
        (["p95"], "no aggregate"),
    ):
        with pytest.raises(Asking, match=words):
            aggregates_of(names)
    for bad in ("p0", "p100", "raw"):
        with pytest.raises(Asking, match="no aggregate"):
            aggregates_of([bad], percentiles=True)
    assert percentile_of("p50") == 0.5


@pytest.mark.parametrize(
    ("width", "points", "step"),
    [
        (3_600_000, 500, 10_000),
        (86_400_000, 500, 300_000),
        (30 * 86_400_000, 500, 7_200_000),
        (3000 * 86_400_000, 500, 7 * 86_400_000),
    ],
)
def test_round_step_ms(width: int, points: int, step: int) -> None:
    assert round_step_ms(width, points) == step
    assert width / step <= points


def test_near_names_what_may_have_been_meant() -> None:
    known = ["speed_kmh", "soc_pct", "temp_c", "gps_speed_kmh", "Voltage"]
    assert near("speed", known)[:2] == ["speed_kmh", "gps_speed_kmh"]
    assert near("voltage", known) == ["Voltage"]
    assert "near it are: speed_kmh" in unknown_metric("speed_kmph", "van-7", known)
    assert "there are: Voltage, gps_speed_kmh" in unknown_metric("zzz", "van-7", known)
    assert "nothing has been stored" in unknown_metric("x", "van-7", [])


def test_listed_and_iso() -> None:
    assert listed(["a,b", " b ", "", "c"]) == ("a", "b", "c")
    assert iso(NOW) == "2025-11-25T08:00:00.000Z"


def test_whoever_mistypes_a_metric_of_very_many_holds_up_nobody() -> None:
    known = ["ab" * 60 + f"{n:06d}" for n in range(100_000)]
    started = time.process_time()
    assert near("ba" * 30_000, known)
    assert near("ba" * 64, known)
    assert near("speed", ["rpm", *known[:500], "speed_kmh"]) == ["speed_kmh"]
    assert time.process_time() - started < 1.0, "it took 160 s"


def test_too_many_aggregates_are_a_question_too_many() -> None:
    every = [f"p{n / 10:g}" for n in range(1, 22)]
    assert aggregates_of(every[:20], percentiles=True) == tuple(every[:20])
    with pytest.raises(Asking, match="ask for 20 at a time"):
        aggregates_of([",".join(every)], percentiles=True)
