"""The device's side of the control plane: at most once, newest desired state, secrets that are renewed without a gap."""

from __future__ import annotations

import hashlib
from typing import Any

import hypothesis.strategies as st
import orjson
import pytest
from hypothesis import given

from outrider.device.control import REMEMBERED_COMMANDS, Answer, Commands, Order, Secrets, Shadow, difference

NOW_MS = 1_790_000_000_000


def command(command_id: str = "c-1", **fields: Any) -> bytes:
    return orjson.dumps({"id": command_id, "params": {}, "expires_ms": NOW_MS + 60_000, **fields})


def test_commands_twice_is_carried_out_once_and_answered_twice() -> None:
    commands = Commands()
    order = commands.receive("reboot", command(params={"delay_s": 5}), NOW_MS)
    assert order == Order("c-1", "reboot", {"delay_s": 5})
    assert isinstance(order, Order)
    accepted = commands.answer(order, "accepted")
    assert commands.receive("reboot", command(), NOW_MS) == accepted
    done = commands.answer(order, "succeeded", {"boot": 7})
    assert orjson.loads(done.payload) == {"id": "c-1", "status": "succeeded", "result": {"boot": 7}}
    assert commands.receive("reboot", command(), NOW_MS + 10**9) == done


def test_commands_too_late_is_expired_for_good_unless_the_device_has_no_clock() -> None:
    commands = Commands()
    late = commands.receive("reboot", command(), NOW_MS + 60_000)
    assert late == Answer("reboot", orjson.dumps({"id": "c-1", "status": "expired"}))
    assert commands.receive("reboot", command(), NOW_MS) == late  # its clock was set back meanwhile
    assert isinstance(Commands().receive("reboot", command(expires_ms=1), None), Order)


def test_commands_interrupted_by_a_power_cut_fail_and_are_not_begun_again() -> None:
    commands = Commands()
    for command_id in ("done", "begun"):
        order = commands.receive("get-logs", command(command_id), NOW_MS)
        assert isinstance(order, Order)
        commands.answer(order, "accepted")
        if command_id == "done":
            commands.answer(order, "succeeded", 3)
    after = Commands(orjson.loads(orjson.dumps(commands.kept())))
    (failed,) = after.interrupted()
    assert orjson.loads(failed.payload)["status"] == "failed"
    assert after.receive("get-logs", command("begun"), NOW_MS) == failed
    again = after.receive("get-logs", command("done"), NOW_MS)
    assert isinstance(again, Answer)
    assert orjson.loads(again.payload) == {"id": "done", "status": "succeeded", "result": 3}
    assert after.interrupted() == []


def test_commands_remembers_a_bounded_number_the_newest() -> None:
    commands = Commands()
    for number in range(REMEMBERED_COMMANDS + 10):
        order = commands.receive("x", command(f"c-{number}"), NOW_MS)
        assert isinstance(order, Order)
        commands.answer(order, "succeeded")
    for number in range(REMEMBERED_COMMANDS + 10):
        assert isinstance(commands.receive("x", command(f"late-{number}", expires_ms=1), NOW_MS), Answer)
    assert len(commands.kept()) == REMEMBERED_COMMANDS
    assert commands.kept()[-1]["id"] == f"late-{REMEMBERED_COMMANDS + 9}"


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[]", b"7", b'{"id":7}', b'{"id":""}', b'{"params":{}}', b'{"id":"a","params":[1]}', b"\xff"],
)
def test_commands_what_is_no_command_asks_for_nothing(payload: bytes) -> None:
    assert Commands().receive("reboot", payload, NOW_MS) is None


def test_shadow_takes_the_newest_once_and_nothing_older() -> None:
    shadow = Shadow()
    taken = [shadow.desired(orjson.dumps({"version": n, "state": {"interval_s": n}})) for n in (5, 3, 5, 100, 99)]
    assert taken == [{"interval_s": 5}, None, None, {"interval_s": 100}, None]
    assert shadow.version == 100


@pytest.mark.parametrize(
    "payload", [b"", b"{}", b'{"version":"1","state":{}}', b'{"version":true,"state":{}}', b'{"version":1,"state":[]}']
)
def test_shadow_ignores_what_is_no_desired_state(payload: bytes) -> None:
    assert Shadow().desired(payload) is None


def test_shadow_reports_the_changes_since_the_report_that_arrived() -> None:
    shadow = Shadow(version=4)
    first = {"interval_s": 5, "old": True}
    assert orjson.loads(shadow.report(first)) == {"version": 4, "state": first}
    assert orjson.loads(shadow.report(first))["state"] == first  # the first one was lost
    shadow.was_reported(first)
    assert orjson.loads(shadow.report({"interval_s": 9}))["state"] == {"interval_s": 9, "old": None}


values = st.recursive(
    st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.text("ab", max_size=2) | st.lists(st.integers(0, 2)),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from("abcd"), values, max_size=4)


@given(objects, objects)
def test_difference_merged_into_the_one_gives_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert orjson.dumps(_merged(before, difference(before, after)), option=orjson.OPT_SORT_KEYS) == orjson.dumps(
        after, option=orjson.OPT_SORT_KEYS
    )
    assert difference(after, after) == {}


def _merged(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2, to the letter."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


def test_secrets_confirms_the_next_and_tries_it_before_the_old_one_until_it_is_taken() -> None:
    secrets = Secrets({1: "a" * 43})
    offer = orjson.dumps({"generation": 2, "secret": "b" * 43})
    confirm = secrets.offered(offer)
    assert confirm is not None
    assert orjson.loads(confirm) == {"generation": 2, "digest": hashlib.sha256(b"b" * 43).hexdigest()[:16]}
    assert secrets.offered(offer) == confirm, "the confirmation may have been lost"
    assert [secrets.to_try(attempt) for attempt in range(3)] == [(2, "b" * 43), (1, "a" * 43), (2, "b" * 43)]
    secrets.took(1)
    assert secrets.kept() == {1: "a" * 43, 2: "b" * 43}
    secrets.took(2)
    assert secrets.kept() == {2: "b" * 43}
    assert secrets.offered(orjson.dumps({"generation": 1, "secret": "a" * 43})) is None


@pytest.mark.parametrize("payload", [b"", b"[]", b'{"generation":"2","secret":"x"}', b'{"generation":2}'])
def test_secrets_ignores_what_is_no_secret(payload: bytes) -> None:
    assert Secrets({1: "a"}).offered(payload) is None


def test_secrets_of_nobody_are_refused() -> None:
    with pytest.raises(ValueError, match="without a secret"):
        Secrets({})
