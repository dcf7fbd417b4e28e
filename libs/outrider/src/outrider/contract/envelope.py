"""Numbering and time beside the payload: MQTT 5 user properties of a message on `telemetry`, `log` or `event`.

For whoever passes on a payload that is not its own to change.
"""

from __future__ import annotations

from typing import Final

BOOT: Final = "outrider-boot"
SEQ: Final = "outrider-seq"
TS: Final = "outrider-ts"


def user_properties(boot: int, seq: int, ts_ms: int | None = None) -> list[tuple[str, str]]:
    """The user properties of a message with this number; `ts_ms` (epoch ms) is the time of samples that carry none.

    The resends of a message have the same ones.
    """
    properties = [(BOOT, str(boot)), (SEQ, str(seq))]
    if ts_ms is not None:
        properties.append((TS, str(ts_ms)))
    return properties
