"""The OpenAPI document is what is checked in, and says of every operation what all of them have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider_registry import openapi
from outrider_registry.api import application

OPEN = {
    ("post", "/api/v1/session"),
    ("post", "/api/v1/session/link"),
    ("post", "/api/v1/enrol"),
    ("get", "/api/v1/authority/ca.crt"),
    ("get", "/api/v1/authority/crl.pem"),
}
"""What answers without a sign-in; everything else must not."""


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in application().openapi()["paths"].items():
        for method, operation in item.items():
            yield method, path, operation


def test_the_document_is_checked_in(repository_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert openapi.main(["--check", "--file", str(repository_root / "contract" / openapi.NAME)]) == 0, (
        capsys.readouterr().err
    )


def test_a_difference_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "openapi.json"
    assert openapi.main(["--file", str(path)]) == 0
    assert openapi.main(["--check", "--file", str(path)]) == 0
    path.write_text(path.read_text().replace('"Outrider"', '"Outsider"'))
    assert openapi.main(["--check", "--file", str(path)]) == 1
    assert '-    "title": "Outsider"' in capsys.readouterr().err


def test_only_what_must_be_open_is() -> None:
    assert {(method, path) for method, path, operation in operations() if not operation["security"]} == OPEN


def test_every_operation_has_a_summary_an_id_of_its_own_and_problems() -> None:
    ids = set()
    for method, path, operation in operations():
        assert operation["summary"], path
        assert operation["operationId"] not in ids, path
        ids.add(operation["operationId"])
        assert "4XX" in operation["responses"], (method, path)
        assert any(status.startswith("2") for status in operation["responses"]), (method, path)
        names = {parameter.get("name", parameter.get("$ref", "")) for parameter in operation.get("parameters", [])}
        assert ("#/components/parameters/IdempotencyKey" in names) == (
            method == "post" and (method, path) not in OPEN
        ), path


def test_whatever_can_be_changed_by_two_asks_for_the_version() -> None:
    """PATCH, PUT and DELETE of things with a version; the exceptions have none."""
    without = {
        ("patch", "/api/v1/session"),
        ("delete", "/api/v1/session"),
        ("delete", "/api/v1/session/totp"),
        ("delete", "/api/v1/tokens/{token}"),
        ("delete", "/api/v1/users/{name}/broker-login"),
        ("delete", "/api/v1/rejected/{id}"),
        ("delete", "/api/v1/claims/{id}"),
        ("put", "/api/v1/stop"),
        ("delete", "/api/v1/stop"),
        ("patch", "/api/v1/devices/{id}/shadow"),
        ("patch", "/api/v1/retention"),
        ("delete", "/api/v1/trip-edits/{id}"),
        ("put", "/api/v1/trip-rules/{type}"),
        ("delete", "/api/v1/trip-rules/{type}"),
    }
    found = {
        (method, path)
        for method, path, operation in operations()
        if method in {"patch", "put", "delete"}
        and not any(parameter.get("name") == "If-Match" for parameter in operation.get("parameters", []))
    }
    assert found <= without
