"""Answers that are worth keeping for a moment, in Valkey where it is configured, else in this process.

An entry carries the time of the snapshot it was made from, by the database's clock. It is served only while it is younger
than its time to live by that clock, and while no change of what it is made of was heard since (`Changes`): what Valkey
itself thinks of its age does not matter. Without Valkey, and while it is away, everything is answered, only slower.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
import valkey.asyncio
from prometheus_client import Counter, Gauge
from valkey.exceptions import ValkeyError

from outrider_gateway.changes import Changes
from outrider_gateway.query.asked import Range

log = logging.getLogger(__name__)

LOOKS = Counter(
    "outrider_gateway_cache_looks", "Looks into the cache, by kind of answer and result", ["kind", "result"]
)
FAILURES = Counter("outrider_gateway_cache_failures", "Times Valkey could not be asked; it is left alone for 2 s then")
BYTES = Gauge("outrider_gateway_cache_bytes", "Bytes of answers kept in this process")

TIMEOUT_S = 0.25
REST_S = 2.0
PREFIX = "outrider:gateway:1:"
ENTRY_MAX_BYTES = 4 * 1024 * 1024
_STAMP_BYTES = 8


@dataclass(frozen=True, slots=True)
class Key:
    """What an answer is to: which kind (it has a time to live), whose, and all that the answer depends on."""

    kind: str
    tenant: str
    device: str | None
    """None: of many devices."""
    range: Range | None
    """What it is about, by which it is known what changes it; None: of now. `parts` has it as it was asked."""
    parts: tuple[Any, ...]

    def text(self) -> str:
        """The name it is kept under."""
        digest = hashlib.sha256(orjson.dumps([self.kind, self.tenant, self.device, self.parts])).hexdigest()
        return PREFIX + digest


@dataclass(frozen=True, slots=True)
class Entry:
    """A kept answer."""

    body: bytes
    made_ms: int
    age_s: int


class Cache:
    """Looks answers up and keeps them; never raises."""

    def __init__(
        self,
        changes: Changes,
        ttl_s: dict[str, float],
        url: str = "",
        max_bytes: int = 64 * 1024 * 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ttl_s`: how long answers of each kind are good; 0: not at all."""
        self._changes = changes
        self._ttl_s = ttl_s
        self._clock = clock
        self._max_bytes = max_bytes
        self._own: OrderedDict[str, bytes] = OrderedDict()
        self._own_bytes = 0
        self._rests_until = float("-inf")
        self._shared = (
            valkey.asyncio.Valkey.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)
            if url
            else None
        )

    async def get(self, key: Key) -> Entry | None:
        """The kept answer, if it is as good as one made now within its time to live."""
        ttl_s = self._ttl_s.get(key.kind, 0)
        if ttl_s <= 0:
            return None
        if self._changes.deaf:
            LOOKS.labels(key.kind, "deaf").inc()
            return None
        name = key.text()
        kept = await self._ask(lambda shared: shared.get(name)) if self._shared is not None else None
        if kept is None:
            kept = self._own.get(name)
        entry = self._good(kept, key, ttl_s)
        LOOKS.labels(key.kind, "none" if kept is None else "old" if entry is None else "hit").inc()
        if entry is not None and name in self._own:
            self._own.move_to_end(name)
        return entry

    async def put(self, key: Key, body: bytes, made_ms: int) -> None:
        """Keep an answer that was made from a snapshot of `made_ms`, by the database's clock."""
        ttl_s = self._ttl_s.get(key.kind, 0)
        if ttl_s <= 0 or self._changes.deaf or len(body) > ENTRY_MAX_BYTES:
            return
        name, value = key.text(), made_ms.to_bytes(_STAMP_BYTES, "big") + body
        if self._shared is not None:
            done = await self._ask(lambda shared: shared.set(name, value, px=max(1, int(ttl_s * 1000))))
            if done is not None:
                return
        self._keep(name, value)

    async def close(self) -> None:
        """End the connections to Valkey."""
        if self._shared is not None:
            await self._shared.aclose()

    def _good(self, kept: bytes | None, key: Key, ttl_s: float) -> Entry | None:
        if kept is None or len(kept) < _STAMP_BYTES:
            return None
        made_ms = int.from_bytes(kept[:_STAMP_BYTES], "big")
        age_ms = self._changes.now_ms() - made_ms
        if not -1000 <= age_ms < ttl_s * 1000 or made_ms <= self._changes.newest_ms(key.tenant, key.device, key.range):
            return None
        return Entry(kept[_STAMP_BYTES:], made_ms, max(0, age_ms // 1000))

    async def _ask(self, question: Callable[[valkey.asyncio.Valkey], Any]) -> Any:
        if self._shared is None or self._clock() < self._rests_until:
            return None
        try:
            return await question(self._shared)
        except (ValkeyError, OSError, TimeoutError) as error:
            FAILURES.inc()
            if self._rests_until == float("-inf"):
                log.warning("cache_away", extra={"reason": str(error)[:200]})
            self._rests_until = self._clock() + REST_S
            return None

    def _keep(self, name: str, value: bytes) -> None:
        self._own_bytes += len(value) - len(self._own.pop(name, b""))
        self._own[name] = value
        while self._own_bytes > self._max_bytes:
            self._own_bytes -= len(self._own.popitem(last=False)[1])
        BYTES.set(self._own_bytes)
