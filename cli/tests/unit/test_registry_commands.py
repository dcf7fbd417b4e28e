"""The registry's commands against a recorded HTTP transport: what is asked, what is printed, what is said of errors."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from typer.testing import CliRunner

from outrider_cli.main import app
from outrider_cli.registry import client, imports

Answer = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], list[httpx.Request]]:
    """Answers the commands' requests with a function; returns the list that they are added to."""
    monkeypatch.setenv("OUTRIDER_REGISTRY_URL", "http://registry.test")
    monkeypatch.setenv("OUTRIDER_TOKEN", "otr_test")

    def serve(answer: Answer) -> list[httpx.Request]:
        seen: list[httpx.Request] = []

        def handle(request: httpx.Request) -> httpx.Response:
            seen.append(request)
            return answer(request)

        real = httpx.Client
        monkeypatch.setattr(
            client.httpx, "Client", lambda **options: real(**options | {"transport": httpx.MockTransport(handle)})
        )
        return seen

    return serve


def run(*arguments: str, exit_code: int = 0, text: str | None = None) -> str:
    result = CliRunner().invoke(app, arguments, input=text)
    assert result.exit_code == exit_code, result.output
    return result.output


def test_edit_sends_the_etag_it_read(served: Any) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        body = {"id": "van-7", "name": "old", "version": 4}
        return httpx.Response(200, json=body, headers={"ETag": '"4"'})

    seen = served(answer)
    run("device", "edit", "van-7", "--name", "new", "--tag", "a", "--tag", "b", "--gateway", "")
    assert [request.method for request in seen] == ["GET", "PATCH"]
    assert seen[1].headers["If-Match"] == '"4"'
    assert json.loads(seen[1].content) == {"name": "new", "tags": ["a", "b"], "gateway": None}
    assert seen[1].headers["Authorization"] == "Bearer otr_test"


def test_a_problem_is_said_in_its_words(served: Any) -> None:
    problem = {
        "title": "Changed meanwhile",
        "detail": "It was changed. Read it again.",
        "errors": [{"field": "name", "message": "too long"}],
    }
    served(lambda request: httpx.Response(412, json=problem))
    output = run("device", "show", "van-7", exit_code=1)
    assert "It was changed. Read it again." in output
    assert "name: too long" in output


def test_a_registry_that_is_away_is_said(served: Any) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    served(answer)
    assert "does not answer" in run("device", "list", exit_code=1)


def test_lists_follow_the_cursor(served: Any) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        second = request.url.params.get("cursor") == "c1"
        name = "b" if second else "a"
        tenant = {"name": name, "title": "", "created_at": None, "disabled_at": None}
        return httpx.Response(200, json={"items": [tenant], "next": None if second else "c1"})

    seen = served(answer)
    output = run("tenant", "list", "--json", "--tenant", "acme")
    assert [json.loads(line)["name"] for line in output.splitlines()] == ["a", "b"]
    assert seen[0].headers["Outrider-Tenant"] == "acme"


def test_command_wait_ends_with_the_state(served: Any) -> None:
    states = iter(["queued", "sent", "failed"])

    def answer(request: httpx.Request) -> httpx.Response:
        command = {"id": "c1", "name": "reboot", "device": "van-7", "state": next(states), "result": {"error": "no"}}
        return httpx.Response(200, json=command)

    seen = served(answer)
    assert "failed" in run("command", "send", "van-7", "reboot", "--param", "delay_s=5", "--wait", exit_code=1)
    assert json.loads(seen[0].content)["params"] == {"delay_s": 5}
    assert seen[0].headers["Idempotency-Key"]


def test_values_are_json_or_text() -> None:
    assert client.parse_values(["a=1", "b=x", "c=null", 'd={"e":[1]}', "f="]) == {
        "a": 1, "b": "x", "c": None, "d": {"e": [1]}, "f": "",
    }  # fmt: skip
    with pytest.raises(typer.BadParameter, match="KEY=VALUE"):
        client.parse_values(["nothing"])


def fleet_csv(folder: Path, count: int) -> Path:
    path = folder / "fleet.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "tags", "latitude", "longitude"])
        writer.writerows([f"van-{n}", "van;red", "48.1", "11.5"] for n in range(count))
    return path


