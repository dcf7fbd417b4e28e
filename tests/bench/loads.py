"""The loads of the benchmark, by letter: what a message holds, how fast it comes and how many may be under way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Encoding: TypeAlias = Literal["flat", "compact"]
DEVICE_WINDOW = 64
"""Messages of one device without application ack (delivery rule 3)."""


@dataclass(frozen=True)
class Load:
    """One load. `rate` is in messages a second; None is as fast as the acks allow.

    `in_flight` bounds the messages of all devices without ack: about a second of work at the targets' rates, so that the
    pipeline is full but what waits in the broker stays small.
    """

    letter: str
    title: str
    metrics: int
    frames: int = 1
    """Instants in one message."""
    encoding: Encoding = "flat"
    devices: int = 1_000
    connections: int | None = None
    """None: one a device, each as itself; else so many that they share, under the test account."""
    in_flight: int = 4_000
    rate: float | None = None
    persistence: str = "sqlite"
    """How the broker keeps its sessions: the default, or `file`."""
    seconds: float = 60.0
    """How long it is measured."""

    @property
    def samples(self) -> int:
        """Samples in one message."""
        return self.metrics * self.frames


LOADS = {
    load.letter: load
    for load in (
        Load("a", "1 sample a message", 1, in_flight=32_000),
        Load("b", "10 samples a message", 10, in_flight=32_000),
        Load("c", "100 samples a message", 100, in_flight=4_000),
        Load(
            "d",
            "backlog: compact, 1,000 samples, zstd",
            10,
            frames=100,
            encoding="compact",
            in_flight=1_000,
            seconds=120,
        ),
        Load("af", "as (a), broker sessions in a file", 1, in_flight=32_000, persistence="file"),
        Load("bf", "as (b), broker sessions in a file", 10, in_flight=32_000, persistence="file"),
        Load("e", "10,000 devices × 100 metrics every 30 s", 100, devices=10_000, rate=10_000 / 30),
    )
}
PEER_LOADS = "abc"
"""What the peers are measured on."""
FULL_SECONDS = {"d": 600.0}
"""Longer windows of a full run."""
GROWTH_LOAD = "b"
GROWTH_DEVICES = (100, 1_000, 10_000, 100_000)
GROWTH_REPLICAS = (1, 2, 4)
CONNECTIONS_MAX = 10_000
"""More devices than this share connections: the generator's and the broker's files are limited."""
SHARED_CONNECTIONS = 50
