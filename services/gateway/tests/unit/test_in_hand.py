"""Limits of what is in hand, and of wrong keys."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider_gateway.errors import TooMany
from outrider_gateway.known import FAILURES_WINDOW_S, WRONG_FOR_S, Failures, Known
from outrider_gateway.limits import InHand


@pytest.mark.parametrize(
    ("before", "one_more", "limit"),
    [
        ([("acme", "a")] * 2, ("acme", "a", 1), "device"),
        ([("acme", "a"), ("acme", "b"), ("acme", "c")], ("acme", "d", 1), "tenant"),
        ([("acme", "a"), ("acme", "b"), ("other", "a"), ("other", "b")], ("third", "a", 1), "process"),
        ([("acme", "a")], ("acme", "b", 100), "process_bytes"),
    ],
)
def test_the_limit_that_is_met_is_named(
    before: list[tuple[str, str]], one_more: tuple[str, str, int], limit: str
) -> None:
    in_hand = InHand(2, 3, 4, 100)
    for tenant, device in before:
        in_hand.take(tenant, device, 1)
    with pytest.raises(TooMany) as caught:
        in_hand.take(*one_more)
    assert caught.value.extra["limit"]["name"] == limit
    assert int(caught.value.headers["Retry-After"]) >= 1
    assert (in_hand.uploads, in_hand.bytes) == (len(before), len(before))
    in_hand.give_back(*before[0], 1)
    if limit != "process_bytes":
        in_hand.take(*one_more)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.integers(0, 9)), max_size=30))
def test_what_is_given_back_leaves_nothing(uploads: list[tuple[str, str, int]]) -> None:
    in_hand = InHand(5, 8, 12, 60)
    taken = []
    for upload in uploads:
        try:
            in_hand.take(*upload)
        except TooMany:
            continue
        taken.append(upload)
    assert in_hand.uploads == len(taken) <= 12
    assert in_hand.bytes == sum(size for *_, size in taken) <= 60
    for upload in taken:
        in_hand.give_back(*upload)
    assert (in_hand.uploads, in_hand.bytes, in_hand._of_device, in_hand._of_tenant) == (0, 0, {}, {})


class Clock:
    """Time that passes when told."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def known(**remembered: Any) -> tuple[Known, Clock]:
    clock = Clock()
    made = Known(60, clock)
    made.problem = None
    return made, clock


def test_answers_are_known_for_their_time() -> None:
    memory, clock = known()
    memory.put("good", 1, "acme", "van", changes=0, good=True)
    memory.put("short", 2, "acme", "van", changes=0, good=True, valid_s=10)
    memory.put("wrong", 3, None, None, changes=0, good=False)
    assert [memory.get(key) for key in ("good", "short", "wrong", "never")] == [1, 2, 3, None]
    clock.now_s += max(WRONG_FOR_S, 10)
    assert [memory.get(key) for key in ("good", "short", "wrong")] == [1, None, None]
    clock.now_s += 60
    assert memory.get("good") is None


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ("device:van", ["token", "other"]),
        ("token:t1", ["key", "of", "other"]),
        ("account:a1", ["key", "of", "other"]),
        ("tenant:acme", ["other"]),
        ("presence:van", ["key", "of", "token", "other", "wrong"]),
        ("device:", ["key", "of", "token", "other"]),
    ],
)
def test_a_change_makes_what_it_is_about_forgotten(change: str, left: list[str]) -> None:
    memory, _ = known()
    keys: dict[str, tuple[Any, str | None, str | None]] = {
        "key": (("device", b"1", "van"), "acme", "van"),
        "of": (("of", "van"), "acme", "van"),
        "token": (("token", b"2"), "acme", "t1"),
        "other": (("device", b"3", "car"), "other", "car"),
    }
    for name, (key, tenant, holder) in keys.items():
        memory.put(key, name, tenant, holder, changes=0, good=True)
    memory.put("wrong", "wrong", None, None, changes=0, good=False)
    memory.tell(change)
    found = [name for name, (key, *_) in keys.items() if memory.get(key) == name]
    assert found + (["wrong"] if memory.get("wrong") else []) == left


def test_what_was_read_before_a_change_is_not_remembered() -> None:
    memory, _ = known()
    before = memory.changes
    memory.tell("device:van")
    memory.put("key", 1, "acme", "van", changes=before, good=True)
    assert memory.get("key") is None


def test_while_nothing_is_heard_nothing_is_remembered() -> None:
    memory, _ = known()
    memory.problem = "deaf"
    memory.put("key", 1, "acme", "van", changes=0, good=True)
    memory.put("wrong", 1, None, None, changes=0, good=False)
    assert memory.get("key") is memory.get("wrong") is None


def test_an_address_waits_until_its_oldest_failure_is_old() -> None:
    clock = Clock()
    failures = Failures(2, clock)
    failures.note("192.0.2.1", "a")
    clock.now_s += 100
    assert failures.wait_s("192.0.2.1") == 0
    for _ in range(5):
        failures.note("192.0.2.1", "a")
    assert failures.wait_s("192.0.2.1") == 0, "the same wrong key is no further guess"
    failures.note("192.0.2.1", "b")
    assert failures.wait_s("192.0.2.1") == FAILURES_WINDOW_S - 100
    assert failures.wait_s("192.0.2.2") == 0
    clock.now_s += FAILURES_WINDOW_S - 100
    assert failures.wait_s("192.0.2.1") == 0
