"""What Outrider is compared with: the peers found on this machine, and the ceilings of the broker and of PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from outrider.servers import ServerError
from tests.bench import telegraf
from tests.bench.ceilings import broker_ceiling, copy_ceiling

__all__ = ["Peer", "broker_ceiling", "copy_ceiling", "missing", "peers"]


class Peer(Protocol):
    """Another way from the broker into PostgreSQL."""

    @property
    def name(self) -> str:
        """What the tables call it."""

    async def start(self) -> None:
        """Returns when it takes messages, its tables empty. ServerError with what to do if it does not."""

    async def stop(self) -> None:
        """Ends it gracefully; what it holds is written first. No-op if it does not run."""

    def pids(self) -> Mapping[str, int]:
        """Its processes by name."""

    async def committed(self) -> int:
        """Samples in its table now; exact as soon as two calls in a row give the same number."""


def peers(
    mqtt_url: str,
    postgres_url: str,
    folder: Path,
    *,
    samples_per_message: int = 1,
    shapes: Sequence[telegraf.Shape] = ("wide", "narrow", "unpivot"),
) -> list[Peer]:
    """The peers found on this machine, not started; their files go into `folder`.

    Telegraf in each of the `shapes` (`telegraf.configuration` says what they are), `samples_per_message` sizing its
    batches. They share client id and tables: run one at a time.
    """
    try:
        program = telegraf.find()
    except ServerError:
        return []
    return [telegraf.Telegraf(program, shape, mqtt_url, postgres_url, folder, samples_per_message) for shape in shapes]


def missing() -> list[str]:
    """Why other peers are not there, with the command that gets them; empty if all are."""
    try:
        telegraf.find()
    except ServerError as error:
        return [str(error)]
    return []
