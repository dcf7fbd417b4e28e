"""The console's files: how they are served, and that what they name is there."""

import gzip
import re
import runpy
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from outrider_registry import console
from outrider_registry.errors import Problem

STATIC = console.FOLDER / "static"
SCRIPTS = sorted(path for path in (STATIC / "js").rglob("*.js"))
IMPORT = re.compile(r"""(?:from|import)\s*\(?\s*"(\.[^"]+)\"""")
LOADED = re.compile(r"""load(?:Script|Style)\("([^"]+)"\)""")


def client(map_tiles: str = "", map_attribution: str = "") -> httpx.AsyncClient:
    app = FastAPI()

    @app.exception_handler(Problem)
    async def problem(request: object, error: Problem) -> JSONResponse:
        return JSONResponse({"detail": error.detail}, error.status)

    console.mount(app, map_tiles, map_attribution)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://console")


@pytest.mark.parametrize("path", ["/", "/devices", "/devices/van-7/shadow", "/users/ann@acme.example", "/sign-in"])
async def test_page_every_path_of_the_console(path: str) -> None:
    async with client() as http:
        answer = await http.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert "{VERSION}" not in answer.text
    assert '<div id="app">' in answer.text


@pytest.mark.parametrize(
    "path", ["/api", "/api/v1/nothing", "/static/js/nothing.js", "/static/%2e%2e/__init__.py", "/static//etc/passwd"]
)
async def test_page_not_for_the_api_nor_for_files_that_are_not_there(path: str) -> None:
    async with client() as http:
        answer = await http.get(path)
    assert answer.status_code == 404
    assert answer.json()["detail"]


async def test_static_with_its_version_is_kept_for_a_year_and_compressed() -> None:
    async with client() as http:
        page = (await http.get("/")).text
        names = re.findall(r'(?:src|href)="(/static/[^"]+)"', page)
        assert len(names) > 8
        for name in names:
            answer = await http.get(name, headers={"Accept-Encoding": "gzip"})
            assert answer.status_code == 200, name
            assert "immutable" in answer.headers["cache-control"]
            assert answer.headers["content-type"].split(";")[0] in ("text/javascript", "text/css", "image/svg+xml")
        app = await http.get(next(name for name in names if name.endswith("app.js")))
        assert app.headers["content-encoding"] == "gzip"
        assert app.text == (STATIC / "js/app.js").read_text()


async def test_static_of_another_version_is_asked_for_again() -> None:
    async with client() as http:
        first = await http.get("/static/0123456789ab/js/app.js")
        assert first.status_code == 200
        assert first.headers["cache-control"] == "no-cache"
        again = await http.get("/static/0123456789ab/js/app.js", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304
    assert again.content == b""


async def test_map_tiles_are_named_in_the_page_and_allowed_by_its_policy() -> None:
    async with client() as http:
        policy = (await http.get("/")).headers["content-security-policy"]
        assert "img-src 'self' data: blob:;" in policy
        assert "unsafe" not in policy
    async with client("https://{s}.tiles.example.org/{z}/{x}/{y}.png?a=1&b=2", '"Ours" & <others>') as http:
        page = await http.get("/map")
    assert "img-src 'self' data: blob: https://*.tiles.example.org;" in page.headers["content-security-policy"]
    assert 'content="https://{s}.tiles.example.org/{z}/{x}/{y}.png?a=1&amp;b=2"' in page.text
    assert 'data-attribution="&quot;Ours&quot; &amp; &lt;others&gt;"' in page.text


def test_assets_follow_a_changed_file(tmp_path: Path) -> None:
    (tmp_path / "static").mkdir()
    (tmp_path / "index.html").write_text("<script src=/static/{VERSION}/a.js></script>")
    script = tmp_path / "static/a.js"
    script.write_text("// one")
    assets = console.Assets(tmp_path)
    before = assets.version
    assert before.encode() in assets.index.content
    assets.refresh()
    assert assets.version == before
    script.write_text("// two, longer" * 100)
    assets.refresh()
    assert assets.version != before
    assert assets.version.encode() in assets.index.content
    compressed = assets.files["a.js"].compressed
    assert compressed is not None
    assert gzip.decompress(compressed) == script.read_bytes()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(STATIC).as_posix())
def test_what_a_script_imports_is_there(path: Path) -> None:
    text = re.sub(r"^//.*$", "", path.read_text(), flags=re.MULTILINE)
    for name in IMPORT.findall(text):
        assert (path.parent / name).resolve().is_file(), f"{path.name} imports {name}"
    for name in LOADED.findall(text):
        assert (STATIC / "js" / name).resolve().is_file(), f"{path.name} loads {name}"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(STATIC).as_posix())
def test_scripts_do_what_the_content_security_policy_allows(path: Path) -> None:
    text = path.read_text()
    for forbidden in (
        "innerHTML",
        "dangerouslySetInnerHTML",
        "eval(",
        "new Function",
        "document.write",
        'setAttribute("style"',
    ):
        assert forbidden not in text


MARKUP = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|dangerouslySet|createContextualFragment|srcdoc"
    r"|\b(?:bindTooltip|bindPopup|setContent|setTooltipContent)\((?!written\()"
)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(STATIC).as_posix())
def test_scripts_write_text_never_markup(path: Path) -> None:
    assert MARKUP.findall(path.read_text()) == []


def test_vendored_files_are_as_fetched() -> None:
    script = runpy.run_path(str(Path(__file__).parents[4] / "scripts/vendor_console"))
    script["check"]()
    named = {name for package in script["PACKAGES"] for name, _ in package.files.values()}
    assert {path.name for path in (STATIC / "vendor").iterdir()} == named | {"LICENSES.md"}
