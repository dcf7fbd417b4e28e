"""A broken build: the writer acknowledges, to broker and device, before it commits. Put on PYTHONPATH by a test."""

import asyncio
from collections.abc import Sequence
from typing import Any

import outrider_writer_timeseries.store as store
from outrider.runtime.acks import Acknowledger
from outrider.runtime.consumer import Consumer
from outrider.runtime.mqtt import Delivery
from outrider.runtime.session import Session
from outrider.runtime.slots import Lease
from outrider.runtime.verdicts import Verdicts, acknowledge

LATE_S = 0.6
"""Between ack and commit, so that a kill meets the gap soon."""

_acknowledgers: list[Acknowledger] = []
_make, _settle, _store = Acknowledger.__init__, Consumer._settle, store.Ledger.store


def make(self: Acknowledger, *arguments: Any) -> None:
    _make(self, *arguments)
    _acknowledgers.append(self)


async def settle(self: Consumer, lease: Lease, batch: Sequence[Delivery], session: Session) -> None:
    if self.settings.group == "writer-timeseries":
        session.ack(batch)
    await _settle(self, lease, batch, session)


async def store_late(self: store.Ledger, work: store.Work) -> store.Stored:
    if self._ledger is not None:
        headers = [header for _, batch in work.samples for header in batch.headers]
        acknowledge(Verdicts(headers), _acknowledgers[0], self._ledger)
        await asyncio.sleep(LATE_S)
    return await _store(self, work)


Acknowledger.__init__ = make  # type: ignore[assignment,method-assign]
Consumer._settle = settle  # type: ignore[method-assign]
store.Ledger.store = store_late  # type: ignore[method-assign]
