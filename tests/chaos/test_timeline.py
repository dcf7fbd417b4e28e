"""The timeline notation and the seeded schedule."""

from __future__ import annotations

from random import Random

import pytest

from tests.chaos.actions import kill
from tests.chaos.scenarios import DRAWS, LONG, USUAL, Sizes, long_faults
from tests.chaos.timeline import Draw, Scenario, at, every, schedule


def test_every_includes_both_ends() -> None:
    assert [step.at_s for step in every(2, kill("ingest"), first_s=1, last_s=7)] == [1, 3, 5, 7]


def test_every_refuses_an_interval_of_nothing() -> None:
    with pytest.raises(ValueError, match="interval"):
        every(0, kill("ingest"), first_s=1, last_s=7)


def test_scenario_reads_like_a_timeline() -> None:
    scenario = Scenario("two-kills", faults=[1], steps=[at(6, kill("mosquitto")), at(2, kill("ingest"))])
    assert str(scenario).splitlines() == [
        "two-kills (faults 1)",
        "    2.0 s  kill -9 ingest",
        "    6.0 s  kill -9 mosquitto",
    ]


@pytest.mark.parametrize("steps", [[], [at(-1, kill("ingest"))]])
def test_scenario_refuses_steps_that_cannot_be_played(steps: list[object]) -> None:
    with pytest.raises(ValueError, match="bad"):
        Scenario("bad", faults=[1], steps=steps)  # type: ignore[arg-type]


def test_schedule_is_the_same_for_the_same_seed() -> None:
    first, second = (schedule(DRAWS, seed=5, rounds=40) for _ in range(2))
    assert list(map(str, first)) == list(map(str, second))
    assert list(map(str, first)) != list(map(str, schedule(DRAWS, seed=6, rounds=40)))


def test_schedule_plays_every_draw_before_one_comes_again() -> None:
    played = schedule(_draws("abcd"), seed=9, rounds=8)
    assert {scenario.name for scenario in played[:4]} == {scenario.name for scenario in played[4:]} == set("abcd")


def test_schedule_plays_what_comes_once_one_time_each_in_any_place() -> None:
    places = set()
    for seed in range(1, 20):
        names = [s.name for s in schedule(_draws("ab"), seed=seed, rounds=9, once=_draws("XY"))]
        assert (len(names), names.count("X"), names.count("Y")) == (9, 1, 1)
        places.add(names.index("X"))
    assert len(places) > 3


def test_schedule_of_fewer_rounds_than_what_comes_once_is_refused() -> None:
    with pytest.raises(ValueError, match="rounds"):
        schedule(_draws("ab"), seed=1, rounds=1, once=_draws("XY"))


def _draws(names: str) -> list[Draw]:
    steps = [at(1, kill("ingest"))]
    return [lambda _, name=name: Scenario(name, faults=[1], steps=steps) for name in names]  # type: ignore[misc]


@pytest.mark.parametrize("sizes", [USUAL, LONG])
def test_scenarios_show_the_rows_of_the_fault_list_they_are_for(sizes: Sizes) -> None:
    rows = {fault for draw in DRAWS for fault in draw(Random(1)).faults}
    assert rows >= {1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 18, 19, 20, 21, 46}
    assert {fault for draw in long_faults(sizes) for fault in draw(Random(1)).faults} >= {7, 9, 11, 20, 21}
