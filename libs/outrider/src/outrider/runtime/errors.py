"""The two error families, because the runtime has two reactions: try again, or keep the message with its reason."""

from __future__ import annotations

from outrider.contract.reasons import Reason


class OutriderError(Exception):
    """Something went wrong; the message says what to do."""


class Transient(OutriderError):
    """It may work later: the runtime keeps the batch un-acked and retries with backoff, whatever it takes."""


class Rejected(OutriderError):
    """This input can never be stored: the runtime bisects the batch and keeps the bad message with its reason."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail


class ConnectionLost(Transient):
    """The broker connection ended; the session reconnects by itself."""


class SessionTakenOver(Transient):
    """Another process connected with this client id; do not reconnect without holding the slot's lease again."""


class NotStored(Transient):
    """The broker took the message but no session subscribes to its topic, so nobody stored it (PUBACK reason 0x10)."""
