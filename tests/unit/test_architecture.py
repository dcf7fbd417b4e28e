"""Who may import whom, and the one shape of every service."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "libs" / "outrider"
SERVICES = sorted(path.parent for path in (ROOT / "services").glob("*/pyproject.toml"))
COMMAND = "outrider_cli"
APP_MAX_LINES = 120
"""`app.py` is the story of one message: it fits one screen, more or less."""

SHAPE = ("__init__.py", "__main__.py", "settings.py", "app.py", "grants.sql", "py.typed")
STORES = ("store.py", "store/__init__.py")


def package_of(service: Path) -> str:
    """`outrider_writer_logs` for `services/writer-logs`."""
    return "outrider_" + service.name.replace("-", "_")


def modules(folder: Path) -> Iterator[Path]:
    """The Python files of a member, tests included."""
    return (path for part in ("src", "tests") for path in (folder / part).rglob("*.py"))


def imported(module: Path) -> set[str]:
    """Top-level packages a file imports, anywhere in it; string constants count where importlib is used."""
    tree = ast.parse(module.read_text(), str(module))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    if "importlib" in names:
        names |= {
            node.value.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
    return names


def test_there_are_services() -> None:
    assert {service.name for service in SERVICES} >= {"ingest", "writer-timeseries", "writer-logs"}


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_no_service_imports_another_or_the_command(service: Path) -> None:
    others = {package_of(other) for other in SERVICES if other != service} | {COMMAND}
    found = {str(path.relative_to(ROOT)): names for path in modules(service) if (names := imported(path) & others)}
    assert found == {}


def test_the_library_imports_no_service_and_no_command() -> None:
    members = {package_of(service) for service in SERVICES} | {COMMAND}
    found = {str(path.relative_to(ROOT)): names for path in modules(LIBRARY) if (names := imported(path) & members)}
    assert found == {}


def test_the_command_imports_no_service() -> None:
    packages = {package_of(service) for service in SERVICES}
    source = (ROOT / "cli" / "src").rglob("*.py")
    found = {str(path.relative_to(ROOT)): names for path in source if (names := imported(path) & packages)}
    assert found == {}


def test_the_contract_knows_neither_runtime_nor_servers() -> None:
    for path in (LIBRARY / "src/outrider/contract").glob("*.py"):
        text = path.read_text()
        for inner in ("outrider.runtime", "outrider.servers", "outrider.device", "outrider.testing"):
            assert f"import {inner}" not in text, path
            assert f"from {inner}" not in text, path


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_every_service_has_the_same_shape(service: Path) -> None:
    package = service / "src" / package_of(service)
    missing = [name for name in ("README.md", "pyproject.toml") if not (service / name).is_file()]
    missing += [name for name in SHAPE if not (package / name).is_file()]
    assert missing == []
    assert any((package / store).is_file() for store in STORES)
    assert len((package / "app.py").read_text().splitlines()) <= APP_MAX_LINES


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_every_migration_can_be_rolled_back(service: Path) -> None:
    for migration in (service / "src" / package_of(service) / "migrations").glob("*.sql"):
        if not migration.name.endswith(".rollback.sql"):
            assert migration.with_suffix(".rollback.sql").is_file(), migration


def test_migration_names_are_unique_over_all_packages() -> None:
    folders = [LIBRARY / "src/outrider/runtime/migrations"]
    folders += [service / "src" / package_of(service) / "migrations" for service in SERVICES]
    names = [path.name for folder in folders for path in folder.glob("*.sql")]
    assert len(names) == len(set(names))


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        "import a.b\nfrom c import d\n\ndef f():\n    import e\n    import importlib\n    importlib.import_module('g.h')\n"
    )
    assert imported(module) >= {"a", "c", "e", "g"}
