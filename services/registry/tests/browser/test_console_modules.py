"""The console's modules that decide something, in a real browser: CSV, values of a desired state, times, routes, map shapes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, Route, sync_playwright

from outrider.servers import ServerError
from outrider.testing import chromium
from outrider.testing.fixtures import unavailable
from outrider_registry import console

pytestmark = pytest.mark.servers

HERE = "http://console.test"


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A page of the console's own address; its files come from memory, nothing is listened on."""
    try:
        found = chromium.find()
    except ServerError as error:
        unavailable("Chromium", error)
    assets = console.Assets()

    def serve(route: Route) -> None:
        file = assets.files.get(route.request.url.removeprefix(f"{HERE}/static/"))
        if file is None:
            route.fulfill(status=200, content_type="text/html", body="<!doctype html><title>modules</title>")
        else:
            route.fulfill(status=200, content_type=file.type, body=file.content)

    with sync_playwright() as playwright:
        environment = {**os.environ, **found.environment}
        browser = playwright.chromium.launch(
            executable_path=str(found.path), args=list(chromium.ARGUMENTS), env=environment
        )
        page = browser.new_page(timezone_id="Europe/Berlin")
        page.route("**/*", serve)
        page.goto(f"{HERE}/")
        yield page
        browser.close()


def run(page: Page, module: str, code: str, argument: Any = None) -> Any:
    """What an expression over a module `m` and an argument `a` gives; {"error": its message} where it throws."""
    return page.evaluate(
        f"""async (a) => {{
            const m = await import("/static/js/{module}");
            try {{ return ({code}); }} catch (error) {{ return {{ error: error.message }}; }}
        }}""",
        argument,
    )


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("id,name\nvan-1,Blue\n", [["id", "name"], ["van-1", "Blue"]]),
        ("\ufeffid;tags\r\nvan-1;a, b\r\n", [["id", "tags"], ["van-1", "a, b"]]),
        ("id\tname\nvan-1\tx\n\n\n", [["id", "name"], ["van-1", "x"]]),
        ('id,name\nvan-1,"a ""b"", c\nd"\n', [["id", "name"], ["van-1", 'a "b", c\nd']]),
        ("id,name\nvan-1,last without newline", [["id", "name"], ["van-1", "last without newline"]]),
        ("id", [["id"]]),
        ("", []),
    ],
)
def test_csv_is_read_as_spreadsheets_write_it(page: Page, text: str, rows: list[list[str]]) -> None:
    assert run(page, "csv.js", "m.parseCsv(a)", text) == rows


def test_csv_with_a_quote_without_end_is_refused(page: Page) -> None:
    assert "no end" in run(page, "csv.js", "m.parseCsv(a)", 'id,name\nvan-1,"open\n')["error"]


def test_csv_report_runs_no_formula_and_reads_back(page: Page) -> None:
    secret = "-" + "aB3_-x" * 7
    rows = [["=1+1", 'a"b', None], ["-5", "-cmd", "x,y"], ["-1+cmd|' /C calc'!A0", secret, "-2.5"]]
    text = run(page, "csv.js", "m.writeCsv(['a', 'b', 'c'], a)", rows)
    assert run(page, "csv.js", "m.parseCsv(a)", text) == [
        ["a", "b", "c"],
        ["'=1+1", 'a"b', ""],
        ["-5", "'-cmd", "x,y"],
        ["'-1+cmd|' /C calc'!A0", secret, "-2.5"],
    ]


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        ("integer", "30", 30),
        ("number", "2.5", 2.5),
        ("boolean", "false", False),
        ("string", "30", "30"),
        ("string", '"quoted"', "quoted"),
        ("json", '{"a":[1]}', {"a": [1]}),
        (None, "30", 30),
        (None, "eco", "eco"),
        (None, "null", None),
    ],
)
def test_a_typed_value_is_read_back_as_it_is_shown(page: Page, type_: str | None, text: str, value: Any) -> None:
    key = {"key": "k", "type": type_} if type_ else None
    assert run(page, "state-editor.js", "m.toValue(a.text, a.key)", {"text": text, "key": key}) == value
    again = run(page, "state-editor.js", "m.toValue(m.toText(a.value), a.key)", {"value": value, "key": key})
    assert again == value


@pytest.mark.parametrize(("type_", "text"), [("integer", "2.5"), ("number", ""), ("boolean", "yes"), ("json", "{")])
def test_a_value_that_does_not_fit_its_key_is_a_sentence(page: Page, type_: str, text: str) -> None:
    found = run(page, "state-editor.js", "m.toValue(a.text, a.key)", {"text": text, "key": {"key": "k", "type": type_}})
    assert found["error"].startswith("k takes ")


def test_a_key_that_is_there_twice_is_refused(page: Page) -> None:
    rows = [{"id": 1, "key": "a", "text": "1"}, {"id": 2, "key": "a ", "text": "2"}]
    assert "twice" in run(page, "state-editor.js", "m.toState(a, [])", rows)["error"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "just now"), (59, "59 s ago"), (3600, "1 h ago"), (-7200, "in 2 h"), (86400 * 3, "3 d ago")],
)
def test_times_are_said_from_now(page: Page, seconds: int, text: str) -> None:
    assert run(page, "format.js", "m.ago(1700000000000 - a * 1000, 1700000000000)", seconds) == text


def test_times_are_in_the_readers_zone_and_lengths_in_two_units(page: Page) -> None:
    assert run(page, "format.js", "m.dateTime('2026-07-01T12:00:00.000Z')") == "2026-07-01 14:00:00"
    assert run(page, "format.js", "m.duration(3725)") == "1 h 2 min"


def test_routes_give_the_parameters_of_a_path(page: Page) -> None:
    code = "(({ path, params }) => ({ path, params }))(m.match([{ path: '/d' }, { path: '/d/:id/:tab' }], a))"
    assert run(page, "router.js", code, "/d/van%207/live/") == {
        "path": "/d/:id/:tab",
        "params": {"id": "van 7", "tab": "live"},
    }
    assert run(page, "router.js", "m.match([{ path: '/d/:id' }], a)", "/d/") is None


def test_outlines_have_no_line_across_the_world(page: Page) -> None:
    """Russia, Fiji and Antarctica cross the date line: their rings go on beyond it instead of back around the world."""
    steps = page.evaluate(
        """async () => {
            const core = await import("/static/js/core.js");
            await Promise.all([core.loadScript("../vendor/leaflet.js"), core.loadScript("../vendor/topojson.js")]);
            const { outlinesOf } = await import("/static/js/map-ground.js");
            const outlines = outlinesOf(L, await (await fetch("/static/vendor/countries.json")).json());
            let longest = 0;
            for (const { points, y1 } of outlines.land) {
                for (let i = 2; i < points.length; i += 2) {
                    const alongThePole = Math.max(points[i + 1], points[i - 1]) > 254;
                    if (!alongThePole) longest = Math.max(longest, Math.abs(points[i] - points[i - 2]));
                }
            }
            return { longest, rings: outlines.land.length, names: outlines.labels.length };
        }"""
    )
    assert steps["rings"] > 1000
    assert steps["names"] > 200
    assert steps["longest"] < 40  # of 256 around the world


def test_a_qr_code_is_drawn(page: Page) -> None:
    dark = page.evaluate(
        """async () => {
            const core = await import("/static/js/core.js");
            const { QrCode } = await import("/static/js/qr.js");
            const box = document.createElement("div");
            core.render(core.h(QrCode, { text: "outrider:abc:token@host:1884", label: "claim" }), box);
            return box.querySelector("path").getAttribute("d").split("M").length - 1;
        }"""
    )
    assert dark > 200
