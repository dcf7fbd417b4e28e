"""What commands print: never an exception on what devices send, times as people type them, help that teaches."""

from __future__ import annotations

import gzip
import zlib
from datetime import UTC, datetime

import hypothesis.strategies as st
import orjson
import pytest
import zstandard
from hypothesis import given
from rich.text import Text
from typer.testing import CliRunner

from outrider.contract.batch import BatchNumber, Header, Samples, encode_samples
from outrider_cli.main import app
from outrider_cli.since import parse_since
from outrider_cli.tail_view import describe, read

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
DEVICE = "fleet/v1/demo/van-1/"


def _plain(topic: str, document: object) -> str:
    payload = document if isinstance(document, bytes) else orjson.dumps(document)
    return Text.from_markup(describe(topic, payload)).plain


@given(
    st.text(max_size=40) | st.sampled_from([DEVICE + name for name in ("telemetry", "log", "event", "ack", "status")]),
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=6),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["series", "records", "seq", "n", "v", "gone", "need", "[b]"]), inner)
        ),
        max_leaves=10,
    ).map(orjson.dumps),
)
def test_describe_never_raises_and_gives_one_line(topic: str, payload: bytes) -> None:
    assert "\n" not in Text.from_markup(describe(topic.replace("\n", ""), payload)).plain


@pytest.mark.parametrize(
    ("topic", "document", "expected"),
    [
        (DEVICE + "telemetry", {"boot": 7, "seq": 3, "ts": 1, "speed_kmh": 51.2}, "speed_kmh=51.2 #3"),
        (
            DEVICE + "telemetry",
            [{"boot": 7, "seq": 4, "bt": 1e9, "n": "t", "v": 1}, {"n": "on", "vb": True}],
            "t=1 on=true #4",
        ),
        (DEVICE + "telemetry/temp_c", b"21.5", "telemetry/temp_c 21.5"),
        (DEVICE + "log", {"level": "error", "msg": "no gps"}, "error no gps"),
        (DEVICE + "event", {"type": "button", "count": 2}, "button  count=2"),
        (
            DEVICE + "ack",
            {"stream": "telemetry", "seq": [[1, 5], [7, 7]], "rejected": [[5, "conflict"]]},
            "acked 1–5, 7",
        ),
        (DEVICE + "telemetry", {"boot": 7, "gone": [[1, 2]], "reason": "capacity"}, "gone [[1,2]] capacity"),
        (DEVICE + "telemetry", {"a": "[red]"}, "a=[red]"),
    ],
)
def test_describe_shows_the_content(topic: str, document: object, expected: str) -> None:
    assert expected in _plain(topic, document)


@pytest.mark.parametrize("pack", [zstandard.ZstdCompressor().compress, gzip.compress, zlib.compress])
def test_compressed_payloads_are_unpacked_and_bounded(pack: object) -> None:
    assert callable(pack)
    compact = {"v": 1, "t0": 5, "series": {"cpu_pct": [[0, 10], [1.5, 2.5]]}}
    assert "2 instants × cpu_pct=2.5" in _plain(DEVICE + "telemetry", pack(orjson.dumps(compact)))
    bomb = pack(b'"' + b"a" * 50_000_000 + b'"')
    assert len(str(read(bomb))) <= 1024 * 1024


def test_bus_batches_are_summarised() -> None:
    header = Header("demo", "van-1", "telemetry", 7, 1, 0)
    payload = encode_samples(
        BatchNumber(2, 9, 41), [(header, Samples.of([("a", "number", 1, 1.0), ("b", "number", 1, 2.0)]))]
    )
    assert "batch 41 of slot 2/9: 1 messages, 2 samples, 1 devices" in _plain("outrider/v1/samples/3", payload)
    assert "not a bus batch" in _plain("outrider/v1/samples/3", b"{}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", datetime(2026, 1, 31, 11, 59, 30, tzinfo=UTC)),
        ("10m", datetime(2026, 1, 31, 11, 50, tzinfo=UTC)),
        ("2h", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("7d", datetime(2026, 1, 24, 12, tzinfo=UTC)),
        ("2026-01-01T00:00:00+00:00", datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_parse_since(text: str, expected: datetime) -> None:
    assert parse_since(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "10", "m", "10 minutes", "-5m", "yesterday"])
def test_parse_since_refuses_what_it_cannot_read(text: str) -> None:
    with pytest.raises(ValueError):
        parse_since(text, NOW)


@pytest.mark.parametrize("command", ["demo", "sim", "tail", "query", "rejected", "doctor"])
def test_help_teaches_with_examples(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"outrider {command}" in result.output
    assert "Examples:" in result.output


def test_command_without_a_platform_says_what_to_do(tmp_path: object) -> None:
    result = CliRunner(env={"OUTRIDER_MQTT_URL": "", "OUTRIDER_DATABASE_URL": ""}).invoke(
        app, ["query", "van-1", "--data", str(tmp_path)]
    )
    assert result.exit_code == 2
    assert "outrider up" in result.output
