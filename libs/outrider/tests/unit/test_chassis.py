"""The small parts of the chassis: backoff, health endpoints, coalesced acks, names of migrations."""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.contract import limits
from outrider.runtime import health, migrate
from outrider.runtime.acks import BUSY_PER_S, SHORTEST_S, Acknowledger
from outrider.runtime.backoff import Backoff
from outrider.runtime.errors import ConnectionLost
from outrider.runtime.health import Health

KEY = ("demo", "van-1", "telemetry", 7)


@given(first_s=st.floats(0.01, 10), max_s=st.floats(0.01, 100), attempts=st.integers(1, 2000))
def test_backoff_doubles_within_its_bounds(first_s: float, max_s: float, attempts: int) -> None:
    backoff = Backoff(first_s, max_s)
    for attempt in range(attempts):
        ceiling = min(max_s, first_s * 2.0 ** min(attempt, 20))
        assert ceiling / 2 <= backoff.next_s() <= ceiling
    backoff.reset()
    assert backoff.next_s() <= first_s


def test_backoff_differs_between_clients() -> None:
    assert len({Backoff().next_s() for _ in range(100)}) > 90


@pytest.fixture
def served() -> Iterator[tuple[Health, int]]:
    served = Health()
    port = served.serve("127.0.0.1", 0)
    yield served, port
    served.close()


def get(port: int, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_ready_and_unready(served: tuple[Health, int]) -> None:
    service, port = served
    state: dict[str, str | None] = {"a": None, "b": None}
    service.checks.update({name: lambda name=name: state[name] for name in state})  # type: ignore[misc]
    assert get(port, "/readyz") == (200, b'{"status":"ready","problems":{}}')
    state["b"] = "no database"
    status, body = get(port, "/readyz")
    assert (status, json.loads(body)) == (503, {"status": "not ready", "problems": {"b": "no database"}})


def test_a_stalled_event_loop_is_unhealthy_until_it_ticks(
    served: tuple[Health, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, port = served
    assert get(port, "/healthz") == (200, b'{"status":"ok"}')
    monkeypatch.setattr(health, "LOOP_STALL_S", -1.0)
    assert get(port, "/healthz") == (503, b'{"status":"event loop stalled"}')
    monkeypatch.setattr(health, "LOOP_STALL_S", 30.0)
    service.tick()
    assert get(port, "/healthz")[0] == 200


def test_metrics_and_unknown_paths(served: tuple[Health, int]) -> None:
    _, port = served
    status, body = get(port, "/metrics")
    assert status == 200
    assert b"# HELP outrider_slots_held" in body
    assert get(port, "/secret")[0] == 404


class Published(list[tuple[str, dict[str, Any]]]):
    """What an Acknowledger published."""

    failing = False

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        if self.failing:
            raise ConnectionLost("no broker")
        self += [(topic, json.loads(payload)) for topic, payload in messages]


async def until(published: Published, count: int) -> None:
    async with asyncio.timeout(5):
        while len(published) < count:
            await asyncio.sleep(0.001)


async def test_acks_of_a_device_are_one_message_soon() -> None:
    published = Published()
    acks = Acknowledger(published.publish)
    running = asyncio.create_task(acks.run())
    started = time.monotonic()
    for seq in range(1, 200):
        acks.stored(KEY, [seq], "ledger-1")
    acks.stored((*KEY[:3], 8), [1], "ledger-1")
    acks.stored(("demo", "van-2", "log", 7), [5, 7], "ledger-1")
    await until(published, 3)
    took_s = time.monotonic() - started
    assert SHORTEST_S * 0.9 <= took_s < limits.ACK_COALESCE_MS / 1000
    found = {(topic, ack["stream"], ack["boot"]): ack["seq"] for topic, ack in published}
    assert found == {
        ("fleet/v1/demo/van-1/ack", "telemetry", 7): [[1, 199]],
        ("fleet/v1/demo/van-1/ack", "telemetry", 8): [[1, 1]],
        ("fleet/v1/demo/van-2/ack", "log", 7): [[5, 5], [7, 7]],
    }
    running.cancel()
    await asyncio.wait([running])
    assert len(published) == 3


async def test_acks_wait_longer_when_it_is_busy_but_never_beyond_100_ms() -> None:
    published = Published()
    acks = Acknowledger(published.publish)
    running = asyncio.create_task(acks.run())
    acks.stored(KEY, range(1, BUSY_PER_S), "ledger-1")
    await until(published, 1)
    started = time.monotonic()
    acks.stored(KEY, [1], "ledger-1")
    await until(published, 2)
    took_s = time.monotonic() - started
    assert limits.ACK_COALESCE_MS / 1000 * 0.9 <= took_s < limits.ACK_COALESCE_MS / 1000 + 0.5
    running.cancel()
    await asyncio.wait([running])


async def test_stopping_flushes_what_is_collected() -> None:
    published = Published()
    acks = Acknowledger(published.publish)
    running = asyncio.create_task(acks.run())
    await asyncio.sleep(0)  # it waits now
    acks.stored(KEY, [1], "ledger-1")
    running.cancel()
    await asyncio.wait([running])
    assert [ack["seq"] for _, ack in published] == [[[1, 1]]]


async def test_need_and_gone_travel_in_the_ack_and_only_once() -> None:
    published = Published()
    acks = Acknowledger(published.publish)
    acks.need(KEY, [(2, 4)], "ledger-1")
    acks.gone(KEY, [(5, 6)], "ledger-1")
    acks.rejected(KEY, 8, "no_time")
    acks.stored(KEY, [8], "ledger-1")
    await acks.flush()
    await acks.flush()
    ((_, ack),) = published
    assert ack == {
        "ledger": "ledger-1",
        "stream": "telemetry",
        "boot": 7,
        "seq": [[8, 8]],
        "rejected": [[8, "no_time"]],
        "need": [[2, 4]],
        "gone": [[5, 6]],
    }


async def test_a_lost_ack_ends_nothing() -> None:
    published = Published()
    acks = Acknowledger(published.publish)
    running = asyncio.create_task(acks.run())
    published.failing = True
    acks.stored(KEY, [1], "ledger-1")
    await acks.flush()
    published.failing = False
    acks.stored(KEY, [2], "ledger-1")
    await until(published, 1)
    assert published[0][1]["seq"] == [[2, 2]]
    running.cancel()
    await asyncio.wait([running])


def test_migrations_are_numbered_and_their_names_unique_over_all_packages() -> None:
    """yoyo keeps the migrations of all packages in one table, by file name."""
    services = migrate.packages()
    assert {"ingest", "writer-logs", "writer-timeseries"} <= services.keys()
    names: Counter[str] = Counter()
    for package in (migrate.BASE, *services.values()):
        folder = files(package) / "migrations"
        if not folder.is_dir():
            continue
        found = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
        steps = [name for name in found if not name.endswith(".rollback.sql")]
        assert all(re.fullmatch(r"\d{4}\.[a-z0-9-]+\.sql", name) for name in steps)
        assert [int(name[:4]) for name in steps] == list(range(1, len(steps) + 1))
        assert set(found) - set(steps) <= {name.replace(".sql", ".rollback.sql") for name in steps}
        names.update(steps)
    assert names
    assert max(names.values()) == 1, names


def test_roles_are_names_of_their_own() -> None:
    roles = [migrate.role_of(service) for service in migrate.packages()]
    assert len(set(roles)) == len(roles)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]{0,62}", role) for role in roles)
