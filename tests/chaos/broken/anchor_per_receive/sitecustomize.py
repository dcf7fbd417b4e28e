"""A broken build: every receipt makes its own boot anchor; the first one does not win. Put on PYTHONPATH by a test."""

from collections.abc import Sequence

from outrider_ingest.messages import BootKey, Message
from outrider_ingest.store import Anchors

_of = Anchors.of


async def of(self: Anchors, messages: Sequence[Message]) -> dict[BootKey, int]:
    fixed = await _of(self, messages)
    for message in messages:
        key, candidate = message.boot_key, message.anchor_candidate()
        if key is not None and candidate is not None:
            fixed[key] = candidate
    return fixed


Anchors.of = of  # type: ignore[method-assign]
