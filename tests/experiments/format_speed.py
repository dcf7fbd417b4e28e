"""How many samples one core of ingest reads a second, in each format, of the same content.

`python -m tests.experiments.format_speed`: 60 messages of what an agent sends (12 metrics, 10 moments each: 120 samples), decoded
and given their times as ingest does it, best of several rounds. Bytes are those of one message on the wire.
"""

from __future__ import annotations

import json
import time
from typing import Any

import cbor2
import zstandard

from outrider.runtime.mqtt import Connection, Delivery
from outrider_ingest.formats.senml_cbor import LABELS
from outrider_ingest.messages import read

ROUNDS = 7
MESSAGES = 60
MOMENTS = 10
STEP_MS = 10_000
T0 = 1_760_000_000_000
METRICS = [
    *((f"cpu,cpu=cpu{core}", f"usage_{field}") for core in (0, 1) for field in ("user", "system", "idle")),
    *(("mem", field) for field in ("used", "free", "cached")),
    *(("net,interface=eth0", field) for field in ("bytes_sent", "bytes_recv", "drop_in")),
]
"""(measurement and tags, field)"""
LABEL_OF = {name: label for label, name in LABELS.items()}
NOWHERE: Connection = None  # type: ignore[assignment]


def name(series: str, field: str) -> str:
    """The metric that a series and field of line protocol make."""
    measurement, _, tags = series.partition(",")
    return "_".join([measurement, *[tag.partition("=")[2] for tag in tags.split(",") if tag], field])


def value(message: int, moment: int, metric: int) -> float:
    """A number as a sensor has it: a few decimals."""
    return round(((message * 7 + moment) * 13 + metric * 101) % 1000 / 9, 3)


def payloads(message: int) -> dict[str, bytes]:
    """One message's content in each format."""
    times = [T0 + (message * MOMENTS + moment) * STEP_MS for moment in range(MOMENTS)]
    rows = [[value(message, moment, metric) for metric in range(len(METRICS))] for moment in range(MOMENTS)]
    names = [name(*metric) for metric in METRICS]
    records = [{"ts": ts, **dict(zip(names, row, strict=True))} for ts, row in zip(times, rows, strict=True)]
    columns = {
        metric: [[0] + [STEP_MS] * (MOMENTS - 1), [row[index] for row in rows]] for index, metric in enumerate(names)
    }
    senml: list[dict[str, Any]] = [
        {"n": metric, "v": row[index], "t": (ts - times[0]) / 1000}
        for ts, row in zip(times, rows, strict=True)
        for index, metric in enumerate(names)
    ]
    senml[0]["bt"] = times[0] / 1000
    lines = []
    for ts, row in zip(times, rows, strict=True):
        for series in dict.fromkeys(series for series, _ in METRICS):
            fields = [f"{metric[1]}={row[index]}" for index, metric in enumerate(METRICS) if metric[0] == series]
            lines.append(f"{series},host=web {','.join(fields)} {ts}000000")
    line_protocol = "\n".join(lines).encode()
    return {
        "flat JSON, an array": json.dumps(records).encode(),
        "compact batch": json.dumps({"v": 1, "t0": times[0], "series": columns}).encode(),
        "SenML JSON": json.dumps(senml).encode(),
        "SenML CBOR": cbor2.dumps([{LABEL_OF[key]: item for key, item in record.items()} for record in senml]),
        "line protocol": line_protocol,
        "line protocol, zstd": zstandard.compress(line_protocol),
    }


def main() -> None:
    """Print the table."""
    made = [payloads(message) for message in range(MESSAGES)]
    print(f"{'format':22} {'bytes':>7} {'samples/s':>12}")
    for kind in made[0]:
        best = 0.0
        for _ in range(ROUNDS):
            deliveries = [
                Delivery("fleet/v1/demo/web/telemetry", each[kind], 1, NOWHERE, T0 + 10**9, None) for each in made
            ]
            started = time.process_time()
            samples = 0
            for delivery in deliveries:
                message = read(delivery)
                message.resolve({})
                samples += len(message.samples)
                assert not message.rejections
            best = max(best, samples / (time.process_time() - started))
            assert samples == MESSAGES * MOMENTS * len(METRICS)
        print(f"{kind:22} {len(made[0][kind]):7} {best:12,.0f}")


if __name__ == "__main__":
    main()
