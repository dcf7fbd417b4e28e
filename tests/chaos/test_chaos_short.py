"""A short seeded run against the real thing: kills, a wiped broker, a frozen writer, bad input; nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from outrider.servers import ServerError
from outrider.testing.fixtures import unavailable
from tests.chaos import report
from tests.chaos.actions import RESTORED_S, cut, kill, lose_identities, reboot, reuse_boots, wipe_broker
from tests.chaos.database import lose_commit_replies
from tests.chaos.devices import Load
from tests.chaos.run import SPINE, Options, run
from tests.chaos.timeline import Scenario, at
from tests.chaos.traffic import clone_cards, flood, poison_row

SEED = 20_261
KILLS = Scenario(
    "kill-everything-once",
    faults=[1, 2, 4, 11, 18],
    steps=[
        at(0.8, kill("ingest")),
        at(1.6, kill("writer-timeseries")),
        at(2.0, reboot(0.3)),
        at(2.6, kill("postgres")),
        at(4.5, kill("mosquitto")),
        at(6.0, wipe_broker()),
        at(7.5, cut(0.5)),
    ],
)
INPUT = Scenario(
    "bad-input-and-lost-replies",
    faults=[9, 10, 12, 18, 19],
    steps=[
        at(0.2, flood(1_001)),
        at(0.3, poison_row(500)),
        at(0.5, lose_commit_replies("writer-timeseries", 4)),
        at(1, reuse_boots()),
        at(2.5, clone_cards(2)),
    ],
)
LOST = Scenario(
    "broker-loses-its-identities",
    faults=[3],
    steps=[
        at(1, lose_identities("deleted", and_kill=True)),
        at(6, lose_identities("emptied", and_kill=False)),
        at(11, lose_identities("cut off", and_kill=True)),
    ],
)


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_lost_identities_are_put_back_within_a_minute_and_no_device_is_touched(server_folder: Path) -> None:
    options = Options(server_folder / "lost", SEED, devices=20, load=Load(5, 5), scale=SPINE)
    try:
        result = await run([LOST], options)
    except ServerError as error:
        unavailable("Mosquitto and PostgreSQL", error)
    written = report.as_dict(result, "lost", options.devices)
    assert result.clean, written
    assert written["acked"] == written["in_ledger"] > 500
    assert result.counts["identities lost"] == 3
    assert 0 < result.worst["devices back after the broker lost its identities"] < RESTORED_S
    assert 0 < result.worst["the broker's file of identities whole again"] < RESTORED_S


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_short_run_keeps_every_promise(server_folder: Path) -> None:
    options = Options(server_folder / "chaos", SEED, devices=16, load=Load(4, 5), scale=SPINE)
    try:
        result = await run([KILLS, INPUT], options)
    except ServerError as error:
        unavailable("Mosquitto and PostgreSQL", error)
    written = report.as_dict(result, "short", options.devices)
    assert result.clean, written
    assert written["acked"] == written["in_ledger"] > 1_000
    assert written["kills"] == 4
    assert written["conflicts"] > 10
    assert written["max_unattended_s"] <= report.UNATTENDED_LIMIT_S, written
    assert max(written["peak_rss_bytes"][name] for name in ("ingest", "writer-timeseries")) < report.MEMORY_LIMIT_BYTES
    assert "## Scenarios" in report.page(written)