def imported(request: httpx.Request) -> httpx.Response:
    rows = json.loads(request.content)["rows"]
    results = [
        {"row": at, "id": row["id"], "result": "created", "secret": f"s-{row['id']}", "generation": 1}
        for at, row in enumerate(rows)
    ]
    return httpx.Response(200, json={"results": results})


def test_import_goes_in_chunks_and_reports(served: Any, tmp_path: Path) -> None:
    seen = served(imported)
    report = tmp_path / "report.csv"
    output = run("device", "import", str(fleet_csv(tmp_path, 2500)), "--report", str(report))
    assert "2,500 created" in output
    assert [len(json.loads(request.content)["rows"]) for request in seen] == [1000, 1000, 500]
    first = json.loads(seen[0].content)["rows"][0]
    assert first == {"id": "van-0", "tags": ["van", "red"], "latitude": 48.1, "longitude": 11.5}
    assert report.stat().st_mode & 0o077 == 0
    assert dict(imports.credentials_of(report))["van-2499"] == "s-van-2499"


def test_import_resumes_where_it_was_cut_off(served: Any, tmp_path: Path) -> None:
    calls = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        return imported(request) if calls != 2 else httpx.Response(503, json={"detail": "away"})

    file, report = fleet_csv(tmp_path, 2500), tmp_path / "report.csv"
    seen = served(answer)
    assert "away" in run("device", "import", str(file), "--report", str(report), exit_code=1)
    assert len(imports.read_done(report)) == 1000
    output = run("device", "import", str(file), "--report", str(report), "--resume")
    assert "1,500 created, 1000 done before" in output
    assert len(seen) == 4
    assert len(dict(imports.credentials_of(report))) == 2500


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name\nx\n", "`id` among them"),
        ("id,colour\nx,red\n", "unknown columns colour"),
        ("id,latitude\nx,north\n", "must be a number of degrees"),
        ("id,name\nx,a,b\n", "more values than columns"),
    ],
)
def test_import_says_what_is_wrong_with_a_file(served: Any, tmp_path: Path, text: str, said: str) -> None:
    seen = served(imported)
    path = tmp_path / "bad.csv"
    path.write_text(text)
    assert said in run("device", "import", str(path), exit_code=1)
    assert seen == []


def test_failed_rows_are_named_with_their_line(served: Any, tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"results": [{"row": 0, "id": "X", "result": "failed", "error": "not a name"}]})

    served(answer)
    path = tmp_path / "fleet.csv"
    path.write_text("id\nX\n")
    output = run("device", "import", str(path), exit_code=1)
    assert f"{path}:2: X: not a name" in output
    assert "1 failed" in output


def test_key_new_makes_a_key_that_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    path.write_text(run("key", "new", "--id", "k7"))
    assert run("key", "list", "--master-key-file", str(path)).strip() == "k7"
    assert run("broker", "password", "ingest", "--master-key-file", str(path)).strip()
    assert "There is no service" in run("broker", "password", "nobody", "--master-key-file", str(path), exit_code=1)


def test_broker_bootstrap_leaves_a_good_file_alone(tmp_path: Path) -> None:
    key, file = tmp_path / "master.key", tmp_path / "dynamic-security.json"
    key.write_text(run("key", "new"))
    bootstrap = ("broker", "bootstrap", "--file", str(file), "--master-key-file", str(key))
    assert "written" in run(*bootstrap)
    assert "left alone" in run(*bootstrap)
    file.write_text("")
    assert "written" in run(*bootstrap)


def test_claims_are_printed_with_the_command_to_use_them(served: Any) -> None:
    claim = {"id": "abc123", "token": "T0", "url": "mqtt://127.0.0.1:1884", "expires_at": "2026-11-26T00:00:00.000Z"}
    served(lambda request: httpx.Response(201, json=claim))
    output = run("device", "enrol", "--tag", "van")
    assert "mosquitto_rr -V 5 -h 127.0.0.1 -p 1884 -i claim:abc123 -u claim:abc123 -P T0" in output
    assert "fleet/v1/-/claim/abc123/reply" in output
