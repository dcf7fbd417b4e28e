"""The outbox: what the golden sequences do not say, and what must hold on any lossy channel."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import orjson
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from outrider.contract import limits
from outrider.contract.topics import STREAMS
from outrider.device import ranges
from outrider.device.messages import Outgoing, digest_of
from outrider.device.outbox import Outbox

numbers = st.integers(min_value=1, max_value=60)
range_sets = st.lists(st.tuples(numbers, numbers).map(lambda pair: (min(pair), max(pair))), max_size=12)


def _members(items: list[tuple[int, int]]) -> set[int]:
    return {number for first, last in items for number in range(first, last + 1)}


@given(range_sets, range_sets)
def test_ranges_are_sets(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> None:
    union = ranges.merged(left)
    assert _members(union) == _members(left)
    assert all(one[1] + 1 < two[0] for one, two in pairwise(union))
    assert _members(ranges.without(left, right)) == _members(left) - _members(right)
    assert ranges.size(union) == len(_members(left))
    assert {number for number in range(62) if ranges.contains(union, number)} == _members(left)


ACK_FIELDS = ("stream", "boot", "seq", "need", "gone", "rejected", "digest", "ledger", "x")
any_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.sampled_from([*STREAMS, "a"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(ACK_FIELDS), inner),
    max_leaves=12,
)


@given(st.binary(max_size=200) | any_json.map(orjson.dumps))
def test_on_ack_never_raises(payload: bytes) -> None:
    outbox = Outbox(boot=2**52 + 987_654_321, now_s=0)
    outbox.add("telemetry", {"ts": 1})
    outbox.due(0)
    assert outbox.on_ack(payload, 1) == []


def test_on_ack_of_a_huge_range_is_cheap_and_acks_only_what_was_sent() -> None:
    outbox = Outbox(boot=7, now_s=0)
    for _ in range(100):
        outbox.add("telemetry", {"ts": 1})
    outbox.due(0)
    acked = outbox.on_ack({"stream": "telemetry", "boot": 7, "seq": [[1, limits.NUMBER_MAX]]}, 1)
    assert len(acked) == 64
    assert outbox.unacked == 36


def test_need_of_a_huge_range_is_one_gone_message() -> None:
    outbox = Outbox(boot=7, now_s=0)
    outbox.on_ack({"stream": "log", "boot": 8, "need": [[1, limits.NUMBER_MAX]]}, 1)
    [gone] = outbox.due(1)
    assert orjson.loads(gone.payload) == {"boot": 8, "gone": [[1, limits.NUMBER_MAX]], "reason": "not_kept"}


def test_gone_in_more_ranges_than_one_message_holds_goes_in_turns() -> None:
    outbox = Outbox(boot=7, now_s=0)
    need = [[2 * n, 2 * n] for n in range(1, 33)]
    outbox.on_ack({"stream": "event", "boot": 8, "need": need}, 1)
    outbox.on_ack({"stream": "event", "boot": 8, "need": [[100, 100]]}, 1)
    [first] = outbox.due(1)
    assert orjson.loads(first.payload)["gone"] == need
    outbox.on_ack({"stream": "event", "boot": 8, "gone": [*need, [100, 100]]}, 2)
    [second] = outbox.due(2)
    assert orjson.loads(second.payload)["gone"] == [[100, 100]]
    outbox.on_ack({"stream": "event", "boot": 8, "gone": [[100, 100]]}, 3)
    assert outbox.settled


def test_add_numbers_a_senml_pack_in_its_first_record() -> None:
    outbox = Outbox(boot=7, now_s=0)
    outbox.add("telemetry", [{"n": "a", "t": 1, "v": 1}, {"n": "b", "t": 1, "v": 2}], clockless=True)
    [sent] = outbox.due(2)
    assert orjson.loads(sent.payload) == [
        {"now_ms": 2000, "boot": 7, "seq": 1, "n": "a", "t": 1, "v": 1},
        {"n": "b", "t": 1, "v": 2},
    ]


def test_digest_ack_of_an_earlier_sending_of_a_clockless_message() -> None:
    outbox = Outbox(boot=7, now_s=0)
    outbox.add("telemetry", {"up_ms": 0, "a": 1}, clockless=True)
    [first] = outbox.due(0)
    [second] = outbox.due(30)
    assert first.payload != second.payload
    [acked] = outbox.on_ack({"stream": "telemetry", "digest": [[digest_of(first.payload), "bad_value"]]}, 31)
    assert acked.reasons == ["bad_value"]
    assert outbox.settled


def test_gone_is_settled_by_its_digest() -> None:
    outbox = Outbox(boot=7, now_s=0)
    outbox.on_ack({"stream": "log", "boot": 8, "need": [[1, 2]]}, 1)
    [gone] = outbox.due(1)
    outbox.on_ack({"stream": "log", "digest": [[digest_of(gone.payload), "bad_value"]]}, 2)
    assert outbox.settled


def test_kept_messages_are_forgotten_after_their_time() -> None:
    outbox = Outbox(boot=7, now_s=0, keep_acked_s=100)
    outbox.add("telemetry", {"ts": 1})
    outbox.due(0)
    outbox.on_ack({"stream": "telemetry", "boot": 7, "seq": [[1, 1]]}, 1)
    outbox.on_ack({"stream": "telemetry", "boot": 7, "seq": [[1, 1]]}, 102)
    outbox.on_ack({"stream": "telemetry", "boot": 7, "need": [[1, 1]]}, 103)
    [gone] = outbox.due(103)
    assert orjson.loads(gone.payload)["gone"] == [[1, 1]]


def test_one_restore_seen_on_one_stream_offers_all_streams_of_that_ledger() -> None:
    outbox = Outbox(boot=7, now_s=0)
    for stream in ("telemetry", "event"):
        outbox.add(stream, {"ts": 1})
    outbox.due(0)
    for stream in ("telemetry", "event"):
        outbox.on_ack({"stream": stream, "ledger": "A", "boot": 7, "seq": [[1, 1]]}, 1)
    outbox.on_ack({"stream": "telemetry", "ledger": "B"}, 2)
    assert {message.stream for message in outbox.due(2)} == {"telemetry", "event"}


@pytest.mark.parametrize("boot", [0, -1, 2**53])
def test_boot_outside_its_range_is_refused(boot: int) -> None:
    with pytest.raises(ValueError, match="boot"):
        Outbox(boot=boot, now_s=0)


def test_capacity_must_exceed_the_window() -> None:
    with pytest.raises(ValueError, match="capacity"):
        Outbox(boot=1, now_s=0, capacity=64)


def test_add_to_an_unknown_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="stream"):
        Outbox(boot=1, now_s=0).add("status", {})


class LossyChannel(RuleBasedStateMachine):
    """A device, a platform that stores what arrives, and a channel that loses, doubles, reorders and cuts."""

    WINDOW = 4
    CAPACITY = 12

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.boot = 1
        self.ledger = 1
        self.outbox = Outbox(boot=1, now_s=0, window=self.WINDOW, capacity=self.CAPACITY, keep_acked_s=50)
        self.value = 0
        self.made: dict[tuple[str, int, int], int] = {}
        self.stored: dict[tuple[str, int, int], int] = {}
        self.gone: set[tuple[str, int, int]] = set()
        self.first_payload: dict[tuple[str, int, int], dict[str, Any]] = {}
        self.channel: list[Outgoing] = []
        self.acks: list[bytes] = []

    @rule(stream=st.sampled_from(STREAMS), clockless=st.booleans(), copies=st.integers(1, 6))
    def record(self, stream: str, clockless: bool, copies: int) -> None:
        for _ in range(copies):
            self.value += 1
            time = {"up_ms": self.outbox.uptime_ms(self.now_s)} if clockless else {"ts": 1_700_000_000_000}
            message = self.outbox.add(stream, {**time, "n": self.value}, clockless=clockless)
            assert message.key not in self.made
            self.made[message.key] = self.value

    @rule(step_s=st.sampled_from([0.0, 0.1, 31.0, 400.0]))
    def send(self, step_s: float) -> None:
        self.now_s += step_s
        for out in self.outbox.due(self.now_s):
            self._check_identical(out)
            self.channel.append(out)
        due = self.outbox.next_due_s()
        assert due is None or due > self.now_s

    def _check_identical(self, out: Outgoing) -> None:
        if out.seq is None:
            return
        document = orjson.loads(out.payload)
        now_ms = document.pop("now_ms", None)
        assert document == self.first_payload.setdefault((out.stream, out.boot, out.seq), document)
        assert (now_ms is not None) == ("up_ms" in document and out.boot == self.boot)

    @precondition(lambda self: self.channel)
    @rule(data=st.data(), lost=st.booleans(), doubled=st.booleans(), ack_lost=st.booleans())
    def carry(self, data: st.DataObject, lost: bool, doubled: bool, ack_lost: bool) -> None:
        out = self.channel.pop(data.draw(st.integers(0, len(self.channel) - 1)))
        if lost:
            return
        if doubled:
            self.channel.append(out)
        ack = self._store(out)
        if not ack_lost:
            self.acks.append(ack)

    def _store(self, out: Outgoing) -> bytes:
        document = orjson.loads(out.payload)
        ack: dict[str, Any] = {"ledger": str(self.ledger), "stream": out.stream, "boot": document["boot"]}
        if "gone" in document:
            for first, last in document["gone"]:
                self.gone.update((out.stream, document["boot"], seq) for seq in range(first, last + 1))
            ack["gone"] = document["gone"]
        else:
            key = (out.stream, document["boot"], document["seq"])
            assert self.stored.setdefault(key, document["n"]) == document["n"], "two values under one number"
            ack["seq"] = [[document["seq"], document["seq"]]]
        return orjson.dumps(ack)

    @precondition(lambda self: self.acks)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        ack = self.acks.pop(data.draw(st.integers(0, len(self.acks) - 1)))
        for message in self.outbox.on_ack(ack, self.now_s):
            assert message.key in self.stored, "acked without being stored"

    @rule(stream=st.sampled_from(STREAMS), first=st.integers(1, 10), length=st.integers(0, 5))
    def need(self, stream: str, first: int, length: int) -> None:
        self.acks.append(orjson.dumps({"stream": stream, "boot": self.boot, "need": [[first, first + length]]}))

    @rule()
    def cut(self) -> None:
        self.outbox.reconnected()

    @rule()
    def reboot(self) -> None:
        self.boot += 1
        self.outbox.rebooted(self.boot, self.now_s)

    @rule()
    def restore_database(self) -> None:
        self.ledger += 1
        self.acks.append(orjson.dumps({"ledger": str(self.ledger), "stream": "telemetry"}))

    @invariant()
    def window_holds(self) -> None:
        assert self.outbox.in_flight <= self.WINDOW
        assert 0 <= self.outbox.unacked <= self.CAPACITY

    def teardown(self) -> None:
        """The channel heals: everything made is stored or announced as gone, and the outbox comes to rest."""
        for ack in self.acks:
            self.outbox.on_ack(ack, self.now_s)
        for _ in range(1_000):
            if self.outbox.settled:
                break
            self.now_s += 1
            for out in self.outbox.due(self.now_s):
                self._check_identical(out)
                self.outbox.on_ack(self._store(out), self.now_s)
            due = self.outbox.next_due_s()
            if due is not None:
                self.now_s = max(self.now_s, due)
        assert self.outbox.settled
        for key, value in self.made.items():
            assert self.stored.get(key) == value or key in self.gone
        discarded = {key for key in self.made if key not in self.stored}
        assert len(discarded) <= self.outbox.counts.discarded
        counts = self.outbox.counts
        again = counts.needed + counts.offered_again
        assert counts.acked == counts.added - counts.discarded + again
        super().teardown()


LossyChannel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLossyChannel = LossyChannel.TestCase
