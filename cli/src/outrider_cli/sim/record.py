"""Writes down what every numbered message must become in the ledger, for a checker that compares by value."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from outrider.device.messages import Message
from outrider_cli.sim.plan import Plan


class Recorder:
    """A file of JSON lines, one a row: tenant, device, stream, boot, seq, metric, value, and `ts` or `up_ms`.

    For logs `metric` is the level and `value` the text, for events the type and the text. A line with `state` is about
    a whole message: `rejected` with `reasons`, or `unacked` at the end of the run.
    """

    def __init__(self, path: Path, tenant: str) -> None:
        self._tenant = tenant
        self._file = path.open("wb", buffering=1 << 20)

    def expect(self, plan: Plan, message: Message, rows: Iterable[tuple[int, str, object]]) -> None:
        """The rows (time, metric, value) of a message that was just made."""
        time = "up_ms" if plan.clockless else "ts"
        for time_ms, metric, value in rows:
            self._write(plan, message, {"metric": metric, time: time_ms, "value": value})

    def refused(self, plan: Plan, message: Message) -> None:
        """The platform refused the message, wholly or in part."""
        self._write(plan, message, {"state": "rejected", "reasons": message.reasons})

    def unacked(self, plan: Plan, messages: Iterable[Message]) -> None:
        """Messages without an ack when the run ended."""
        for message in messages:
            self._write(plan, message, {"state": "unacked"})

    def close(self) -> None:
        """Everything is in the file when this returns."""
        self._file.close()

    def _write(self, plan: Plan, message: Message, what: dict[str, Any]) -> None:
        key = {
            "tenant": self._tenant,
            "device": plan.name,
            "stream": message.stream,
            "boot": message.boot,
            "seq": message.seq,
        }
        self._file.write(orjson.dumps(key | what, option=orjson.OPT_APPEND_NEWLINE))
