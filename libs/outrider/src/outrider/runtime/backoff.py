"""Capped exponential backoff with full jitter, shared by everything that tries again."""

from __future__ import annotations

import random


class Backoff:
    """Delays in seconds: random between half of and the whole of `first_s`, doubling up to `max_s`."""

    def __init__(self, first_s: float = 0.2, max_s: float = 15.0) -> None:
        self.first_s = first_s
        self.max_s = max_s
        self.attempt = 0

    def next_s(self) -> float:
        """The next delay; the jitter keeps many clients from coming back in one instant."""
        ceiling = min(self.max_s, self.first_s * 2.0 ** min(self.attempt, 20))
        self.attempt += 1
        return ceiling * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Start again at `first_s` after a success."""
        self.attempt = 0
