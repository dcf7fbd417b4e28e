"""The example of docs/howto/add-a-service.md, taken from the page and run for real."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider.runtime import migrate
from outrider.servers import Mosquitto, ports
from outrider.testing.fixtures import PASSWORD, Database
from outrider.testing.services import connected, running
from outrider.testing.waiting import eventually
from outrider_ingest.app import service as ingest
from outrider_writer_timeseries.app import service as writer

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "howto" / "add-a-service.md"
FILE = re.compile(r"^`(services/counter/[^`]+)`\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOW_MS = 1_760_000_000_000


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files in their places."""
    folder = tmp_path_factory.mktemp("howto")
    for name, text in FILE.findall(PAGE.read_text()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "services/counter/src/outrider_counter/py.typed").touch()
    return folder


@pytest.fixture(scope="module")
def environment(checkout: Path) -> dict[str, str]:
    """An environment in which the page's package is installed, from the wheel that its pyproject.toml makes."""
    folder = checkout / "services/counter"
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    (wheel,) = (folder / "dist").glob("*.whl")
    site = checkout / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return {**os.environ, "PYTHONPATH": str(site)}


@pytest.fixture
def counter_url(environment: dict[str, str], database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The database with counter's role and migrations."""
    monkeypatch.syspath_prepend(environment["PYTHONPATH"])
    urls = migrate.ensure_roles(database.admin_url, {"counter": PASSWORD})
    migrate.migrate_all(database.admin_url, {"counter": "outrider_counter"})
    yield urls["counter"]
    sys.modules.pop("outrider_counter", None)


def test_the_page_shows_every_file_of_a_service(checkout: Path) -> None:
    folder = checkout / "services/counter"
    package = folder / "src/outrider_counter"
    for path in (folder / "README.md", folder / "pyproject.toml", package / "grants.sql", package / "py.typed"):
        assert path.is_file(), path
    assert {path.stem for path in package.glob("*.py")} == {"__init__", "__main__", "app", "settings", "store"}


def test_settings_are_printed(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "outrider_counter", "--print-settings"]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert "| `OUTRIDER_COUNTER_BATCH_MAX_AGE_S` | `0.1` |" in printed


@pytest.mark.servers
async def test_samples_are_counted_once(
    mosquitto: Mosquitto, database: Database, counter_url: str, environment: dict[str, str], tmp_path: Path
) -> None:
    port = ports.free_port()
    settings = {
        "OUTRIDER_MQTT_URL": mosquitto.url,
        "OUTRIDER_DATABASE_URL": counter_url,
        "OUTRIDER_HTTP_PORT": str(port),
    }
    command = [sys.executable, "-m", "outrider_counter"]
    log = tmp_path / "counter.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, env={**environment, **settings}, stdout=output, stderr=output
        )
    try:
        async with (
            running(writer, mosquitto.url, database.service_urls["writer-timeseries"]),
            running(ingest, mosquitto.url, database.service_urls["ingest"]),
            connected(mosquitto.url, "car-1") as device,
        ):
            await eventually(lambda: _is_ready(port))
            topic = "fleet/v1/demo/car-1/telemetry"
            first = {"boot": 1, "seq": 1, "ts": NOW_MS, "speed_kmh": 51.2, "rpm": 2100}
            await device.publish(topic, first)
            await device.publish(topic, first)
            await device.publish(topic, {"boot": 1, "seq": 2, "ts": NOW_MS + 1000, "speed_kmh": 52.0})
            await device.publish("fleet/v1/demo/car-2/telemetry/temp_c", "21.5")
            expected = [("demo", "car-1", 3), ("demo", "car-2", 1)]
            rows = "SELECT tenant, device, samples FROM counter.samples ORDER BY device"
            await eventually(lambda: database.rows(rows) == expected)
            duplicates = "SELECT duplicates FROM counter.sequence WHERE device = 'car-1'"
            await eventually(lambda: database.rows(duplicates) == [(1,)])
            assert database.rows(rows) == expected
    finally:
        process.terminate()
        exit_code = await asyncio.wait_for(process.wait(), 30)
    assert exit_code == 0, log.read_text()[-2000:]


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_pages_own_tests_pass(checkout: Path, environment: dict[str, str], migrated: Database) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(checkout)]
    tests = str(checkout / "services/counter/tests")
    given = {"OUTRIDER_TEST_DATABASE_URL": migrated.admin_url, "PYTEST_ADDOPTS": ""}
    result = subprocess.run(
        [*command, "-p", "no:cacheprovider", tests],
        env={**environment, **given},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    assert " passed" in result.stdout


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as response:
            return bool(response.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False
