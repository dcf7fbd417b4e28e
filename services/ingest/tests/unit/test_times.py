"""Delivery rule 2 as tables: which time a sample ends with, or why it has none."""

from __future__ import annotations

import pytest

from outrider.contract.limits import CLOCK_AHEAD_MAX_MS, TIME_MIN_MS
from outrider.contract.reasons import Reason
from outrider_ingest.formats import Decoded
from outrider_ingest.times import anchor_candidate, drift_ms, resolve_records, resolve_samples

RECEIVED = 1_760_000_000_000
ANCHOR = RECEIVED - 1_000_000
LATEST = RECEIVED + CLOCK_AHEAD_MAX_MS
NUMBERED, BOOT_ONLY, PLAIN = (4096, 17), (4096, None), (None, None)


@pytest.mark.parametrize(
    ("numbering", "now_ms", "ts", "up_ms", "anchor_ms", "expected"),
    [
        # a real time wins
        (NUMBERED, None, RECEIVED - 5, None, None, RECEIVED - 5),
        (NUMBERED, 900_000, RECEIVED - 5, 10, ANCHOR, RECEIVED - 5),
        (PLAIN, None, RECEIVED - 5, None, None, RECEIVED - 5),
        (PLAIN, 900_000, RECEIVED - 5, 10, None, RECEIVED - 5),
        # any age behind, to the millisecond
        (NUMBERED, None, TIME_MIN_MS, None, None, TIME_MIN_MS),
        (NUMBERED, None, TIME_MIN_MS - 1, None, None, Reason.CLOCK_INVALID),
        (PLAIN, None, TIME_MIN_MS - 1, None, None, Reason.CLOCK_INVALID),
        (PLAIN, None, 0, None, None, Reason.CLOCK_INVALID),
        # five minutes ahead, to the millisecond
        (NUMBERED, None, LATEST, None, None, LATEST),
        (NUMBERED, None, LATEST + 1, None, None, Reason.CLOCK_AHEAD),
        (PLAIN, None, LATEST + 1, None, None, Reason.CLOCK_AHEAD),
        # a wrong clock gives way to uptime where the anchor is known
        (NUMBERED, None, LATEST + 1, 10, ANCHOR, ANCHOR + 10),
        (NUMBERED, None, 0, 10, ANCHOR, ANCHOR + 10),
        (NUMBERED, None, LATEST + 1, 10, None, Reason.CLOCK_AHEAD),
        (NUMBERED, None, LATEST + 1, None, ANCHOR, Reason.CLOCK_AHEAD),
        # uptime and the boot's anchor, whatever now_ms a resend carries
        (NUMBERED, 900_000, None, 10, ANCHOR, ANCHOR + 10),
        (NUMBERED, 999_999, None, 10, ANCHOR, ANCHOR + 10),
        (NUMBERED, None, None, 10, ANCHOR, ANCHOR + 10),
        (BOOT_ONLY, None, None, 10, ANCHOR, ANCHOR + 10),
        # numbered without a time never gets the receive time
        (NUMBERED, None, None, None, None, Reason.NO_TIME),
        (NUMBERED, 900_000, None, None, ANCHOR, Reason.NO_TIME),
        (NUMBERED, None, None, 10, None, Reason.NO_TIME),
        (NUMBERED, 900_000, None, 10, None, Reason.NO_TIME),
        # uptime past what the anchor allows
        (NUMBERED, None, None, LATEST - ANCHOR, ANCHOR, LATEST),
        (NUMBERED, None, None, LATEST - ANCHOR + 1, ANCHOR, Reason.CLOCK_AHEAD),
        # unnumbered: receive time, less the age where it is told
        (PLAIN, None, None, None, None, RECEIVED),
        (BOOT_ONLY, None, None, None, None, RECEIVED),
        (PLAIN, 5_000, None, 4_000, None, RECEIVED - 1_000),
        (BOOT_ONLY, 5_000, None, 4_000, ANCHOR, RECEIVED - 1_000),
        (PLAIN, 5_000, None, None, None, RECEIVED),
        (PLAIN, None, None, 4_000, None, RECEIVED),
        (PLAIN, None, None, 4_000, ANCHOR, RECEIVED),
    ],
)
def test_resolve(
    numbering: tuple[int | None, int | None],
    now_ms: int | None,
    ts: int | None,
    up_ms: int | None,
    anchor_ms: int | None,
    expected: int | Reason,
) -> None:
    decoded = Decoded(*numbering, now_ms, samples=[("a", ts, up_ms, 1)], records=[(ts, up_ms, "info", "m", {})])
    samples, refused_samples = resolve_samples(decoded, RECEIVED, anchor_ms)
    records, refused_records = resolve_records(decoded, RECEIVED, anchor_ms)
    if isinstance(expected, Reason):
        assert samples == []
        assert records == []
        assert [reason for reason, _ in refused_samples] == [reason for reason, _ in refused_records] == [expected]
    else:
        assert samples == [("a", "number", expected, 1)]
        assert [record.ts for record in records] == [expected]
        assert refused_samples == refused_records == []


