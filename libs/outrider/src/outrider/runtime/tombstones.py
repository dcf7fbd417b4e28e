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
    """The erased devices, as of the newest transaction that looked."""

    def __init__(self) -> None:
        self._version: int | None = None
        self.devices: frozenset[str] = frozenset()

    async def ask(self, connection: psycopg.AsyncConnection) -> psycopg.AsyncCursor:
        """The question whether devices were erased; it may stand in a pipeline."""
        return await connection.execute(VERSION)

    async def check(
        self, connection: psycopg.AsyncConnection, asked: psycopg.AsyncCursor, *headers: Iterable[Header]
    ) -> None:
        """The answer. Raises TombstonesChanged, out of the transaction, when it is not what these messages were sorted by."""
        row = await asked.fetchone()
        version = int(row[0]) if row else 0
        if version == self._version:
            return
        first = self._version is None
        rows = await (await connection.execute(DEVICES)).fetchall()
        self._version, self.devices = version, frozenset([device for (device,) in rows])
        if not first or any(header.device in self.devices for some in headers for header in some):
            raise TombstonesChanged

    def sort(self, headers: Sequence[Header], content: Sequence[T]) -> tuple[list[Header], list[T], list[Header]]:
        """Headers with the content of each, without those of erased devices, whose headers come third."""
        pairs = list(zip(headers, content, strict=True))
        kept = [pair for pair in pairs if pair[0].device not in self.devices]
        erased = [header for header in headers if header.device in self.devices]
        return [header for header, _ in kept], [item for _, item in kept], erased
