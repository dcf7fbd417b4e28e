"""Runs the golden delivery sequences (`contract/vectors/delivery`) against the reference outbox."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from outrider.device.messages import Outgoing, digest_of
from outrider.device.outbox import Outbox

VECTORS = sorted((Path(__file__).parents[4] / "contract" / "vectors" / "delivery").glob("*.json"))


class Timeline:
    """One device driven through the steps of one file."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.steps: list[dict[str, Any]] = document["steps"]
        start = self.steps[0]
        self.outbox = Outbox(boot=start["boot"], now_s=start["at_s"], capacity=document.get("capacity", 10_000))
        self.last_sent: list[Outgoing] = []
        self.payloads: dict[tuple[str, int, int], bytes] = {}

    def run(self) -> None:
        for number, step in enumerate(self.steps[1:], start=1):
            at_s = step.pop("at_s")
            [(action, argument)] = step.items()
            try:
                getattr(self, action)(at_s, argument)
            except AssertionError as error:
                raise AssertionError(f"step {number} ({action} at {at_s} s): {error}") from error

    def boot(self, at_s: float, boot: int) -> None:
        self.outbox.rebooted(boot, at_s)

    def reconnect(self, at_s: float, _: bool) -> None:
        self.outbox.reconnected()

    def record(self, at_s: float, what: dict[str, Any]) -> None:
        for _ in range(what.get("copies", 1)):
            self.outbox.add(what["stream"], what["document"], clockless=what.get("clockless", False))

    def ack(self, at_s: float, ack: dict[str, Any]) -> None:
        self.outbox.on_ack(orjson.dumps(ack), at_s)

    def ack_text(self, at_s: float, text: str) -> None:
        self.outbox.on_ack(text.encode(), at_s)

    def ack_digest(self, at_s: float, what: dict[str, Any]) -> None:
        digest = digest_of(self.last_sent[what["sent"]].payload)
        self.outbox.on_ack({"stream": what["stream"], "digest": [[digest, what["reason"]]]}, at_s)

    def expect_sent(self, at_s: float, expected: list[dict[str, Any]]) -> None:
        self.last_sent = sent = self.outbox.due(at_s)
        at = 0
        for item in expected:
            if "payload" in item:
                assert at < len(sent), f"not sent: {item}"
                assert (sent[at].stream, orjson.loads(sent[at].payload)) == (item["stream"], item["payload"])
                at += 1
                continue
            first, last = item["seq"]
            run = [(message.stream, message.boot, message.seq) for message in sent[at : at + last - first + 1]]
            assert run == [(item["stream"], item["boot"], seq) for seq in range(first, last + 1)]
            at += last - first + 1
        assert at == len(sent), f"sent too much: {sent[at:]}"
        for message in sent:
            if message.seq is not None and b"now_ms" not in message.payload:
                key = (message.stream, message.boot, message.seq)
                kept = self.payloads.setdefault(key, message.payload)
                assert kept == message.payload or b"up_ms" in message.payload, "a resend differs"

    def expect(self, at_s: float, expected: dict[str, int]) -> None:
        for name, value in expected.items():
            found = getattr(self.outbox if hasattr(self.outbox, name) else self.outbox.counts, name)
            assert found == value, f"{name} is {found}, not {value}"


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_outbox_follows_the_golden_sequence(path: Path) -> None:
    Timeline(orjson.loads(path.read_bytes())).run()


def test_vectors_are_found() -> None:
    assert len(VECTORS) >= 12
