"""Who is in a simulated fleet: kinds, encodings, who has no clock and who does not number messages."""

from __future__ import annotations

import random as random_module
from dataclasses import dataclass
from random import Random
from typing import Any

from outrider_cli.sim import encodings
from outrider_cli.sim.encodings import Encoding
from outrider_cli.sim.sources import TAPES, Sensor, ServerMetrics, Source, Vehicle, load_tape

COMPACT_FRAMES = 5
"""Instants in one compact message: agents batch."""

LOOKS = {
    "vehicle": (
        ("car", "obd", "obd-dongle"),
        ("van", "obd", "obd-dongle"),
        ("van", "pi", "pi-zero-2"),
        ("car", "phone", "phone"),
    ),
    "sensor": (("sensor", "esp32", "esp32-s3"), ("sensor", "esp32", "esp32-c3")),
    "server": (("server", "pi", "pi-5"), ("server", "server", "x86")),
}
"""Type, tier and hardware by kind of source."""
REGIONS = ("north", "south", "east", "west")
FIRMWARE = ("1.4.0", "1.4.0", "1.4.1", "1.4.1", "1.5.0-rc.1")
SITES = 4
SITE_DEG = 0.003


@dataclass(frozen=True)
class Plan:
    """One device to simulate."""

    name: str
    source: Source
    encoding: Encoding
    clockless: bool
    numbered: bool
    random: Random
    type: str = ""
    tier: str = ""
    tags: tuple[str, ...] = ()
    firmware: str = ""
    hardware: str = ""
    latitude: float | None = None
    """Of a device that stands still; the others send positions."""
    longitude: float | None = None

    @property
    def registration(self) -> dict[str, Any]:
        """What the registry is told of it."""
        place = {} if self.latitude is None else {"latitude": self.latitude, "longitude": self.longitude}
        return {
            "id": self.name,
            "name": self.name.replace("-", " ").capitalize(),
            "type": self.type,
            "tier": self.tier,
            "tags": list(self.tags),
            "firmware": self.firmware,
            "hardware": self.hardware,
            "serial": f"SIM-{self.name.upper()}",
            **place,
        }

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
    # A random source of its own: what a device is called changes nothing of what it measures.
    looks = Random(f"{name} looks")
    kind, tier, hardware = looks.choice(LOOKS[source.kind])
    latitude = longitude = None
    if isinstance(source, Vehicle):
        tags = ("fleet", looks.choice(REGIONS), *looks.choice(((), ("pool",), ("rental",))))
    else:
        site = looks.randrange(SITES)
        latitude, longitude = place_of(site, looks)
        tags = (f"site-{site + 1}", *(("critical",) if looks.random() < 0.1 else ()))
    return Plan(
        name,
        source,
        encoding,
        clockless=numbered and number % 8 == 3,
        numbered=numbered,
        random=random,
        type=kind,
        tier=tier,
        tags=tags,
        firmware=looks.choice(FIRMWARE),
        hardware=hardware,
        latitude=latitude,
        longitude=longitude,
    )


def place_of(site: int, random: Random) -> tuple[float, float]:
    """Where a device of a site stands: beside a recorded road, so that one map shows the whole fleet."""
    tape = load_tape(TAPES[site % len(TAPES)])
    row = tape.rows[(site + 1) * len(tape.rows) // (SITES + 1)]
    around = (random.uniform(-1, 1) * SITE_DEG for _ in range(2))
    return round(float(row["lat"]) + next(around), 5), round(float(row["lon"]) + next(around), 5)


def new_boot() -> int:
    """A boot id: random and never from the seed, as a repeated one would make every message look like a resend."""
    return random_module.SystemRandom().randint(1, 2**53 - 1)
