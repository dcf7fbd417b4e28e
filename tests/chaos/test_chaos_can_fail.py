"""The proof that the harness can fail: deliberately broken builds are caught, each for what it does."""

from __future__ import annotations

from pathlib import Path

import pytest

from outrider.servers import ServerError
from outrider.testing.fixtures import unavailable
from tests.chaos.actions import cut, kill
from tests.chaos.devices import Load
from tests.chaos.run import SPINE, Options, Result, run
from tests.chaos.timeline import Scenario, at, every

BROKEN = Path(__file__).with_name("broken")

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(120)]


async def _play(folder: Path, build: str, scenario: Scenario) -> Result:
    path = {"PYTHONPATH": str(BROKEN / build)}
    options = Options(folder / build, seed=1, devices=16, load=Load(5, 5), environment=path, scale=SPINE, settle_s=20)
    try:
        return await run([scenario], options)
    except ServerError as error:
        unavailable("Mosquitto and PostgreSQL", error)


async def test_run_ack_before_commit_is_reported_as_loss(server_folder: Path) -> None:
    kills = every(1.5, kill("writer-timeseries"), first_s=1.5, last_s=4.5)
    result = await _play(server_folder, "ack_before_commit", Scenario("kills", faults=[4], steps=kills))
    assert result.findings.problems["lost"] > 0
    assert not result.clean


async def test_run_conflicts_ignored_is_reported_as_unnamed(server_folder: Path) -> None:
    quiet = Scenario("quiet", faults=[19], steps=[at(2, cut(0.5))])
    result = await _play(server_folder, "conflicts_ignored", quiet)
    assert result.findings.problems["unnamed"] > 0
    assert result.findings.problems["lost"] > 0
    assert not result.clean


async def test_run_anchor_per_receive_is_reported_as_misplaced(server_folder: Path) -> None:
    cuts = Scenario("cuts", faults=[18], steps=every(1, cut(), first_s=1, last_s=4))
    result = await _play(server_folder, "anchor_per_receive", cuts)
    assert result.findings.problems["misplaced"] > 0
    assert not result.clean
