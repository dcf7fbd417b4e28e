"""A memory of what the registry said, which forgets what the registry says has changed; and a count of wrong keys."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Any

import psycopg

from outrider.runtime.backoff import Backoff

log = logging.getLogger(__name__)

LISTEN = "LISTEN outrider_registry"
ALIVE_S = 5.0
WRONG_FOR_S = 5.0
"""So long a wrong key is known to be wrong without another look; when the registry changes something it is looked at anyway."""
KNOWN_MAX = 200_000
WRONG_MAX = 10_000
FAILURES_WINDOW_S = 300.0
ADDRESSES_MAX = 50_000


class Known:
    """Answers of the registry by what was asked. The least recently used is forgotten first.

    While changes are not heard (`problem` is not None) nothing is in it.
    """

    def __init__(self, cache_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._cache_s = cache_s
        self._clock = clock
        self._entries: OrderedDict[Hashable, tuple[Any, float, str | None, str | None]] = OrderedDict()
        self._of_holder: dict[str, set[Hashable]] = {}
        self._wrong: dict[Hashable, tuple[Any, float]] = {}
        self.changes = 0
        """What was read before a change was told may be from before the change."""
        self.problem: str | None = "has not heard from the registry yet"

    def get(self, key: Hashable) -> Any:
        """The answer, or None."""
        entry = self._entries.get(key)
        if entry is not None:
            if entry[1] > self._clock():
                self._entries.move_to_end(key)
                return entry[0]
            self._drop(key)
        wrong = self._wrong.get(key)
        if wrong is not None and wrong[1] > self._clock():
            return wrong[0]
        return None

    def put(
        self,
        key: Hashable,
        answer: Any,
        tenant: str | None,
        holder: str | None,
        *,
        changes: int,
        good: bool,
        valid_s: float | None = None,
    ) -> None:
        """Remember an answer, unless something changed since `changes` was read. `holder`: the device, or the token's id."""
        if self.problem is not None or changes != self.changes:
            return
        if not good:
            if len(self._wrong) >= WRONG_MAX:
                self._wrong.clear()
            self._wrong[key] = answer, self._clock() + WRONG_FOR_S
            return
        until_s = self._clock() + min(self._cache_s, math.inf if valid_s is None else valid_s)
        self._drop(key)
        self._entries[key] = answer, until_s, tenant, holder
        if holder is not None:
            self._of_holder.setdefault(holder, set()).add(key)
        if len(self._entries) > KNOWN_MAX:
            self._drop(next(iter(self._entries)))

    def tell(self, change: str) -> None:
        """Forget what a change of the registry makes doubtful: `device:ID`, `token:ID`, `account:ID`, `tenant:NAME`."""
        kind, _, name = change.partition(":")
        if kind in ("device", "token"):
            self._changed()
            for key in list(self._of_holder.get(name, ())):
                self._drop(key)
        elif kind == "account":  # of whose tokens only the ids are known: accounts change seldom
            self._changed()
            for key in [key for key in self._entries if isinstance(key, tuple) and key[0] == "token"]:
                self._drop(key)
        elif kind == "tenant":
            self._changed()
            for key in [key for key, entry in self._entries.items() if entry[2] == name or key == ("tenant", name)]:
                self._drop(key)

    def forget(self) -> None:
        """Forget everything: changes may have been missed."""
        self._changed()
        self._entries.clear()
        self._of_holder.clear()

    def _changed(self) -> None:
        self.changes += 1
        self._wrong.clear()

    def _drop(self, key: Hashable) -> None:
        entry = self._entries.pop(key, None)
        if entry is None or entry[3] is None:
            return
        keys = self._of_holder.get(entry[3])
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self._of_holder[entry[3]]


class Failures:
    """Different wrong keys per address in the last five minutes, in this process.

    The same one again is nobody's guess: a device that was disabled, or has an old key, does not shut out its neighbours.
    """

    def __init__(self, maximum: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.max = maximum
        self._clock = clock
        self._of: OrderedDict[str, deque[tuple[float, Hashable]]] = OrderedDict()

    def wait_s(self, address: str) -> int:
        """How long this address must wait for another look; 0: not at all."""
        times = self._of.get(address)
        if times is None or len(times) < self.max:
            return 0
        return max(0, math.ceil(times[0][0] + FAILURES_WINDOW_S - self._clock()))

    def note(self, address: str, key: Hashable) -> None:
        """This wrong key came from there."""
        times = self._of.pop(address, None) or deque(maxlen=self.max)
        if all(key != before for _, before in times):
            times.append((self._clock(), key))
        self._of[address] = times
        if len(self._of) > ADDRESSES_MAX:
            self._of.popitem(last=False)


async def listen(database_url: str, application_name: str, known: Known) -> None:
    """Tell `known` of every change until cancelled. While that cannot be, it is empty."""
    backoff = Backoff()
    while True:
        try:
            connection = await psycopg.AsyncConnection.connect(
                database_url,
                autocommit=True,
                application_name=application_name,
                connect_timeout=5,
                keepalives_idle=5,
                keepalives_interval=2,
                keepalives_count=3,
                tcp_user_timeout=15000,
            )
            async with connection:
                await connection.execute(LISTEN)
                known.forget()
                known.problem = None
                backoff.reset()
                while True:
                    async for notice in connection.notifies(timeout=ALIVE_S):
                        known.tell(notice.payload)
                    await connection.execute("SELECT 1")  # a connection that died without a word is noticed
        except psycopg.Error as error:
            known.problem = f"does not hear of changes in the registry: {str(error).strip().split(chr(10), 1)[0]}"
            log.warning("registry_not_heard", extra={"reason": known.problem})
        finally:
            known.problem = known.problem or "does not hear of changes in the registry"
            known.forget()
        await asyncio.sleep(backoff.next_s())
