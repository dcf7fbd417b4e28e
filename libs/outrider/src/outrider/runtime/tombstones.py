"""Erased devices: what still arrives of them is dropped, acknowledged as rejected, and leaves nothing behind.

A store sorts out what is of an erased device before, and asks in its own transaction whether that still holds, which
costs one row of one small table. A transaction that began before the tombstone does not see it; erasing therefore comes
back after those have ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import psycopg

from outrider.contract.batch import Header

VERSION = "SELECT number FROM runtime.tombstone_version"
DEVICES = "SELECT device FROM runtime.tombstone"

T = TypeVar("T")


class TombstonesChanged(Exception):
    """Devices were erased, or their ids freed, since this batch was sorted: forget what is known of devices and sort it
    again. Nothing was stored."""


class Tombstones:
    """The erased devices, as of the newest transaction that looked; the slots of a process share them.

    `version` is another one whenever devices were erased, their ids freed, or their series removed.
    """

    def __init__(self) -> None:
        self.version: int | None = None
        self.devices: frozenset[str] = frozenset()

    async def ask(self, connection: psycopg.AsyncConnection) -> psycopg.AsyncCursor:
        """The question whether devices were erased; it may stand in a pipeline."""
        return await connection.execute(VERSION)

    async def check(
        self,
        connection: psycopg.AsyncConnection,
        asked: psycopg.AsyncCursor,
        sorted_by: int | None,
        *headers: Iterable[Header],
    ) -> None:
        """The answer. `sorted_by`: the version when these messages were sorted, before anything was looked up for them.

        Raises TombstonesChanged, out of the transaction, when it is another one now.
        """
        row = await asked.fetchone()
        version = int(row[0]) if row else 0
        if version != self.version:
            rows = await (await connection.execute(DEVICES)).fetchall()
            self.version, self.devices = version, frozenset([device for (device,) in rows])
        if version == sorted_by:
            return
        if sorted_by is not None or any(header.device in self.devices for some in headers for header in some):
            raise TombstonesChanged

    def sort(self, headers: Sequence[Header], content: Sequence[T]) -> tuple[list[Header], list[T], list[Header]]:
        """Headers with the content of each, without those of erased devices, whose headers come third."""
        pairs = list(zip(headers, content, strict=True))
        kept = [pair for pair in pairs if pair[0].device not in self.devices]
        erased = [header for header in headers if header.device in self.devices]
        return [header for header, _ in kept], [item for _, item in kept], erased
