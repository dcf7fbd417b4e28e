"""What the documentation says agrees with the repository: links, paths, commands, settings, metrics, generated pages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer

from outrider.contract import limits
from outrider.contract.batch import decode_samples
from outrider_cli.main import app

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
RUNBOOKS = sorted(path for path in (DOCS / "runbooks").glob("*.md") if path.name != "index.md")
DECISIONS = sorted(path for path in (DOCS / "adr").glob("*.md") if path.name != "index.md")

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *(`{3,})[^\n]*\n.*?^ *\1$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
TOP_FOLDERS = ("libs/", "services/", "cli/", "contract/", "mosquitto/", "docs/", "tests/", "scripts/")
EXAMPLE = "services/counter/"
"""The service that docs/howto/add-a-service.md builds; it is not in the repository."""
VARIABLE = re.compile(r"\bOUTRIDER_[A-Z][A-Z_]+\b")
METRIC = re.compile(r"\boutrider_[a-z_]+_(?:total|seconds|bytes|messages|held|connected)\b")
COMMAND = re.compile(r"(?:\.venv/bin/)?outrider ([a-z].*)")

# In pieces, so that this file does not find itself.
FORBIDDEN = {
    "a path of one machine": "|".join(("/" + "work/", "/" + "root/", r"\.\./" + "shared", "/" + "home/[a-z]")),
    "a registry or mirror": "|".join(
        (r"pypi\.", "python" + "hosted", r"deb\." + "debian", r"archive\." + "ubuntu", r"ghcr\.", r"docker\." + "io")
    ),
    "work left over": r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX")) + r")\b",
}
NO_TEXT = {".gz", ".png", ".zdict", ".ico"}


def tracked() -> list[Path]:
    """The repository's files, those not committed yet included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not in a git checkout")
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def pages() -> list[Path]:
    """Every Markdown file."""
    return [path for path in tracked() if path.suffix == ".md"]


def own_pages() -> list[Path]:
    """The pages a person wrote about the whole: docs/ without reference/, and the files at the top."""
    return [
        path for path in pages() if path.parent == ROOT or (DOCS in path.parents and path.parent.name != "reference")
    ]


def name_of(path: Path) -> str:
    """The path as it is shown in a failure."""
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and mkdocs both make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_links_resolve() -> None:
    broken = []
    for page in pages():
        for match in LINK.finditer(FENCE.sub("", page.read_text())):
            target = unquote(match[1] or match[2])
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = target.partition("#")
            path = (page.parent / file).resolve() if file else page
            if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
                broken.append(f"{name_of(page)}: {target}")
    assert broken == []


def test_paths_in_the_text_exist() -> None:
    missing = []
    for page in pages():
        for code in CODE.findall(FENCE.sub("", page.read_text())):
            path = code.split(" ")[0].rstrip("/")
            if not path.startswith(TOP_FOLDERS) or path.startswith(EXAMPLE):
                continue
            if not (any(ROOT.glob(path.replace("**/", "*/"))) if "*" in path else (ROOT / path).exists()):
                missing.append(f"{name_of(page)}: {code}")
    assert missing == []


@pytest.mark.parametrize("page", RUNBOOKS, ids=lambda page: page.stem)
def test_every_runbook_has_its_five_headings(page: Path) -> None:
    headings = re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
    assert headings == ["Symptom", "Check", "Fix", "Verify", "Why"]
    assert f"({page.name})" in (DOCS / "runbooks/index.md").read_text()


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_every_decision_has_its_sections(page: Path) -> None:
    headings = re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
    assert headings == ["Context", "Decision", "Is", "Is not", "Consequences", "Figures"]
    assert f"({page.name})" in (DOCS / "adr/index.md").read_text()


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert [name for page in DOCS.rglob("*.md") if (name := str(page.relative_to(DOCS))) not in navigation] == []


def test_the_readme_fits_one_screen() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 60


def test_the_bus_batch_of_one_message_is_one() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", (DOCS / "architecture/one-message.md").read_text(), re.DOTALL)
    batch = decode_samples(json.dumps(json.loads(block)).encode())
    assert [len(samples) for samples in batch.samples] == [3, 1]


def test_the_brokers_configuration_agrees_with_the_limits() -> None:
    for name in ("mosquitto/mosquitto.conf", "libs/outrider/src/outrider/servers/embedded.conf.in"):
        assert f"\nmax_packet_size {limits.BROKER_PACKET_MAX_BYTES}\n" in (ROOT / name).read_text()


def test_variables_in_the_text_are_read_by_the_code() -> None:
    known = set(VARIABLE.findall((DOCS / "reference/settings.md").read_text()))
    for path in tracked():
        if path.suffix in {".py", ""} and "src" in path.parts:
            known |= set(VARIABLE.findall(path.read_text()))
    unknown = {
        f"{name_of(page)}: {variable}"
        for page in own_pages()
        for variable in VARIABLE.findall(page.read_text())
        if variable not in known and "COUNTER" not in variable
    }
    assert unknown == set()


def test_metrics_in_the_text_exist() -> None:
    known = set(METRIC.findall((DOCS / "reference/metrics.md").read_text()))
    unknown = {
        f"{name_of(page)}: {metric}"
        for page in own_pages()
        for metric in METRIC.findall(FENCE.sub("", page.read_text()))
        if metric not in known
    }
    assert unknown == set()


def test_commands_in_the_text_exist() -> None:
    tree: Any = typer.main.get_command(app)
    wrong = [
        f"{name_of(page)}: outrider {line}: {problem}"
        for page in own_pages()
        for line in commands(page.read_text())
        if (problem := _problem(tree, line.split()))
    ]
    assert wrong == []


def commands(text: str) -> Iterator[str]:
    """What stands after `outrider` in code spans and at the start of lines of code."""
    spans = CODE.findall(FENCE.sub("", text))
    lines = [line.strip() for block in FENCE.finditer(text) for line in block[0].splitlines()]
    lines += [line.strip() for line in text.splitlines() if line.startswith("    ")]
    for code in (*spans, *lines):
        if match := COMMAND.match(code):
            yield re.split(r" [#|]", match[1])[0]


def _problem(command: Any, words: list[str]) -> str:
    """Why these words are no call of the command, "" if they are one."""
    while words and hasattr(command, "commands"):
        if words[0] not in command.commands:
            return "" if words[0] == "COMMAND" else f"no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)} | {"--help"}
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    return ", ".join(option for option in given if option not in known)


def test_generated_pages_agree_with_the_code() -> None:
    command = [sys.executable, str(ROOT / "scripts/generate_docs"), "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_documentation_builds_strictly_and_needs_no_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )
    assert result.returncode == 0, result.stderr
    fetched = re.compile(r"""<(?:script|link|img)[^>]+(?:src|href)=["']https?://|url\(["']?https?://""")
    assert [page.name for page in tmp_path.rglob("*.html") if fetched.search(page.read_text())] == []
    assert [sheet.name for sheet in tmp_path.rglob("*.css") if fetched.search(sheet.read_text())] == []


def _texts() -> Iterator[tuple[Path, str]]:
    for path in tracked():
        if path.suffix not in NO_TEXT:
            yield path, path.read_text(errors="replace")


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = [
        f"{name_of(path)}:{number}: {line.strip()[:100]}"
        for path, text in _texts()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []
