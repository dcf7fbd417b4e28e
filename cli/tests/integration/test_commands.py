"""The commands against a whole running platform: a fleet is stored, and what went wrong can be seen and mended."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import httpx
import psycopg
import pytest

from outrider.runtime.mqtt import Connection
from outrider.servers import ServerError, mosquitto, postgres
from outrider.testing.fixtures import unavailable
from outrider.testing.waiting import eventually
from outrider_cli.platform import Platform
from outrider_cli.sim.registration import login
from outrider_cli.state import is_locked

pytestmark = [pytest.mark.servers, pytest.mark.slow]
OUTRIDER = str(Path(sys.executable).with_name("outrider"))


@pytest.fixture(scope="module", autouse=True)
def servers() -> None:
    try:
        mosquitto.find()
        postgres.find()
    except ServerError as error:
        unavailable("Mosquitto", error)


@pytest.fixture(scope="module")
def platform(server_folder: Path) -> Iterator[Platform]:
    with Platform(server_folder / "commands") as running:
        yield running


def outrider(platform: Platform, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [OUTRIDER, *arguments, "--data", str(platform.data_dir)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def objects(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


async def send(platform: Platform, secret: str, topic: str, payload: bytes, device: str = "hand-1") -> None:
    connection = await Connection.open(
        login(platform.state.device_mqtt_url, device, {1: secret}),
        device,
        lambda delivery: None,
        clean_start=True,
        session_expiry_s=0,
        receive_maximum=9,
    )
    await connection.publish(topic, payload)
    await connection.close()


def is_let_in(platform: Platform, secret: str, device: str = "hand-1") -> bool:
    """True once the broker knows the device: the registry tells it within a moment."""
    command = [str(platform.data_dir / "bin/mosquitto_pub"), "-h", "127.0.0.1", "-u", device, "-P", secret, "-q", "1"]
    port = str(urlsplit(platform.state.device_mqtt_url).port)
    message = ["-p", port, "-t", f"fleet/v1/demo/{device}/event", "-m", '{"type":"hello"}']
    return subprocess.run([*command, *message], check=False, capture_output=True, timeout=20).returncode == 0


def value(platform: Platform, query: str) -> Any:
    with psycopg.connect(platform.state.database_url) as connection:
        row = connection.execute(query.encode()).fetchone()
        return row[0] if row else None


def test_sim_ends_with_everything_acked_and_query_shows_it(platform: Platform, tmp_path: Path) -> None:
    record = tmp_path / "expected.jsonl"
    ran = outrider(
        platform, "sim", "--devices", "16", "--duration", "4", "--json", "--counter", "--record", str(record)
    )
    summary = json.loads(ran.stdout)
    assert (ran.returncode, summary["unacked"], summary["rejected"]) == (0, 0, 0)
    assert summary["sent"] == summary["acked"] > 30
    numbers = [row["value"] for row in objects(record.read_text()) if row.get("metric") == "n"]
    shown = outrider(platform, "query", "vehicle-0001", "n", "--json", "--limit", "1")
    assert objects(shown.stdout)[-1]["value"] in numbers
    latest = outrider(platform, "query", "vehicle-0001").stdout
    assert "speed_kmh" in latest
    assert "lat" in latest


async def test_sim_obeys_commands_desired_state_and_new_secrets(platform: Platform) -> None:
    state = platform.state
    headers = {"Authorization": f"Bearer {state.api_token}", "Outrider-Tenant": state.tenant, "If-Match": "*"}
    sim = await asyncio.create_subprocess_exec(
        *(OUTRIDER, "sim", "--devices", "4", "--prefix", "obey-", "--duration", "0", "--json"),
        *("--data", str(platform.data_dir)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with httpx.AsyncClient(base_url=f"{state.console_url}/api/v1", headers=headers, timeout=20) as api:

            async def read(path: str) -> dict[str, Any]:
                answer = await api.get(path)
                return dict(answer.json()) if answer.is_success else {}

            async def until(path: str, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
                async with asyncio.timeout(40):
                    while not condition(found := await read(path)):
                        await asyncio.sleep(0.1)
                return found

            async def command(name: str, **params: Any) -> dict[str, Any]:
                body = {"name": name, "params": params}
                sent = (await api.post("/devices/obey-vehicle-0001/commands", json=body)).raise_for_status().json()
                return await until(f"/commands/{sent['id']}", lambda found: found.get("finished_at"))

            await until("/devices/obey-vehicle-0001", lambda found: found.get("presence", {}).get("state") == "online")
            diagnosis = await command("run-diagnostics")
            assert (diagnosis["state"], diagnosis["result"]["checks"]["storage"]) == ("succeeded", "ok")
            rebooted = await command("reboot")
            assert rebooted["state"] == "succeeded"
            assert rebooted["result"]["boot"] != diagnosis["result"]["boot"]
            assert (await command("get-logs", lines=3))["result"] == {"lines": 3}
            assert (await command("set-interval", interval_s=2))["result"] == {"interval_s": 2}
            unknown = await command("make-coffee")
            assert (unknown["state"], "make-coffee" in unknown["result"]["reason"]) == ("rejected", True)

            wanted = {"overrides": {"interval_s": 0.5, "colour": "red"}}
            (await api.patch("/devices/obey-vehicle-0002/shadow", json=wanted)).raise_for_status()
            shadow = await until(
                "/devices/obey-vehicle-0002/shadow",
                lambda found: (
                    found.get("desired_version", 0) > 0 and found["reported_version"] == found["desired_version"]
                ),
            )
            assert shadow["reported"]["interval_s"] == 0.5
            assert shadow["reported"]["colour"] == "red"

            path = "/devices/obey-vehicle-0002/credentials"
            (await api.post(f"{path}/rotate", json={"now": False})).raise_for_status()
            await until(path, lambda found: ("active", 2) in {(c["state"], c["generation"]) for c in found["items"]})
            # thrown out and let in again it comes back with the new secret: nobody has the old one any more
            (await api.post("/devices/obey-vehicle-0002/disable")).raise_for_status()
            away = lambda found: found["presence"]["state"] == "offline"  # noqa: E731
            await until("/devices/obey-vehicle-0002", away)
            (await api.post("/devices/obey-vehicle-0002/enable")).raise_for_status()
            await until("/devices/obey-vehicle-0002", lambda found: found["presence"]["state"] == "online")
        sim.send_signal(signal.SIGINT)
        async with asyncio.timeout(60):
            output, _ = await sim.communicate()
    finally:
        if sim.returncode is None:
            sim.kill()
            await sim.wait()
    summary = json.loads(output)
    assert (sim.returncode, summary["unacked"], summary["connected"]) == (0, 0, 4)
    logged = "SELECT count(*) FROM logs.line WHERE device = 'obey-vehicle-0001' AND message LIKE 'kept line % of 3%'"
    assert value(platform, logged) == 3


def test_sim_against_no_broker_fails(platform: Platform) -> None:
    ran = outrider(
        platform, "sim", "--url", "mqtt://127.0.0.1:1", "--devices", "2", "--duration", "1", "--drain", "0", "--json"
    )
    summary = json.loads(ran.stdout)
    assert ran.returncode == 1
    assert summary["unacked"] > 0
    assert "no broker" in summary["problem"]


def test_query_of_an_unknown_device_says_so(platform: Platform) -> None:
    ran = outrider(platform, "query", "nobody")
    assert ran.returncode == 1
    assert "nobody" in ran.stderr


def drives(now_s: float) -> bytes:
    """Two drives of two minutes northwards, an hour apart, the engine off after each."""
    records = [
        {
            "ts": round((begin_s + 10 * step) * 1000),
            "lat": round(50 + 0.02 * n + 0.0015 * min(step, 13), 6),
            "lon": 8.6,
            "speed_kmh": 60.0 if step < 13 else 0.0,
            "ignition": step < 13,
        }
        for n, begin_s in enumerate((now_s - 9000, now_s - 5400))
        for step in range(20)
    ]
    return json.dumps({"records": records}).encode()


async def test_trips_are_listed_shown_merged_and_taken_apart(platform: Platform) -> None:
    secret = json.loads(outrider(platform, "device", "create", "driver-1", "--json").stdout)["secret"]
    await eventually(lambda: is_let_in(platform, secret, "driver-1"), 30)
    await send(platform, secret, "fleet/v1/demo/driver-1/telemetry", drives(time.time()), "driver-1")

    state = platform.state
    headers = {"Authorization": f"Bearer {state.api_token}", "Outrider-Tenant": state.tenant}

    def trips() -> list[Any]:
        address = f"{state.console_url}/api/v1/trips"
        return list(httpx.get(address, params={"device": "driver-1"}, headers=headers).json()["items"])

    async def until(count: int) -> list[Any]:
        return await eventually(lambda: found if len(found := trips()) == count else [], 20)

    await until(2)
    newest, oldest = objects(outrider(platform, "trips", "list", "--device", "driver-1", "--json").stdout)
    assert (newest["state"], newest["evidence"], newest["rev"]) == ("final", "ignition", 1)
    assert newest["distance_km"] == pytest.approx(2.17, rel=0.05)
    shown = outrider(platform, "trips", "show", "driver-1").stdout
    assert newest["id"] in shown
    assert "○" in shown
    assert f"/devices/driver-1/trips?trip={newest['id']}" in shown
    line = json.loads(outrider(platform, "trips", "show", oldest["id"], "--geojson").stdout)["features"][0]
    assert line["geometry"]["coordinates"][0] == [8.6, 50.0]
    gpx = ElementTree.fromstring(outrider(platform, "trips", "show", oldest["id"], "--gpx").stdout)
    assert len(gpx.findall(".//{*}trkpt")) >= 13

    merged = json.loads(outrider(platform, "trips", "merge", newest["id"], oldest["id"], "--json").stdout)
    [one] = await until(1)
    assert one["edited"]
    assert one["distance_km"] > 4
    assert outrider(platform, "trips", "undo", merged["id"]).returncode == 0
    assert [row["rev"] >= 1 for row in await until(2)] == [True, True]
    refused = outrider(platform, "trips", "profile", "set", "idle_timeout=5")
    assert (refused.returncode, "There is no trip rule 'idle_timeout'" in refused.stderr) == (1, True)


async def test_rejected_list_show_replay_purge(platform: Platform) -> None:
    secret = json.loads(outrider(platform, "device", "create", "hand-1", "--json").stdout)["secret"]
    await eventually(lambda: is_let_in(platform, secret))
    await send(platform, secret, "fleet/v1/demo/hand-1/telemetry", b'{"temp_c":NaN}')
    kept = "SELECT id FROM rejected.message WHERE device = 'hand-1' ORDER BY id DESC LIMIT 1"
    first = await eventually(lambda: value(platform, kept))
    [row] = objects(outrider(platform, "rejected", "list", "--device", "hand-1", "--json").stdout)
    assert (row["id"], row["reason"], row["replayed_at"]) == (first, "not_json", None)
    assert '{"temp_c":NaN}' in outrider(platform, "rejected", "show", str(first)).stdout
    assert outrider(platform, "rejected", "replay").returncode == 2, "replay without a filter must be refused"
    assert "Replayed 1" in outrider(platform, "rejected", "replay", "--device", "hand-1").stdout
    again = await eventually(lambda: (found := value(platform, kept)) != first and found)
    rows = objects(outrider(platform, "rejected", "list", "--device", "hand-1", "--json").stdout)
    assert [row["id"] for row in rows] == [again, first]
    assert rows[1]["replayed_at"] is not None
    assert "Deleted 1" in outrider(platform, "rejected", "purge", "--replayed", "--yes").stdout
    assert "Deleted 1" in outrider(platform, "rejected", "purge", "--device", "hand-1", "--yes").stdout
    assert outrider(platform, "rejected", "list", "--device", "hand-1", "--json").stdout == ""


def test_tail_shows_what_passes(platform: Platform) -> None:
    tail = subprocess.Popen(
        [OUTRIDER, "tail", "fleet/v1/+/+/telemetry", "--count", "3", "--json", "--data", str(platform.data_dir)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        outrider(platform, "sim", "--devices", "6", "--duration", "4", "--json")
        output, _ = tail.communicate(timeout=20)
    finally:
        tail.kill()
        tail.communicate()
    assert all(message["topic"].endswith("/telemetry") for message in objects(output))
    assert len(objects(output)) == 3


def test_doctor_is_green_and_fails_when_a_service_is_stopped(platform: Platform) -> None:
    ran = outrider(platform, "doctor", "--json")
    report = json.loads(ran.stdout)
    assert [check for check in report["checks"] if check["level"] == "FAIL"] == []
    assert ran.returncode == 0
    outrider(platform, "service", "stop", "writer-logs")
    try:
        ran = outrider(platform, "doctor")
        assert ran.returncode == 1
        assert "service start writer-logs" in ran.stdout
    finally:
        outrider(platform, "service", "start", "writer-logs")
        platform.wait_ready()


def test_doctor_follows_a_message_and_says_where_it_stopped(platform: Platform) -> None:
    def hops() -> dict[str, str]:
        checks = json.loads(outrider(platform, "doctor", "--probe", "--json").stdout)["checks"]
        return {check["name"]: check["level"] for check in checks if check["name"].startswith("probe")}

    assert hops() == {"probe broker": "OK", "probe row": "OK", "probe ack": "OK"}
    outrider(platform, "service", "stop", "writer-timeseries")
    try:
        assert hops() == {"probe broker": "OK", "probe writer": "FAIL"}
    finally:
        outrider(platform, "service", "start", "writer-timeseries")
        platform.wait_ready()


def test_demo_ends_by_itself_and_on_ctrl_c(tmp_path: Path, server_folder: Path) -> None:
    folder = server_folder / "demo"
    command = [OUTRIDER, "demo", "--devices", "4", "--sensors", "4", "--data", str(folder)]
    ran = subprocess.run([*command, "--duration", "5"], check=False, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "samples/s stored" in ran.stdout
    assert "Stopped" in ran.stdout
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        for line in running.stdout:
            if "devices 8/8" in line:
                break
        running.send_signal(signal.SIGINT)
        output, _ = running.communicate(timeout=60)
    finally:
        running.kill()
        running.communicate()
    assert running.returncode == 0, output
    assert not is_locked(folder)
