"""The OpenAPI document in `contract/` is what the code says, and names every route with its answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from outrider_gateway import openapi


def test_the_document_that_is_checked_in_is_the_codes(repository_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository_root)
    assert openapi.main(["--check"]) == 0


def test_a_difference_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gateway-openapi.json"
    path.write_text("{}\n")
    assert openapi.main(["--check", "--file", str(path)]) == 1
    assert "run `python -m outrider_gateway.openapi`" in capsys.readouterr().err
    assert openapi.main(["--file", str(path)]) == 0
    assert openapi.main(["--check", "--file", str(path)]) == 0


def test_every_question_names_its_formats_and_problems() -> None:
    paths = json.loads(openapi.text())["paths"]
    telemetry = paths["/api/v1/devices/{id}/telemetry"]["get"]
    assert set(telemetry["responses"]["200"]["content"]) == {
        "application/json",
        "text/csv",
        "application/vnd.apache.arrow.stream",
    }
    assert set(paths["/api/v1/trips/{id}"]["get"]["responses"]["200"]["content"]) == {
        "application/json",
        "application/geo+json",
        "application/gpx+xml",
    }
    for path, item in paths.items():
        for method, operation in item.items():
            if method == "get":
                assert {"400", "401", "403", "404", "503"} <= set(operation["responses"]), path
                assert operation["summary"], path
