"""The console in a real browser on a running platform: what people do all day, by mouse, keyboard and phone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from outrider.servers import ServerError, base, mosquitto, postgres
from outrider.testing import chromium
from outrider.testing.fixtures import unavailable
from outrider_cli.platform import Platform
from outrider_cli.state import State

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(180)]

PASSWORD = "a password of some length"
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
VEHICLE = "vehicle-0001"
PATIENCE_MS = 20_000
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        found = chromium.find()
    except ServerError as error:
        unavailable("Chromium", error)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(found.path), args=list(chromium.ARGUMENTS), env={**os.environ, **found.environment}
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def state(server_folder: Path) -> Iterator[State]:
    """A platform with two vehicles and two sensors that answer as devices do."""
    try:
        mosquitto.find()
        postgres.find()
    except ServerError as error:
        unavailable("Mosquitto", error)
    with Platform(server_folder / "browser", scale={"lifecycle": 0, "gateway": 0}) as platform:
        argv = [sys.executable, "-m", "outrider_cli.main", "sim", "--data", str(platform.data_dir)]
        argv += ["--devices", "4", "--sensors", "2", "--duration", "0", "--json"]
        sim = subprocess.Popen(base.launcher(argv, death_signal=signal.SIGTERM), stdout=subprocess.DEVNULL)
        try:
            yield platform.state
        finally:
            sim.terminate()
            sim.wait(30)


@pytest.fixture(scope="module")
def signed_in(browser: Browser, state: State) -> str:
    """Storage of a signed-in browser, as JSON: the printed link is used once, and a password set."""
    context = browser.new_context(viewport=DESKTOP)
    page = watched(context)
    page.goto(state.sign_in_link)
    page.get_by_label("New password").fill(PASSWORD)
    page.get_by_label("Once more").fill(PASSWORD)
    page.get_by_role("button", name="Set password").click()
    expect(page.get_by_role("heading", name="Devices", level=1)).to_be_visible()
    stored = json.dumps(context.storage_state())
    context.close()
    return stored


def watched(context: BrowserContext) -> Page:
    """A page whose script errors and refused scripts or styles fail the test."""
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if "Content Security" in message.text else None)
    page.problems = problems  # type: ignore[attr-defined]
    return page


@pytest.fixture
def page(browser: Browser, state: State, signed_in: str) -> Iterator[Page]:
    context = browser.new_context(viewport=DESKTOP, base_url=state.console_url, storage_state=json.loads(signed_in))
    page = watched(context)
    yield page
    context.close()
    assert page.problems == []  # type: ignore[attr-defined]


def api(state: State) -> httpx.Client:
    headers = {"Authorization": f"Bearer {state.api_token}", "Outrider-Tenant": state.tenant}
    return httpx.Client(base_url=f"{state.console_url}/api/v1", headers=headers)


def test_a_used_link_and_a_wrong_password_are_refused(browser: Browser, state: State, signed_in: str) -> None:
    context = browser.new_context(viewport=DESKTOP, base_url=state.console_url)
    page = watched(context)
    page.goto(state.sign_in_link)
    expect(page.get_by_text("This link was used")).to_be_visible()
    page.goto("/sign-in")
    page.get_by_label("Name").fill("admin")
    page.get_by_label("Password").fill("not the password")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Devices", level=1)).to_be_visible()
    context.close()


def test_a_link_takes_nobody_who_is_signed_in_into_another_account(page: Page, state: State) -> None:
    with api(state) as client:
        made = client.post("/users", json={"name": "mallory", "role": "viewer"})
        assert made.status_code == 201, made.text
    page.goto("/sign-in#link=" + made.json()["link"]["link"])
    expect(page.get_by_text("You are signed in as admin")).to_be_visible()
    page.get_by_role("button", name="Stay admin").click()
    expect(page.get_by_role("heading", name="Devices", level=1)).to_be_visible()
    assert page.evaluate("fetch('/api/v1/session').then((answer) => answer.json())")["name"] == "admin"
    page.goto("/sign-in#link=" + made.json()["link"]["link"])
    page.get_by_role("button", name="Use the link").click()
    expect(page.get_by_text("Welcome, mallory")).to_be_visible()
    assert "link" not in page.url


def test_a_device_is_found_by_keyboard(page: Page) -> None:
    page.goto("/devices")
    expect(page.get_by_role("row", name=re.compile("sensor-0001"))).to_be_visible()
    page.locator("main").focus()
    page.keyboard.press("/")
    page.keyboard.type("vehicle-0002")
    page.keyboard.press("Enter")
    expect(page.get_by_role("row", name=re.compile("vehicle-0002"))).to_be_visible()
    expect(page.get_by_role("row", name=re.compile("sensor-0001"))).to_have_count(0)
    page.locator("tbody tr").first.focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/devices/vehicle-0002$"))
    expect(page.locator(".device-line .presence")).to_have_text("Online")


def test_values_arrive_live(page: Page) -> None:
    page.goto(f"/devices/{VEHICLE}")
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    values = page.get_by_role("table", name="Newest values")
    row = values.get_by_role("row", name=re.compile("^lat "))
    expect(row).to_be_visible()
    before = values.inner_text()
    expect(values).not_to_have_text(before)
    expect(page.locator(".map canvas").first).to_be_visible()


def test_desired_is_edited_and_reported_comes_back(page: Page) -> None:
    page.goto(f"/devices/{VEHICLE}/shadow")
    page.get_by_role("button", name="Set a key").click()
    page.get_by_label("Key", exact=True).fill("interval_s")
    page.get_by_label("Value", exact=True).fill("2")
    page.get_by_role("button", name="Save").click()
    row = page.get_by_role("row", name=re.compile("^interval_s"))
    expect(row).to_contain_text("same")
    cells = row.get_by_role("cell").all_inner_texts()
    assert [cells[1], cells[3]] == ["2", "2"]
    page.get_by_role("button", name="Change interval_s").click()
    page.get_by_role("button", name="Take this device's own wish away").click()
    expect(row).not_to_contain_text("same")


def test_somebody_elses_change_is_noticed(page: Page, state: State) -> None:
    page.goto(f"/devices/{VEHICLE}/shadow")
    page.get_by_role("button", name="Set a key").click()
    with api(state) as client:
        changed = client.patch(
            f"/devices/{VEHICLE}/shadow", json={"overrides": {"log_level": "warning"}}, headers={"If-Match": "*"}
        )
        assert changed.status_code == 200, changed.text
    page.get_by_label("Key", exact=True).fill("log_level")
    page.get_by_label("Value", exact=True).fill("debug")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Somebody changed it meanwhile")).to_be_visible()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("row", name=re.compile("^log_level"))).to_contain_text('"debug"')


def test_a_command_is_sent_and_its_result_shown(page: Page) -> None:
    page.goto(f"/devices/{VEHICLE}/commands")
    page.get_by_label("Command", exact=True).select_option("run-diagnostics")
    page.get_by_role("button", name="Send", exact=True).click()
    row = page.get_by_role("table", name="Commands").get_by_role("row", name=re.compile("run-diagnostics"))
    expect(row).to_contain_text("succeeded")
    row.click()
    expect(page.get_by_role("dialog")).to_contain_text("Result")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_emergency_stop_holds_commands_back(page: Page, state: State) -> None:
    page.goto(f"/devices/{VEHICLE}/commands")
    page.get_by_role("button", name="Emergency stop").click()
    page.get_by_label("Reason").fill("wrong setpoints went out")
    page.get_by_role("button", name="Stop now").click()
    banner = page.locator(".stop-banner")
    expect(banner).to_contain_text("wrong setpoints went out")
    expect(page.get_by_text("nothing can be sent until it ends")).to_be_visible()
    with api(state) as client:
        assert client.post(f"/devices/{VEHICLE}/commands", json={"name": "reboot"}).status_code == 423
    banner.get_by_role("button", name="End stop").click()
    page.get_by_role("button", name="End it").click()
    expect(banner).to_have_count(0)


def test_a_rejected_message_is_read_and_replayed(page: Page, state: State) -> None:
    with api(state) as client:
        made = client.post("/devices", json={"id": "broken-1"})
        assert made.status_code == 201, made.text
        secret = client.post("/devices/broken-1/credentials").json()["secret"]
    publish(state, "broken-1", secret, '{"temp_c": not json')
    page.goto("/rejected")
    row = page.get_by_role("row", name=re.compile("broken-1"))
    expect(row).to_be_visible()
    row.get_by_text("not_json").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text('{"temp_c": not json')
    dialog.get_by_role("button", name="Replay").click()
    expect(page.get_by_role("status")).to_contain_text("Sent again")
    with api(state) as client:
        replayed = client.get("/rejected", params={"device": "broken-1", "replayed": True}).json()["items"]
    assert len(replayed) == 1


def publish(state: State, device: str, secret: str, payload: str) -> None:
    """As the device, once the broker knows it."""
    topic = f"fleet/v1/{state.tenant}/{device}/telemetry"
    argv = [
        str(state.data_dir / "bin" / "mosquitto_pub"),
        "-h",
        "127.0.0.1",
        "-p",
        state.device_mqtt_url.rpartition(":")[2],
    ]
    argv += ["-u", device, "-P", secret, "-q", "1", "-t", topic, "-m", payload]
    for _ in range(20):
        if subprocess.run(argv, capture_output=True, check=False, timeout=10).returncode == 0:
            return
    pytest.fail(f"the broker does not take {device}")


def test_a_chart_is_composed_shared_and_opened_again(page: Page) -> None:
    page.goto("/charts")
    page.get_by_role("button", name="New chart").click()
    page.get_by_label("Device", exact=True).fill(VEHICLE)
    page.get_by_label("Metric").select_option("speed_kmh")
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_label("Device", exact=True).fill("vehicle-0002")
    page.get_by_label("Metric").select_option("speed_kmh")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("img", name=re.compile("Chart of"))).to_be_visible()
    page.get_by_label("Name", exact=True).fill("Two speeds")
    page.get_by_label("Share with everyone").check()
    page.get_by_role("button", name="Save chart").click()
    expect(page).to_have_url(re.compile("/charts/[0-9a-f-]{36}$"))
    page.goto("/charts")
    page.get_by_role("link", name="Two speeds").click()
    expect(page.get_by_role("img", name=re.compile("vehicle-0001 speed_kmh, vehicle-0002 speed_kmh"))).to_be_visible()


def two_drives(now_s: float) -> str:
    """A telemetry message with two drives of two minutes northwards, an hour apart, the engine off after each."""
    records = []
    for n, begin_s in enumerate((now_s - 9000, now_s - 5400)):
        for step in range(20):
            moving = step < 13
            place = {"lat": round(50 + 0.02 * n + 0.0015 * min(step, 13), 6), "lon": 8.6}
            at_ms = round((begin_s + 10 * step) * 1000)
            records.append({"ts": at_ms, **place, "speed_kmh": 60.0 if moving else 0.0, "ignition": moving})
    return json.dumps({"records": records})


def test_trips_are_looked_at_merged_and_taken_apart_again(page: Page, state: State) -> None:
    with api(state) as client:
        made = client.post("/devices", json={"id": "driver-1"})
        assert made.status_code == 201, made.text
        secret = client.post("/devices/driver-1/credentials").json()["secret"]
    publish(state, "driver-1", secret, two_drives(time.time()))
    page.goto("/devices/driver-1/trips")
    rows = page.get_by_role("table", name="Trips", exact=True).locator("tbody tr")
    expect(rows).to_have_count(2)
    page.locator("main").focus()
    rows.first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Track of the trip")).to_be_visible()
    expect(page.locator(".trip-facts")).to_contain_text("ignition")
    expect(page.get_by_role("img", name="Chart of speed_kmh")).to_be_visible()
    for row in (0, 1):
        rows.nth(row).get_by_role("checkbox").check()
    page.get_by_role("button", name="Merge 2").click()
    expect(rows).to_have_count(1)
    expect(page.get_by_text("2 trips merged")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(rows).to_have_count(2)
    with api(state) as client:
        audit = client.get("/audit", params={"object": "device:driver-1", "action": "trip."}).json()["items"]
    assert [line["action"] for line in audit] == ["trip.undo_merge", "trip.merge"]


def test_a_claim_shows_its_token_once_with_what_to_type(page: Page) -> None:
    page.goto("/claims")
    page.get_by_role("button", name=re.compile("claim", re.IGNORECASE)).first.click()
    dialog = page.get_by_role("dialog")
    dialog.locator("button[type=submit]").click()
    expect(dialog).to_contain_text("mosquitto_rr")
    expect(dialog).to_contain_text("fleet/v1/-/claim/")


def test_every_page_opens_without_an_error(page: Page) -> None:
    tabs = [f"/devices/{VEHICLE}{tab}" for tab in ("", "/trips", "/charts", "/logs", "/credentials", "/audit")]
    pages = (
        "devices map trips charts claims configurations rejected sequences users tokens tenants audit profile import"
    )
    for path in [*(f"/{name}" for name in pages.split()), *tabs]:
        page.goto(path)
        expect(page.locator("main h1").first).to_be_visible()
        expect(page.locator("main .spinner")).to_have_count(0)
        expect(page.locator("main .problem")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(browser: Browser, state: State, signed_in: str, scheme: str) -> None:
    context = browser.new_context(
        viewport=PHONE,
        base_url=state.console_url,
        storage_state=json.loads(signed_in),
        color_scheme=scheme,
        has_touch=True,
    )
    page = watched(context)
    for path in (
        "/devices",
        f"/devices/{VEHICLE}",
        f"/devices/{VEHICLE}/commands",
        "/trips",
        "/rejected",
        "/charts/new",
        "/map",
    ):
        page.goto(path)
        expect(page.locator("main h1").first).to_be_visible()
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{path} is {wide} px too wide"
    ground, text = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ground, text)]
    assert (brightness[0] < brightness[1]) == (scheme == "dark")
    context.close()


def test_without_signing_in_nothing_is_shown(browser: Browser, state: State) -> None:
    context = browser.new_context(base_url=state.console_url)
    page = watched(context)
    page.goto(f"/devices/{VEHICLE}")
    expect(page.get_by_label("Password")).to_be_visible()
    assert VEHICLE not in page.inner_text("body")
    context.close()
