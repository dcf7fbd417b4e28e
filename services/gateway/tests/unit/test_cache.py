"""A cached answer is never older than its time to live, and never older than a change that was heard."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from outrider_gateway.cache import Cache, Key
from outrider_gateway.changes import DEAF_S, Changes
from outrider_gateway.query.asked import Range

HOUR = 3_600_000
T0 = 1_000_000_000_000


class Clock:
    """Time that passes when told; `ms` is what the database's clock says."""

    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s

    @property
    def ms(self) -> int:
        return T0 + int(self.s * 1000)


def made(ttl_s: float = 60, max_bytes: int = 10_000) -> tuple[Cache, Changes, Clock]:
    clock = Clock()
    changes = Changes(clock)
    changes.contact(clock.ms)
    clock.s += 1
    return Cache(changes, {"aggregates": ttl_s}, "", max_bytes, clock), changes, clock


def key(device: str | None = "van-7", asked: Range | None = None, *parts: Any) -> Key:
    return Key("aggregates", "acme", device, asked or Range(T0 - 3 * HOUR, T0 - HOUR), parts or ("q",))


async def test_an_answer_is_given_again_until_its_time_is_over() -> None:
    cache, changes, clock = made()
    assert await cache.get(key()) is None
    await cache.put(key(), b"answer", clock.ms)
    clock.s += 14
    changes.contact(clock.ms)
    entry = await cache.get(key())
    assert entry is not None
    assert (entry.body, entry.age_s) == (b"answer", 14)
    for other in (key("van-8"), key("van-7", None, "other"), Key("aggregates", "other", "van-7", None, ("q",))):
        assert await cache.get(other) is None
    clock.s += 46
    changes.contact(clock.ms)
    assert await cache.get(key()) is None


async def test_a_kind_without_a_time_to_live_is_not_kept() -> None:
    cache, _, clock = made(ttl_s=0)
    await cache.put(key(), b"answer", clock.ms)
    assert await cache.get(key()) is None


async def test_changes_end_what_they_are_about_and_nothing_else() -> None:
    for channel, payload, ends in (
        ("outrider_registry", "device:van-7", True),
        ("outrider_registry", "device:van-8", False),
        ("outrider_registry", "tenant:acme", True),
        ("outrider_registry", "presence:van-7", False),
        ("outrider_rollups", str((T0 - 2 * HOUR) // HOUR * HOUR), True),
        ("outrider_rollups", str((T0 - 9 * HOUR) // HOUR * HOUR), False),
        ("outrider_rollups", "x", False),
    ):
        cache, changes, clock = made()
        await cache.put(key(), b"answer", clock.ms)
        changes.tell(channel, payload, clock.ms)
        assert (await cache.get(key()) is None) == ends, payload
    cache, changes, clock = made()
    await cache.put(key(None), b"fleet", clock.ms)
    changes.tell("outrider_registry", "device:van-8", clock.ms)
    assert await cache.get(key(None)) is None  # any device may be one of the fleet


async def test_while_changes_cannot_be_heard_nothing_is_given_or_kept() -> None:
    cache, changes, clock = made()
    await cache.put(key(), b"answer", clock.ms)
    clock.s += DEAF_S + 1
    assert await cache.get(key()) is None
    changes.lost()
    clock.s += 1
    changes.contact(clock.ms)  # heard again; what changed meanwhile is not known
    assert await cache.get(key()) is None
    await cache.put(key(), b"new", clock.ms - 1)  # from a snapshot of before
    assert await cache.get(key()) is None
    clock.s += 1
    await cache.put(key(), b"new", clock.ms)
    assert await cache.get(key()) is not None


async def test_the_least_recently_used_answers_are_dropped_first() -> None:
    cache, _, clock = made(max_bytes=400)
    for n in range(4):
        await cache.put(key("van-7", None, n), bytes(100), clock.ms)
        await cache.get(key("van-7", None, 0))
    found = [await cache.get(key("van-7", None, n)) is not None for n in range(4)]
    assert found == [True, False, True, True]


async def test_many_changes_are_remembered_as_one(monkeypatch: Any) -> None:
    monkeypatch.setattr("outrider_gateway.changes.REMEMBERED", 3)
    cache, changes, clock = made()
    await cache.put(key(), b"answer", clock.ms)
    for n in range(9):
        changes.tell("outrider_registry", f"device:x{n}", clock.ms)
    assert await cache.get(key()) is None  # whether it was among them is forgotten


STEP = st.sampled_from(["write", "write", "hear", "snapshot", "put", "get", "get", "wait", "deaf"])


@given(st.lists(STEP, max_size=60))
async def test_no_answer_is_older_than_its_time_or_than_a_change_that_was_heard(steps: list[str]) -> None:
    cache, changes, clock = made(ttl_s=20)
    version, heard, told = 0, 0, True
    written = {0: clock.s}
    snapshot = (0, clock.ms)
    for step in steps:
        clock.s += 0.5
        match step:
            case "write":  # committed; its NOTIFY is on its way
                version += 1
                written[version] = clock.s
            case "hear":
                if told:
                    changes.tell("outrider_registry", "device:van-7", clock.ms)
                    heard = version
            case "snapshot":
                snapshot = (version, clock.ms)
            case "put":
                await cache.put(key(), str(snapshot[0]).encode(), snapshot[1])
            case "get":
                entry = await cache.get(key())
                if entry is not None:
                    found = int(entry.body)
                    assert told
                    assert found >= heard
                    replaced_at = written.get(found + 1)
                    assert replaced_at is None or clock.s - replaced_at < 20
            case "wait":
                clock.s += 7
            case _:
                told = not told
                if not told:
                    changes.lost()
        if told:
            if changes.deaf:
                heard = version  # nothing of before may be given
            changes.contact(clock.ms)
