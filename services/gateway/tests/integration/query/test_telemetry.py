"""Telemetry of a device over the API: what is asked is what raw samples say, whatever it was read from."""

from __future__ import annotations

import csv
import io
import secrets

import pyarrow as pa
import pytest

NOW = 1_760_000_000_000 // 3_600_000 * 3_600_000
HOUR = 3_600_000


async def test_buckets_from_rollups_and_raw_equal_the_samples(asker) -> None:
    device = asker.device(f"van-{secrets.token_hex(3)}")
    samples = [(NOW + n * 10_000, float(n % 97)) for n in range(9 * 360)]
    asker.store(device, "speed_kmh", samples)
    asker.roll_up(NOW + 8 * HOUR)
    asker.store(device, "speed_kmh", late := [(NOW + HOUR + 5, 1000.0)])
    answer = await asker.acme.get(
        f"devices/{device}/telemetry",
        params={
            "metric": "speed_kmh",
            "from": NOW + 12_345,
            "to": NOW + 9 * HOUR,
            "step": "1h",
            "aggregate": "mean,max,count",
        },
    )
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert document["source"] == "1h"
    assert {s["tier"] for s in document["segments"]} == {"raw", "1m", "5m", "1h"}
    buckets: dict[int, list[float]] = {}
    for t, value in [*samples, *late]:
        if t >= NOW + 12_345:
            buckets.setdefault(t // HOUR * HOUR, []).append(value)
    assert document["data"]["ts"] == sorted(buckets)
    assert document["data"]["speed_kmh.count"] == [len(v) for _, v in sorted(buckets.items())]
    assert document["data"]["speed_kmh.max"] == [max(v) for _, v in sorted(buckets.items())]
    assert document["data"]["speed_kmh.mean"] == pytest.approx([sum(v) / len(v) for _, v in sorted(buckets.items())])
