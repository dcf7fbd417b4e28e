"""Settings that name what is wrong, and log lines that are JSON whatever is put into them."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.runtime.logs import ConsoleFormatter, JsonFormatter
from outrider.runtime.settings import BAD_SETTINGS_EXIT_CODE, ServiceSettings, load, table, variable


def test_every_setting_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, Any] = {
        "mqtt_url": "mqtts://broker.test",
        "mqtt_ca_file": Path("/etc/outrider/ca.crt"),
        "database_url": "postgresql://db.test/x",
        "http_host": "0.0.0.0",
        "http_port": 8080,
        "log_level": "DEBUG",
        "log_format": "console",
        "replica": "two",
        "lease_timeout_s": 2.5,
        "in_hand_max_bytes": 2**20,
    }
    assert values.keys() == ServiceSettings.model_fields.keys()
    for name, value in values.items():
        monkeypatch.setenv(variable(ServiceSettings, name), str(value))
    assert load(ServiceSettings).model_dump() == values


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtts://svc%3Aingest:p@b:1", "mqtts://svc%3Aingest:p@b:1?cafile=%2Fca+of+ours.crt"),
        ("mqtts://b:1?cafile=/other.crt", "mqtts://b:1?cafile=/other.crt"),
        ("mqtt://b:1", "mqtt://b:1"),
    ],
)
def test_the_authority_to_trust_goes_with_the_address(url: str, expected: str) -> None:
    assert ServiceSettings(mqtt_url=url, mqtt_ca_file=Path("/ca of ours.crt")).broker_url == expected
    assert ServiceSettings(mqtt_url=url).broker_url == url


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OUTRIDER_HTTP_PORT", "http"),
        ("OUTRIDER_HTTP_PORT", "65536"),
        ("OUTRIDER_LOG_FORMAT", "xml"),
        ("OUTRIDER_LEASE_TIMEOUT_S", "0"),
        ("OUTRIDER_IN_HAND_MAX_BYTES", "1"),
    ],
)
def test_a_bad_value_exits_with_78_and_the_name_of_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    said = io.StringIO()
    with pytest.raises(SystemExit) as stopped, redirect_stdout(said):
        load(ServiceSettings)
    assert stopped.value.code == BAD_SETTINGS_EXIT_CODE == 78
    assert f"{name}='{value}'" in said.getvalue()


def test_the_process_of_a_service_exits_with_78() -> None:
    code = (
        "from outrider.runtime.service import Service\n"
        "from outrider.runtime.settings import ServiceSettings\n"
        "Service('x', ServiceSettings, None, '').main()\n"
    )
    environment = {**os.environ, "OUTRIDER_HTTP_PORT": "x", "OUTRIDER_LEASE_TIMEOUT_S": "x"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 78
    assert "OUTRIDER_HTTP_PORT" in done.stdout
    assert "OUTRIDER_LEASE_TIMEOUT_S" in done.stdout


def test_the_table_lists_every_setting_with_its_meaning() -> None:
    rows = table(ServiceSettings).splitlines()[2:]
    assert len(rows) == len(ServiceSettings.model_fields)
    for row, (name, info) in zip(rows, ServiceSettings.model_fields.items(), strict=True):
        assert row.startswith(f"| `OUTRIDER_{name.upper()}` | `")
        assert info.description
        assert row.endswith(f" {info.description} |")


class Odd:
    """Something whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def record(message: str, **fields: Any) -> logging.LogRecord:
    made = logging.makeLogRecord({"msg": message, "levelname": "INFO", "levelno": logging.INFO})
    vars(made).update(fields)
    return made


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.text(["\ud800", "\0", "a"])
    | st.binary()
    | st.just(Odd()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.none(), inner),
    max_leaves=6,
)


def strictly(line: str) -> Any:
    def refuse(text: str) -> None:
        raise ValueError(text)

    return json.loads(line, parse_constant=refuse)


@given(message=st.text(st.characters()), value=ANYTHING)
def test_a_log_line_is_one_line_of_json_whatever_is_in_it(message: str, value: Any) -> None:
    line = JsonFormatter("svc").format(record(message, value=value))
    assert "\n" not in line
    parsed = strictly(line)
    assert {"ts", "level", "service", "event", "value"} <= parsed.keys()
    line.encode()


def test_a_log_line_has_the_agreed_fields() -> None:
    parsed = strictly(JsonFormatter("svc").format(record("batch_stored", rows=500, lag_s=0.4)))
    assert parsed.pop("ts").endswith("+00:00")
    assert parsed == {"level": "info", "service": "svc", "event": "batch_stored", "rows": 500, "lag_s": 0.4}


def test_what_json_cannot_say_is_written_out_and_the_rest_stays() -> None:
    parsed = strictly(JsonFormatter("svc").format(record("e", rows=5, big=10**30, bad="\ud800", nan=float("nan"))))
    assert parsed["rows"] == 5
    assert parsed["big"] == str(10**30)
    assert parsed["bad"] == "'\\ud800'"
    assert parsed["nan"] is None


@pytest.mark.parametrize("formatter", [JsonFormatter("svc"), ConsoleFormatter()])
def test_a_traceback_is_kept(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("the cause")
    except ValueError:
        line = formatter.format(record("failed", exc_info=sys.exc_info(), device="van-1"))
    assert "ValueError: the cause" in line
    assert "van-1" in line