@pytest.mark.parametrize(
    ("value", "kind"),
    [(1, "number"), (1.5, "number"), (True, "boolean"), ("x", "string"), ([1], "json"), ({"a": 1}, "json")],
)
def test_resolve_samples_names_the_kind(value: object, kind: str) -> None:
    decoded = Decoded(samples=[("a", None, None, value)])  # type: ignore[list-item]
    assert resolve_samples(decoded, RECEIVED, None)[0] == [("a", kind, RECEIVED, value)]


def test_refused_times_are_told_once_a_reason_with_their_count() -> None:
    ahead, old = LATEST + 1, 5
    decoded = Decoded(
        samples=[("a", ahead, None, 1), ("b", RECEIVED, None, 1), *[("c", ahead, None, 1)] * 7, ("d", old, None, 1)]
    )
    samples, refused = resolve_samples(decoded, RECEIVED, None)
    assert [metric for metric, *_ in samples] == ["b"]
    assert [reason for reason, _ in refused] == [Reason.CLOCK_AHEAD, Reason.CLOCK_INVALID]
    assert refused[0][1].startswith("metric 'a': ")
    assert refused[0][1].endswith("(and 7 more)")


@pytest.mark.parametrize(
    ("decoded", "expected"),
    [
        (Decoded(4096, 1, 60_000, samples=[("a", None, 1, 1)]), RECEIVED - 60_000),
        (Decoded(4096, 1, 60_000, records=[(None, 1, "info", "m", {})]), RECEIVED - 60_000),
        (Decoded(4096, None, 0, samples=[("a", None, 0, 1)]), RECEIVED),
        (Decoded(4096, 1, None, samples=[("a", None, 1, 1)]), None),
        (Decoded(None, None, 60_000, samples=[("a", None, 1, 1)]), None),
        # nothing valid in it, or an uptime that would put the boot before 2000
        (Decoded(4096, 1, 60_000), None),
        (Decoded(4096, 1, RECEIVED - TIME_MIN_MS + 1, samples=[("a", None, 1, 1)]), None),
    ],
)
def test_anchor_candidate(decoded: Decoded, expected: int | None) -> None:
    assert anchor_candidate(decoded, RECEIVED) == expected


@pytest.mark.parametrize(
    ("decoded", "anchor_ms", "expected"),
    [
        (Decoded(4096, 1, samples=[("a", ANCHOR + 10, 10, 1)]), ANCHOR, 0),
        (Decoded(4096, 1, samples=[("a", ANCHOR + 510, 10, 1)]), ANCHOR, 500),
        (Decoded(4096, 1, samples=[("a", ANCHOR, 10, 1), ("a", None, 20, 1)]), ANCHOR, -10),
        (Decoded(4096, 1, records=[(ANCHOR + 15, 10, "info", "m", {})]), ANCHOR, 5),
        (Decoded(4096, 1, samples=[("a", ANCHOR + 10, 10, 1)]), None, None),
        (Decoded(4096, 1, samples=[("a", ANCHOR + 10, None, 1)]), ANCHOR, None),
        (Decoded(4096, 1, samples=[("a", LATEST + 1, 10, 1), ("a", 5, 10, 1)]), ANCHOR, None),
        (Decoded(None, None, samples=[("a", ANCHOR + 10, 10, 1)]), ANCHOR, None),
    ],
)
def test_drift_ms(decoded: Decoded, anchor_ms: int | None, expected: int | None) -> None:
    assert drift_ms(decoded, RECEIVED, anchor_ms) == expected
