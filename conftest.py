"""How `make test` spreads the tests over processes: how many processes, and which files first."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

WORKERS_PER_CORE = 2  # most tests wait for servers and timeouts, they do not compute
WORKERS_MAX = 8  # each has its own PostgreSQL; with this many the longest file is what lasts
QUICK_FOLDERS = {"unit", "contract"}

# Platforms of several processes start at once, and each would want 8080 for its console.
os.environ.setdefault("OUTRIDER_REGISTRY_HTTP_PORT", "0")

settings.register_profile("outrider", deadline=None)  # a busy machine is no counterexample
settings.load_profile("outrider")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """What `-n auto` means, unless the environment says it (PYTEST_XDIST_AUTO_NUM_WORKERS)."""
    if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None
    return min(WORKERS_MAX, WORKERS_PER_CORE * len(os.sched_getaffinity(0)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a worker process, files with slow tests come first and quick ones last, so that all workers end together."""
    if not hasattr(config, "workerinput"):
        return
    rank: dict[Path, int] = {}
    for item in items:
        own = 0 if item.get_closest_marker("slow") else 2 if QUICK_FOLDERS & set(item.path.parts) else 1
        rank[item.path] = min(own, rank.get(item.path, own))
    items.sort(key=lambda item: rank[item.path])
