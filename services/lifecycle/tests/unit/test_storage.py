"""When the disk is full: tables that grow for ever, and those that stop growing once they have their days."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider_lifecycle.storage import FORECAST_DAYS, Tier, forecast, full_in_days

GIB = 2**30
TIERS = st.builds(
    Tier,
    st.just("t"),
    st.integers(0, 100 * GIB),
    st.floats(0, GIB, allow_nan=False),
    st.integers(0, 800),
)


@pytest.mark.parametrize(
    ("tiers", "free", "days"),
    [
        ([Tier("raw", 0, GIB, 0)], 10 * GIB, 10),
        ([Tier("raw", 3 * GIB, GIB, 7)], 10 * GIB, None),  # stops at eight days' worth
        ([Tier("raw", 3 * GIB, GIB, 7)], 5 * GIB, 5),
        ([Tier("raw", 3 * GIB, GIB, 7)], 5 * GIB + 1, None),
        ([Tier("raw", 8 * GIB, GIB, 7), Tier("trips", 0, GIB / 10, 0)], GIB, 10),
        ([Tier("raw", 90 * GIB, GIB, 7)], GIB, None),  # more than it keeps, until it is removed: it grows no more
        ([Tier("raw", 0, 0.0, 0)], GIB, None),
        ([], GIB, None),
        ([Tier("raw", 0, GIB, 0)], 0, 0),
    ],
)
def test_the_disk_is_full_when_the_tables_have_grown_by_what_is_free(
    tiers: list[Tier], free: int, days: int | None
) -> None:
    assert full_in_days(tiers, free) == days


@settings(max_examples=100, deadline=None)
@given(st.lists(TIERS, max_size=5), st.integers(0, 1000 * GIB))
def test_it_is_full_on_the_first_day_that_it_does_not_fit(tiers: list[Tier], free: int) -> None:
    days = full_in_days(tiers, free)
    now = sum(tier.bytes for tier in tiers)

    def grown(n: int) -> float:
        return sum(tier.after(n) for tier in tiers) - now

    if days is None:
        assert grown(FORECAST_DAYS) < free
    else:
        assert grown(days) >= free
        assert days == 0 or grown(days - 1) < free


def test_the_forecast_says_what_each_tier_will_take() -> None:
    made = forecast(date(2026, 1, 1), [Tier("raw", 2 * GIB, GIB, 7), Tier("1m", 0, 1000, 0)], 3 * GIB, 4 * GIB, 0.0)
    assert [(tier["table"], tier["full_bytes"]) for tier in made["tiers"]] == [("raw", 8 * GIB), ("1m", None)]
    assert (made["full_on"], made["full_in_days"]) == ("2026-01-05", 4)
    assert made["in_30_days_bytes"] == 3 * GIB + 6 * GIB + 30_000
    assert forecast(date(2026, 1, 1), [], 1, None, 0.0)["full_on"] is None
