"""Who is in a simulated fleet: kinds, encodings, who has no clock and who does not number messages."""

from __future__ import annotations

import random as random_module
from dataclasses import dataclass
from random import Random

from outrider_cli.sim import encodings
from outrider_cli.sim.encodings import Encoding
from outrider_cli.sim.sources import Sensor, ServerMetrics, Source, Vehicle

COMPACT_FRAMES = 5
"""Instants in one compact message: agents batch."""


@dataclass(frozen=True)
class Plan:
    """One device to simulate."""

    name: str
    source: Source
    encoding: Encoding
    clockless: bool
    numbered: bool
    random: Random

    @property
    def frames(self) -> int:
        """Instants in one message."""
        return COMPACT_FRAMES if self.encoding == "compact" else 1


def fleet(vehicles: int, others: int, *, seed: int, prefix: str = "") -> list[Plan]:
    """So many vehicles, then so many sensors and servers in turn, the same for the same seed.

    Of each kind one in ten does not number its messages, one in eight has no clock; encodings go round.
    """
    plans: list[Plan] = []
    for number in range(vehicles):
        random = Random(f"{seed} vehicle {number}")
        plans.append(_plan(f"{prefix}vehicle-{number + 1:04}", Vehicle(random, number), number, random))
    for number in range(others):
        random = Random(f"{seed} other {number}")
        source: Source = ServerMetrics(random) if number % 2 else Sensor(random)
        plans.append(_plan(f"{prefix}{source.kind}-{number // 2 + 1:04}", source, number // 2, random))
    return plans


def _plan(name: str, source: Source, number: int, random: Random) -> Plan:
    numbered = number % 10 != 9
    if numbered:
        encoding = encodings.NUMBERED[number % 3]
    else:
        encoding = "scalar" if number % 20 == 19 else "flat"
    return Plan(name, source, encoding, clockless=numbered and number % 8 == 3, numbered=numbered, random=random)


def new_boot() -> int:
    """A boot id: random and never from the seed, as a repeated one would make every message look like a resend."""
    return random_module.SystemRandom().randint(1, 2**53 - 1)
