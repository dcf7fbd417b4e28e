"""Payloads of the benchmark's devices: everything but number and time is made before the start."""

from __future__ import annotations

import json
from random import Random

from tests.bench.loads import Encoding

VARIANTS = 64
"""Messages with different values; message `seq` carries variant `seq % VARIANTS`. A power of two."""
FRAME_STEP_MS = 1_000
"""Between the instants of one compact batch."""
BACKLOG_MS = 24 * 3600 * 1000
"""How long ago a backlog begins."""

_NAMES = (
    "speed_kmh rpm coolant_c throttle_pct fuel_pct battery_v odometer_km intake_c oil_bar maf_gps".split()  # noqa: SIM905
)


def metric_names(count: int) -> list[str]:
    """As many metric names."""
    return [*_NAMES, *(f"sensor_{number}_c" for number in range(len(_NAMES), count))][:count]


def head(encoding: Encoding, boot: int) -> bytes:
    """The beginning of a device's messages, with places for seq and time (`%`)."""
    if encoding == "compact":
        return b'{"v":1,"boot":%d,"seq":%%d,"t0":%%d,"series":' % boot
    return b'{"boot":%d,"seq":%%d,"ts":%%d,' % boot


def tails(encoding: Encoding, metrics: int, frames: int) -> list[bytes]:
    """The ends of the messages, by variant. Values walk at random, the same in every run."""
    random = Random(1)
    values = [random.uniform(10, 90) for _ in range(metrics)]
    made = []
    for _ in range(VARIANTS):
        columns: list[list[float]] = [[] for _ in range(metrics)]
        for _ in range(frames):
            values = [value + random.uniform(-0.5, 0.5) for value in values]
            for column, value in zip(columns, values, strict=True):
                column.append(round(value, 2))
        if encoding == "compact":
            steps = [0, *[FRAME_STEP_MS] * (frames - 1)]
            document: object = {n: [steps, column] for n, column in zip(metric_names(metrics), columns, strict=True)}
            made.append(json.dumps(document, separators=(",", ":")).encode() + b"}")
        else:
            document = {name: column[0] for name, column in zip(metric_names(metrics), columns, strict=True)}
            made.append(json.dumps(document, separators=(",", ":")).encode()[1:])
    return made


def time_step_ms(encoding: Encoding, frames: int) -> int:
    """From one message of a device to its next."""
    return FRAME_STEP_MS * frames if encoding == "compact" else 1


def start_ms(encoding: Encoding, now_ms: int) -> int:
    """The time of a device's message 0. Times grow with the number alone, so no key comes twice and a resend is the same."""
    return now_ms - BACKLOG_MS if encoding == "compact" else now_ms
