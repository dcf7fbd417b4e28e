"""Every command of docs/howto/send-data.md, run against a real broker and database."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.bench import telegraf

from outrider.servers import Mosquitto
from outrider.testing.devices import add_device
from outrider.testing.fixtures import Database
from outrider.testing.services import running
from outrider.testing.waiting import eventually
from outrider_ingest.app import service as ingest
from outrider_writer_logs.app import service as writer_logs
from outrider_writer_timeseries.app import service as writer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "send-data.md"
BLOCK = re.compile(r"^```(bash|python|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SAMPLES = "SELECT metric, count(*) FROM telemetry.latest WHERE device = 'hand-1' GROUP BY metric"
METRICS = {
    "temp_c",
    "door_open",
    "gear",
    "speed_kmh",
    "rpm",
    "humidity_pct",
    "state",
    "engine_oil_temp",
    "engine_load",
    "cpu_pct",
    "mem_pct",
    "battery_v",
    "engine_coolant",
    "weather_cellar_temp_c",
    "weather_cellar_humidity_pct",
    "weather_cellar_open",
    "disk_root_free",
    "disk_var_lib_free",
    "oil_c",
}
TELEGRAF = {"cpu_cpu_total_usage_idle", "mem_total", "disk_root_free"}


def code(language: str) -> str:
    """All blocks of a language, in their order."""
    return "\n".join(text for found, text in BLOCK.findall(PAGE.read_text()) if found == language)


@pytest.mark.servers
async def test_what_the_page_sends_is_stored(mosquitto: Mosquitto, database: Database, tmp_path: Path) -> None:
    if not mosquitto.write_client_commands(tmp_path / ".outrider/bin"):
        pytest.skip("mosquitto_pub cannot be had here: no mosquitto-clients beside this broker")
    urls = database.service_urls
    database.rows("INSERT INTO registry.tenant (name) VALUES ('demo')")
    environments = {}
    for name in ("hand-1", "pi-8"):
        database.rows("INSERT INTO registry.device (id, tenant) VALUES (%s, 'demo')", name)
        login = urlsplit(await add_device(mosquitto, name))
        environments[name] = {**os.environ, "PORT": str(login.port), "SECRET": str(login.password)}
    async with (
        running(writer, mosquitto.url_of("writer-timeseries"), urls["writer-timeseries"]),
        running(writer_logs, mosquitto.url_of("writer-logs"), urls["writer-logs"]),
        running(ingest, mosquitto.url_of("ingest"), urls["ingest"], ingest_directory="registry"),
    ):
        script = "set -e\n" + code("bash")
        shell = await asyncio.create_subprocess_exec("bash", "-c", script, cwd=tmp_path, env=environments["hand-1"])
        assert await asyncio.wait_for(shell.wait(), 60) == 0

        await eventually(lambda: {metric for metric, _ in database.rows(SAMPLES)} >= METRICS)
        assert {metric for metric, _ in database.rows(SAMPLES)} == METRICS
        levels = "SELECT level FROM logs.line WHERE device = 'hand-1' ORDER BY level"
        await eventually(lambda: database.rows(levels) == [("error",), ("info",), ("warning",)])
        await eventually(lambda: database.rows("SELECT type FROM telemetry.event") == [("dtc",)])
        assert database.rows("SELECT reason, detail FROM rejected.message") == []

        number = "SELECT contiguous_seq FROM telemetry.sequence_state WHERE device = 'hand-1' AND boot = 78"
        await eventually(lambda: database.rows(number) == [(1,)])

        device = await asyncio.create_subprocess_exec(sys.executable, "-c", code("python"), env=environments["pi-8"])
        assert await asyncio.wait_for(device.wait(), 60) == 0
        state = "SELECT contiguous_seq, missing, duplicates FROM telemetry.sequence_state WHERE device = 'pi-8'"
        assert database.rows(state) == [(20, 0, 0)]


@pytest.mark.servers
async def test_a_telegraf_agent_sends_as_it_is(mosquitto: Mosquitto, database: Database, tmp_path: Path) -> None:
    program = telegraf.with_output("mqtt")
    if program is None:
        pytest.skip("no Telegraf with outputs.mqtt here; golden vectors hold what one wrote")
    urls = database.service_urls
    database.rows("INSERT INTO registry.tenant (name) VALUES ('demo')")
    database.rows("INSERT INTO registry.device (id, tenant) VALUES ('hand-1', 'demo')")
    login = urlsplit(await add_device(mosquitto, "hand-1"))
    config = tmp_path / "telegraf.conf"
    config.write_text(code("toml").replace('interval = "10s"', 'interval = "1s"'))
    environment = {**os.environ, "PORT": str(login.port), "SECRET": str(login.password)}
    async with (
        running(writer, mosquitto.url_of("writer-timeseries"), urls["writer-timeseries"]),
        running(ingest, mosquitto.url_of("ingest"), urls["ingest"], ingest_directory="registry"),
    ):
        agent = await asyncio.create_subprocess_exec(program, "--config", config, env=environment)
        try:
            await eventually(lambda: {metric for metric, _ in database.rows(SAMPLES)} >= TELEGRAF)
        finally:
            agent.terminate()
            await asyncio.wait_for(agent.wait(), 20)
        assert database.rows("SELECT reason, detail FROM rejected.message") == []
