"""The magnitude rules of `ts`, at their edges."""

from __future__ import annotations

import time

import pytest

from outrider_ingest.formats.timestamps import epoch_ms


@pytest.mark.parametrize(
    ("ts", "expected_ms"),
    [
        (0, 0),
        (1_760_000_000, 1_760_000_000_000),
        (10**11 - 1, (10**11 - 1) * 1000),
        (10**11, 10**11),
        (1_760_000_000_123, 1_760_000_000_123),
        (10**14 - 1, 10**14 - 1),
        (10**14, 10**11),
        (1_760_000_000_123_999, 1_760_000_000_123),
        (10**17 - 1, 10**14 - 1),
        (10**17, 10**11),
        (1_760_000_000_123_999_999, 1_760_000_000_123),
        (10**20 - 1, 10**14 - 1),
        (1_760_000_000.1234, 1_760_000_000_123),
        (1_760_000_000.0006, 1_760_000_000_001),
        (1_760_000_000_123.4, 1_760_000_000_123),
        (1.76e15, 1_760_000_000_000),
        (1.76e18, 1_760_000_000_000),
        ("2025-10-09T08:53:20Z", 1_760_000_000_000),
        ("2025-10-09t08:53:20z", 1_760_000_000_000),
        ("2025-10-09 08:53:20.5", 1_760_000_000_500),
        ("2025-10-09T08:53:20.123456+00:00", 1_760_000_000_123),
        ("2025-10-09T04:23:20-04:30", 1_760_000_000_000),
        ("20251009T085320Z", 1_760_000_000_000),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
    ],
)
def test_epoch_ms(ts: object, expected_ms: int) -> None:
    assert epoch_ms(ts) == expected_ms


@pytest.mark.parametrize(
    "ts",
    [
        -1,
        -0.5,
        10**20,
        10**400,
        1e20,
        float("inf"),
        float("-inf"),
        float("nan"),
        True,
        None,
        [],
        {},
        "",
        "1760000000",
        "2025-10-09",
        "2025-W41-4",
        "2025-10-09T25:00:00Z",
        "2025-02-30T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "0001-01-01T00:00:00+23:59",
        "2025-10-09T08:53:20Z" + " " * 100,
        "٢٠٢٥-10-09T08:53:20Z",
        "\x00" * 20,
    ],
)
def test_epoch_ms_refuses(ts: object) -> None:
    with pytest.raises(ValueError):
        epoch_ms(ts)


def test_iso_text_without_offset_is_utc_wherever_the_server_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "NPT-05:45")
        time.tzset()
        assert epoch_ms("2025-10-09T08:53:20") == 1_760_000_000_000
    time.tzset()
