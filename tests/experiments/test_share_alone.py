"""The experiment that ADR 0003 quotes finds the loss of bare shared subscriptions, and none with slots."""

from __future__ import annotations

from pathlib import Path

import pytest

from outrider.servers import Mosquitto
from outrider.testing.fixtures import Database
from tests.experiments.share_alone import WAYS, Setting, run

pytestmark = [pytest.mark.servers, pytest.mark.slow]


@pytest.fixture
def setting(mosquitto: Mosquitto, database: Database, tmp_path: Path) -> Setting:
    """A store so slow that a queue waits for every session when one of them is killed."""
    return Setting(
        mosquitto.url, database.admin_url, tmp_path, messages=1600, rate=6000, store_s=0.1, lease_timeout_s=1.0
    )


async def test_clean_sessions_lose_what_was_dealt_to_a_killed_consumer(setting: Setting) -> None:
    result = await run(WAYS["clean"], setting)
    assert result.accepted == 1600
    assert result.lost > 0


async def test_slots_lose_nothing_by_the_same_and_more(setting: Setting) -> None:
    result = await run(WAYS["slots"], setting)
    assert (result.accepted, result.stored, result.stuck, result.lost) == (1600, 1600, 0, 0)
