"""The notation of a fault scenario: `Scenario("…", faults=[1], steps=[at(2, kill("mosquitto")), …])`; pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.chaos.stage import Stage


@dataclass(frozen=True)
class Action:
    """One thing that is done to the running platform: what it is in words, and the doing."""

    text: str
    run: Callable[[Stage], Awaitable[None]] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Step:
    """An action at a time of the scenario, in seconds after its start."""

    at_s: float
    action: Action

    def __str__(self) -> str:
        return f"{self.at_s:5.1f} s  {self.action.text}"


@dataclass(frozen=True)
class Scenario:
    """Steps under load. `faults`: rows of the fault list it shows; `scale`: processes by service, set before it starts.

    Steps start at their time even while earlier ones still last; the scenario ends when all have ended.
    """

    name: str
    faults: Sequence[int]
    steps: Sequence[Step]
    scale: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError(f"{self.name} has no steps")
        if any(step.at_s < 0 for step in self.steps):
            raise ValueError(f"{self.name} has a step before its start")

    def __str__(self) -> str:
        faults = f"faults {', '.join(map(str, self.faults))}" if self.faults else "no fault"
        lines = [f"{self.name} ({faults})"]
        lines += [f"  {service} × {count}" for service, count in self.scale.items()]
        return "\n".join(lines + [f"  {step}" for step in self.in_order()])

    def in_order(self) -> list[Step]:
        """Steps by time; those of one time in the order they were written."""
        return sorted(self.steps, key=lambda step: step.at_s)


def at(at_s: float, action: Action) -> Step:
    """The action at this time, in seconds."""
    return Step(at_s, action)


def every(interval_s: float, action: Action, *, first_s: float, last_s: float) -> list[Step]:
    """The action at `first_s` and then every `interval_s` up to and including `last_s`.

    Raises ValueError for an interval that is not positive.
    """
    if interval_s <= 0:
        raise ValueError("an interval is longer than nothing")
    times = [first_s]
    while times[-1] + interval_s <= last_s + 1e-3:
        times.append(round(times[-1] + interval_s, 6))
    return [Step(time_s, action) for time_s in times]


Draw = Callable[[Random], Scenario]
"""Makes a scenario whose times and victims come from the random source."""


def schedule(draws: Sequence[Draw], *, seed: int, rounds: int, once: Sequence[Draw] = ()) -> list[Scenario]:
    """The scenarios of a run: each draw once in a random order, then again, until there are `rounds`.

    Those of `once` are among them at random places, one time each. The same seed gives the same schedule. Raises
    ValueError where that is more than there are rounds.
    """
    if len(once) > rounds or not (draws or rounds == len(once)):
        raise ValueError(f"{len(once)} scenarios that come once do not make {rounds} rounds")
    random = Random(seed)
    chosen: list[Draw] = []
    while len(chosen) < rounds - len(once):
        bag = list(draws)
        random.shuffle(bag)
        chosen += bag[: rounds - len(once) - len(chosen)]
    for draw in once:
        chosen.insert(random.randint(0, len(chosen)), draw)
    return [draw(random) for draw in chosen]
