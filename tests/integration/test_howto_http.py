"""Every command of docs/howto/send-over-http.md and docs/howto/query-api.md, run with curl beside one real platform."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import psycopg
import pyarrow as pa
import pytest
from tests.bench import telegraf

from outrider.servers import ServerError, mosquitto, postgres
from outrider.testing.fixtures import unavailable
from outrider.testing.waiting import eventually
from outrider_cli.platform import Platform

pytestmark = pytest.mark.servers

HOWTO = Path(__file__).resolve().parents[2] / "docs" / "howto"
BLOCK = re.compile(r"^```(bash|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = Path(sys.executable).parent
SETUP = """
set -euo pipefail
curl() { command curl --silent --show-error --write-out '\\n' "$@"; }
"""
VEHICLE = "vehicle-0001"
DRIVE_S = 240
SENT = {"speed_kmh", "rpm", "odometer_km", "temp_c", "lat", "lon", "heading_deg", "accuracy_m", "battery_pct"}


@pytest.fixture(scope="module")
def platform(server_folder: Path) -> Iterator[Platform]:
    try:
        mosquitto.find()
        postgres.find()
    except ServerError as error:
        unavailable("Mosquitto or PostgreSQL", error)
    with Platform(server_folder / ".outrider", scale={"lifecycle": 0}) as running:
        yield running


def code(language: str, page: str, platform: Platform) -> str:
    """The blocks of a language on a page, in their order, at this platform's address."""
    text = "\n".join(text for found, text in BLOCK.findall((HOWTO / page).read_text()) if found == language)
    assert "http://127.0.0.1:8081" in text
    return text.replace("http://127.0.0.1:8081", platform.state.gateway_url)


def bash(script: str, platform: Platform, folder: Path) -> str:
    """What a script prints, run in `folder` with the platform's data folder where `outrider` looks for it."""
    (folder / ".outrider").symlink_to(platform.data_dir)
    environment = os.environ | {"PATH": f"{PROGRAMS}:{os.environ['PATH']}"}
    command = ["bash", "-c", SETUP + script]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, cwd=folder, env=environment)
    assert done.returncode == 0, f"{done.stderr}\n{done.stdout}"
    return done.stdout


def objects(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines() if line.startswith(("{", "["))]


def rows(platform: Platform, query: str) -> list[Any]:
    with psycopg.connect(platform.state.database_url) as connection:
        return connection.execute(query.encode()).fetchall()


def test_send_over_http(platform: Platform, tmp_path: Path) -> None:
    script = code("bash", "send-over-http.md", platform)
    answers = objects(bash(script, platform, tmp_path))
    receipts = [answer for answer in answers if isinstance(answer, dict)]
    assert len(receipts) >= 7
    assert all(receipt["ledger"] and receipt["rejected"] == [] for receipt in receipts)
    numbers = [(receipt["stream"], receipt["boot"], receipt["seq"]) for receipt in receipts]
    assert len(set(numbers)) == len(numbers) - 1  # one was sent twice with the same key
    latest = {metric for (metric,) in rows(platform, "SELECT metric FROM telemetry.latest WHERE device = 'phone-1'")}
    assert latest >= SENT
    odometer = "SELECT value FROM telemetry.latest WHERE (device, metric) = ('phone-1', 'odometer_km')"
    assert rows(platform, odometer) == [(120.5,)]
    assert rows(platform, "SELECT level, message FROM logs.line WHERE device = 'phone-1'") == [
        ("warning", "battery low")
    ]
    assert ("button",) in rows(platform, "SELECT type FROM telemetry.event WHERE device = 'phone-1'")
    assert rows(platform, "SELECT reason, detail FROM rejected.message") == []


def drive(platform: Platform, secret: str) -> None:
    """A vehicle that has been driving for some minutes, north at 50 km/h, and still does."""
    now_ms = time.time_ns() // 1_000_000
    records = [
        {
            "ts": now_ms - (DRIVE_S - second) * 1000,
            "lat": 48.2 + second * 50 / 3.6 / 111_195,
            "lon": 16.37,
            "speed_kmh": 50 + math.sin(second),
            "odometer_km": 1000 + second * 50 / 3600,
            "rpm": 2000,
            "ignition": True,
            "gear": "D",
        }
        for second in range(0, DRIVE_S + 1, 2)
    ]
    url = f"{platform.state.gateway_url}/api/v1/telemetry"
    answer = httpx.post(url, json=records, auth=(VEHICLE, secret), timeout=30)
    assert (answer.status_code, answer.json()["rejected"]) == (202, [])


def new_device(platform: Platform, name: str) -> str:
    """Registers a device; returns its secret."""
    command = [PROGRAMS / "outrider", "device", "create", name, "--tag", "fleet", "--json", "--data", platform.data_dir]
    created = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return str(json.loads(created.stdout)["secret"])


def test_query_api(platform: Platform, tmp_path: Path) -> None:
    drive(platform, new_device(platform, VEHICLE))
    trip = f"SELECT 1 FROM trips.trip WHERE device = '{VEHICLE}'"
    asyncio.run(eventually(lambda: rows(platform, trip)))

    script = code("bash", "query-api.md", platform)
    printed = bash(script, platform, tmp_path)

    answers = objects(printed)
    raw = next(answer for answer in answers if "columns" in answer and answer["step_ms"] is None)
    assert max(raw["data"]["speed_kmh"]) > 50
    (of_trip,) = [answer for answer in answers if "metrics" in answer]  # the newest: perhaps of the other page's phone
    assert of_trip["metrics"]["speed_kmh"]["count"] >= 1
    assert len(answers) >= 14
    assert "304" in printed.splitlines()
    table = pa.ipc.open_stream(tmp_path / "speed.arrows").read_all()
    assert table.num_rows >= DRIVE_S // 2
    geojson = json.loads((tmp_path / "trips.geojson").read_text())
    assert geojson["type"] == "FeatureCollection"
    assert VEHICLE in {feature["properties"]["device"] for feature in geojson["features"]}
    assert ElementTree.parse(tmp_path / "trips.gpx").findall(".//{*}trkpt")
    assert ElementTree.parse(tmp_path / "trip.gpx").getroot().tag.endswith("gpx")


def test_a_telegraf_agent_posts_as_it_is(platform: Platform, tmp_path: Path) -> None:
    program = telegraf.with_output("http")
    if program is None:
        pytest.skip("no Telegraf with outputs.http here; golden vectors hold what one wrote")
    config = tmp_path / "telegraf.conf"
    config.write_text(code("toml", "send-over-http.md", platform).replace('interval = "10s"', 'interval = "1s"'))
    environment = os.environ | {"SECRET": new_device(platform, "web-1")}
    stored = "SELECT 1 FROM telemetry.latest WHERE (device, metric) = ('web-1', 'cpu_cpu_total_usage_idle')"
    with subprocess.Popen([program, "--config", config], env=environment) as agent:
        try:
            asyncio.run(eventually(lambda: rows(platform, stored)))
        finally:
            agent.terminate()
            agent.wait(20)
    assert rows(platform, "SELECT reason, detail FROM rejected.message WHERE device = 'web-1'") == []
