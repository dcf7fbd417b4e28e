"""kill -9 of ingest, writer, PostgreSQL and Mosquitto while devices send: every acknowledged row is there, once, by value."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import psycopg
import pytest

from outrider.testing.checker import compare
from outrider.testing.derived import trip_differences
from outrider.testing.waiting import eventually
from outrider_cli.platform import Platform

OUTRIDER = str(Path(sys.executable).with_name("outrider"))


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_kill_each_part_once(tmp_path: Path, server_folder: Path) -> None:
    record = tmp_path / "expected.jsonl"
    with Platform(
        server_folder / "kills",
        scale={"lifecycle": 0, "gateway": 0},
        environment={"OUTRIDER_TRIPS_REFRESH_S": "1"},
    ) as platform:
        platform.wait_ready(60)
        state = platform.state
        sim = await asyncio.create_subprocess_exec(
            *(
                OUTRIDER,
                "sim",
                "--data",
                str(platform.data_dir),
                "--devices",
                "60",
                "--duration",
                "32",
                "--drain",
                "90",
            ),
            *("--record", str(record), "--counter", "--json"),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            for victim in ("ingest", "trips", "writer-timeseries", "writer-logs", "postgres", "mosquitto"):
                await _several_seconds_of_traffic(state.database_url)
                process = state.services.get(victim) or state.servers[victim]
                before = process.pid
                assert before is not None
                os.kill(before, signal.SIGKILL)
                await eventually(lambda process=process, before=before: process.pid not in (None, before), 30)
            async with asyncio.timeout(150):
                output, _ = await sim.communicate()
        finally:
            if sim.returncode is None:
                sim.kill()
                await sim.wait()
        summary = json.loads(output)
        assert summary["unacked"] == 0
        found = compare(record, state.database_url)
        assert found.clean, (
            f"{len(found.missing)} missing {found.missing[:3]}, {len(found.extra)} extra {found.extra[:3]}"
        )
        assert found.rows > 5_000
        assert found.unacked == 0
        await _made_of_it(state.database_url)


async def _made_of_it(database_url: str) -> None:
    """Trips are those of all positions, whatever was killed."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        await eventually(lambda: connection.execute("SELECT FROM trips.touched LIMIT 1").fetchone() is None, 60)
        trips, wrong = trip_differences(connection)
        assert wrong == []
        assert trips > 0


async def _several_seconds_of_traffic(database_url: str) -> None:
    """Wait until a few hundred more messages are accounted for, so that every kill hits a busy platform."""

    def stored() -> int:
        try:
            with psycopg.connect(database_url, connect_timeout=2) as connection:
                counted = connection.execute(
                    "SELECT coalesce(sum(upper(stored) - lower(stored)), 0) FROM telemetry.sequence"
                ).fetchone()
                assert counted is not None
                return int(counted[0])
        except psycopg.Error:
            return -1

    start = await eventually(lambda: stored() + 1, 30)
    await eventually(lambda: stored() > start + 100, 60)
