"""Why a message or sample is refused: the closed list of wire contract v1, and the error that carries one."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """A reason code as it stands in `rejected.message`, in application acks and in metrics labels."""

    NO_TIME = "no_time"
    CONFLICT = "conflict"
    WRONG_TENANT = "wrong_tenant"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    UNKNOWN_FORMAT = "unknown_format"
    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    BAD_NAME = "bad_name"
    BAD_VALUE = "bad_value"
    CLOCK_AHEAD = "clock_ahead"
    CLOCK_INVALID = "clock_invalid"
    TOO_MANY_METRICS = "too_many_metrics"
    TOO_MANY_SAMPLES = "too_many_samples"
    TOO_MANY_GAPS = "too_many_gaps"
    UNKNOWN_DEVICE = "unknown_device"
    DISABLED_DEVICE = "disabled_device"
    ERASED = "erased"
    DECOMPRESS_FAILED = "decompress_failed"
    UNPROCESSABLE = "unprocessable"


EXPLANATION: dict[Reason, str] = {
    Reason.NO_TIME: "A numbered message needs `ts`, or `up_ms` with `now_ms` (or a boot whose anchor is known).",
    Reason.CONFLICT: "Another value is stored for this metric at this millisecond; the first one stays.",
    Reason.WRONG_TENANT: "The topic's tenant is not the tenant of this device.",
    Reason.NOT_UTF8: "The payload is not UTF-8 text.",
    Reason.NOT_JSON: "The payload is not valid JSON (RFC 8259; NaN and Infinity are not JSON).",
    Reason.UNKNOWN_FORMAT: "The payload is none of the formats of the wire contract.",
    Reason.TOO_LARGE: "The message exceeds 64 KiB on the wire or 1 MiB decompressed.",
    Reason.TOO_DEEP: "JSON is nested deeper than 8 levels.",
    Reason.BAD_NAME: "A tenant, device or metric name has characters or a length the contract does not allow.",
    Reason.BAD_VALUE: "A value is of a type or size that cannot be stored (see the detail).",
    Reason.CLOCK_AHEAD: "The time is more than 5 minutes ahead of the server; check the device's clock.",
    Reason.CLOCK_INVALID: "The time cannot be read, or lies before 2000-01-01 or after 9999-12-31.",
    Reason.TOO_MANY_METRICS: "The device has 1,000 distinct metrics already.",
    Reason.TOO_MANY_SAMPLES: "The message has more than 5,000 samples or records; send smaller batches.",
    Reason.TOO_MANY_GAPS: "The device left more than 1,024 gaps in its sequence numbers of this boot.",
    Reason.UNKNOWN_DEVICE: "No such device is registered.",
    Reason.DISABLED_DEVICE: "The device is disabled in the registry.",
    Reason.ERASED: "The device was erased; nothing of it is stored or kept any more, this message neither.",
    Reason.DECOMPRESS_FAILED: "The compressed payload is damaged, truncated or uses an unknown dictionary.",
    Reason.UNPROCESSABLE: "A service failed on this message again and again; its log has the traceback. Report it.",
}


class Refused(Exception):
    """A payload or a part of it cannot be accepted; carries the reason code and a detail for people."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail
