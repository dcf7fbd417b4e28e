"""`outrider slots raise` and `retire` while devices send: nothing is lost, doubled or left un-acknowledged."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import psycopg
import pytest

from outrider.testing.checker import compare
from outrider.testing.waiting import eventually
from outrider_cli.platform import Platform

OUTRIDER = str(Path(sys.executable).with_name("outrider"))


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_more_slots_and_fewer_while_devices_send(tmp_path: Path, server_folder: Path) -> None:
    record = tmp_path / "expected.jsonl"
    with Platform(server_folder / "slots", scale={"trips": 0, "lifecycle": 0, "gateway": 0}) as platform:
        platform.wait_ready(60)
        url = platform.state.database_url

        async def outrider(*arguments: str) -> str:
            process = await asyncio.create_subprocess_exec(
                OUTRIDER, *arguments, "--database-url", url, stdout=asyncio.subprocess.PIPE
            )
            output, _ = await process.communicate()
            assert process.returncode == 0, output.decode()
            return output.decode()

        def committed(topic: str) -> int:
            with psycopg.connect(url) as connection:
                statement = "SELECT coalesce(sum(number), 0) FROM runtime.committed WHERE topic = %s"
                row = connection.execute(statement, (topic,)).fetchone()
                assert row is not None
                return int(row[0])

        sim = await asyncio.create_subprocess_exec(
            *(OUTRIDER, "sim", "--data", str(platform.data_dir), "--devices", "40", "--rate", "2", "--duration", "20"),
            *("--record", str(record), "--json"),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            await eventually(lambda: committed("outrider/v1/samples/0") > 5, 30)
            await outrider("slots", "raise", "writer-timeseries", "5")
            await eventually(lambda: committed("outrider/v1/samples/4") > 5, 30)
            await outrider("slots", "retire", "writer-timeseries")
            await outrider("slots", "retire", "ingest")
            async with asyncio.timeout(120):
                output, _ = await sim.communicate()
        finally:
            if sim.returncode is None:
                sim.kill()
                await sim.wait()
        listed = json.loads(await outrider("slots", "--json"))
        assert [slot["slot"] for slot in listed if slot["group_name"] == "writer-timeseries"] == [0, 1, 2, 3]
        assert [slot["slot"] for slot in listed if slot["group_name"] == "ingest"] == [0, 1, 2]
        summary = json.loads(output)
        assert (summary["unacked"], summary["rejected"]) == (0, 0)
        found = compare(record, url)
        assert found.clean, f"missing {found.missing[:3]}, extra {found.extra[:3]}"
        assert found.rows > 1_000
