"""Pure parts of the API: times, cursors, bucket widths, texts."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from outrider.runtime import replay
from outrider_registry.api import data, fields, rejected
from outrider_registry.store.rejected import REPLAYABLE

T0 = datetime(2026, 3, 1, tzinfo=UTC)


@given(st.integers(1, int(data.MAX_RANGE.total_seconds() * 1000)), st.integers(2, data.MAX_POINTS))
def test_a_range_never_has_more_buckets_than_points(span_ms: int, points: int) -> None:
    step_ms = data.step_of(T0, T0 + timedelta(milliseconds=span_ms), points)
    assert step_ms >= 1
    assert span_ms / step_ms <= points - 1, "and a part of one at an end"
    assert step_ms in data.STEPS_MS or step_ms % data.DAY_MS == 0


def test_bucket_widths_are_round() -> None:
    assert sorted(data.STEPS_MS) == list(data.STEPS_MS)
    hour = timedelta(hours=1)
    assert data.step_of(T0, T0 + hour, 500) == 10_000
    assert data.step_of(T0, T0 + 24 * hour, 500) == 300_000
    assert data.step_of(T0, T0 + 24 * 365 * hour, 500) == data.DAY_MS


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2026-03-01T12:00:00+02:00", "2026-03-01T10:00:00.000Z"),
        ("2026-03-01T12:00", "2026-03-01T12:00:00.000Z"),
        ("1772366400000", "2026-03-01T12:00:00.000Z"),
        ("2026-03-01", "2026-03-01T00:00:00.000Z"),
    ],
)
def test_times_are_read_and_written_in_utc(text: str, written: str) -> None:
    assert fields.iso(TypeAdapter(fields.AskedTime).validate_python(text)) == written


def test_a_time_past_the_calendar_is_refused() -> None:
    with pytest.raises(ValidationError, match="past the years"):
        TypeAdapter(fields.AskedTime).validate_python("0001-01-01T00:00:00+14:00")


@given(st.text(max_size=20))
def test_a_pattern_has_no_wildcards_of_the_text(text: str) -> None:
    inner = fields.like(text)[1:-1]
    assert re.sub(r"\\(.)", r"\1", inner, flags=re.DOTALL) == text
    assert not re.search(r"[%_]", re.sub(r"\\.", "", inner, flags=re.DOTALL))


@pytest.mark.parametrize(
    ("key", "is_text", "is_bigint"),
    [
        ("a", True, False),
        ("a\0", False, False),
        ("\ud800", False, False),
        (2**63 - 1, False, True),
        (2**63, False, False),
    ],
)
def test_parts_of_cursors_are_what_the_database_takes(key: object, is_text: bool, is_bigint: bool) -> None:
    assert (fields.is_text(key), fields.is_bigint(key)) == (is_text, is_bigint)
    assert not fields.is_bigint(True)


@pytest.mark.parametrize(
    ("payload", "text"), [(b"{\n}", "{\n}"), ("ü".encode(), "ü"), (b"\xff", None), (b"a\0", None), (b"", "")]
)
def test_a_payload_is_shown_as_text_where_it_is_one(payload: bytes, text: str | None) -> None:
    assert rejected.as_text(payload) == text


@pytest.mark.parametrize(
    ("topic", "can"),
    [
        ("fleet/v1/acme/van-1/telemetry", True),
        ("fleet/v1/acme/van-1/telemetry/speed_kmh", True),
        ("fleet/v1/acme/van-1/log", True),
        ("fleet/v1/acme/van-1/event", True),
        ("fleet/v1/acme/van-1/telemetry/a/b", False),
        ("fleet/v1/acme/van-1/status", False),
        ("fleet/v1/acme/van-1/command/reboot/response", False),
        ("outrider/v1/samples/1", False),
    ],
)
def test_what_ingest_stores_can_be_sent_again(topic: str, can: bool) -> None:
    assert replay.can_replay(topic) is can
    assert any(re.search(pattern, topic) for pattern in REPLAYABLE) is can
