"""Payload models of wire contract v1, device side: what JSON Schema and the AsyncAPI document are generated from.

They describe; ingest decodes with faster code of its own, and golden vectors hold the two together. Readers ignore
fields they do not know: v1 only ever gains some.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue, RootModel

from outrider.contract import envelope
from outrider.contract.limits import (
    EVENT_TYPE_MAX_CHARS,
    GONE_MAX_RANGES,
    MESSAGE_MAX_RECORDS,
    MESSAGE_MAX_SAMPLES,
    NEED_MAX_RANGES,
    NUMBER_MAX,
)
from outrider.contract.reasons import Reason

Boot: TypeAlias = Annotated[
    int,
    Field(
        ge=1,
        le=NUMBER_MAX,
        strict=True,
        description="Random number of the device's boot, new at each one.",
        examples=[4096],
    ),
]
Seq: TypeAlias = Annotated[
    int, Field(ge=1, le=NUMBER_MAX, strict=True, description="Counted from 1 per boot and stream.", examples=[17])
]
UptimeMs: TypeAlias = Annotated[
    int, Field(ge=0, le=NUMBER_MAX, strict=True, description="Milliseconds since boot; never wraps.", examples=[61_250])
]
EpochMs: TypeAlias = Annotated[
    int,
    Field(ge=0, le=NUMBER_MAX, strict=True, description="UTC, milliseconds since 1970.", examples=[1_760_000_000_000]),
]
Timestamp: TypeAlias = Annotated[
    int | float | str,
    Field(
        description="UTC. A number is in s (below 10^11), ms (10^14), µs (10^17) or ns (10^20) since 1970; a text is "
        "ISO 8601 date and time, with offset, Z, or neither for UTC.",
        examples=[1_760_000_000_000, 1_760_000_000.25, "2025-10-09T08:53:20Z"],
    ),
]
SeqRange: TypeAlias = Annotated[tuple[Seq, Seq], Field(description="Inclusive range [from, to].", examples=[[1, 64]])]
Scalar: TypeAlias = float | int | bool | str
Level: TypeAlias = Literal["emergency", "alert", "critical", "error", "warning", "notice", "info", "debug"]
Stream: TypeAlias = Literal["telemetry", "log", "event"]


class Payload(BaseModel):
    """Base of all payloads: unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True, populate_by_name=True)


class Numbering(Payload):
    """What makes a message exactly-once: all three are absent in an unnumbered message."""

    boot: Boot | None = None
    seq: Seq | None = None
    now_ms: UptimeMs | None = None
    """Uptime at sending, ms; only in messages of the running boot. The one field a resend may change."""


class NumberBeside(Payload):
    """MQTT 5 user properties that number a payload from outside, for whoever passes it on unchanged; texts in decimal."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"outrider-boot": "4096", "outrider-seq": "17", "outrider-ts": "1760000000000"}]
        }
    )
    boot: Annotated[str, Field(pattern="^0*[1-9][0-9]{0,15}$", max_length=16)] | None = Field(
        None,
        alias=envelope.BOOT,
        description="Random number of the publisher's boot, 1 to 2^53-1; never without seq.",
    )
    seq: Annotated[str, Field(pattern="^0*[1-9][0-9]{0,15}$", max_length=16)] | None = Field(
        None,
        alias=envelope.SEQ,
        description="Counted from 1 per boot, device and stream. A payload with another number of its own is counted and "
        "acknowledged under both.",
    )
    ts: Annotated[str, Field(pattern="^[0-9]{1,16}$")] | None = Field(
        None,
        alias=envelope.TS,
        description="Epoch ms; the time of what carries none, in place of the receive time.",
    )


class Moment(Payload):
    """When a record was taken: `ts`, or `up_ms` by a device without a clock; without both, receive time (unnumbered only)."""

    ts: Timestamp | None = None
    up_ms: UptimeMs | None = None


class FlatRecord(Moment):
    """Samples of one moment: every other key is a metric, units in its name; nested objects flatten with `_`, null is none."""

    model_config = ConfigDict(
        extra="allow", json_schema_extra={"examples": [{"ts": 1_760_000_000_000, "speed_kmh": 51.2, "ignition": True}]}
    )
    values: dict[str, JsonValue] | None = None
    """Samples in an object of their own, as ThingsBoard devices send them."""


class FlatTelemetry(Numbering, FlatRecord):
    """Flat JSON: the samples of one moment, numbered or not."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {"temp_c": 21.5},
                {"boot": 4096, "seq": 17, "now_ms": 61_250, "up_ms": 61_000, "speed_kmh": 51.2, "gear": "D"},
                {"ts": 1_760_000_000_000, "values": {"rpm": 2100, "coolant_c": 88.5}},
            ]
        },
    )


class FlatPack(Numbering):
    """Flat JSON of several moments under one number."""

    records: Annotated[list[FlatRecord], Field(min_length=1, max_length=MESSAGE_MAX_SAMPLES)]


class CompactBatch(Numbering):
    """Compact batch of agents: per series a column of time steps and a column of values."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "v": 1,
                    "boot": 4096,
                    "seq": 17,
                    "t0": 1_760_000_000_000,
                    "series": {"cpu_pct": [[0, 30_000, 30_000], [12.5, 13.1, 12.9]]},
                }
            ]
        }
    )
    v: Literal[1]
    t0: Annotated[int, Field(ge=0, le=NUMBER_MAX, strict=True)]
    """Milliseconds: uptime when `now_ms` is there or, with `boot`, when it lies before 2000; else epoch time."""
    series: dict[str, tuple[list[int], list[Scalar | None]]]
    """Metric → [time steps in ms, values]: the first step counts from `t0`, each next from the time before it."""


class SenmlRecord(Payload):
    """One record of a SenML pack (RFC 8428); numbering stands in the first one."""

    bn: str | None = None
    """Base name; metric = bn + n, with `:` `.` `-` `/` becoming `_`."""
    bt: float | int | None = None
    """Base time, s."""
    bu: str | None = None
    """Base unit."""
    bv: float | int | None = None
    """Base value, added to v."""
    bs: float | int | None = None
    """Base sum, added to s."""
    bver: Annotated[int, Field(le=10)] | None = None
    n: str | None = None
    u: str | None = None
    """Unit; names carry units until the registry keeps them."""
    v: float | int | None = None
    vs: str | None = None
    vb: bool | None = None
    vd: str | None = None
    """Base64 data, stored as this text."""
    s: float | int | None = None
    """Sum, stored as metric `…_sum`."""
    t: float | int | None = None
    """Time, s, added to bt; below 2^28 it is relative to now, which only unnumbered messages may use."""
    ut: float | int | None = None
    """Maximum time to the next record, s; ignored."""
    boot: Boot | None = None
    seq: Seq | None = None
    now_ms: UptimeMs | None = None
    up_ms: UptimeMs | None = None


class SenmlPack(RootModel[Annotated[list[SenmlRecord], Field(min_length=1)]]):
    """SenML pack, JSON representation; CBOR has the same fields by the integer labels of RFC 8428 table 4."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [[{"bn": "engine/", "bt": 1_760_000_000, "n": "temp", "u": "Cel", "v": 88.5}]]}
    )


class ScalarSample(RootModel[Scalar]):
    """One value; the topic names the metric, receive time is its time."""

    model_config = ConfigDict(json_schema_extra={"examples": [21.5, True, "text"]})


class LogRecord(Moment):
    """One log line; every other field is kept with it. `severity` is taken for level, `message` or `text` for msg."""

    model_config = ConfigDict(extra="allow")
    level: Level | Annotated[int, Field(ge=0, le=7)] | str = "info"
    """RFC 5424 severity by name, number or a common alias (warn, err, fatal, trace …)."""
    msg: str


class LogMessage(Numbering, LogRecord):
    """One log line, numbered or not."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [{"ts": 1_760_000_000_000, "level": "warning", "msg": "modem lost", "rssi": -97}]
        },
    )


class LogPack(Numbering):
    """Several log lines under one number."""

    records: Annotated[list[LogRecord], Field(min_length=1, max_length=MESSAGE_MAX_RECORDS)]


class EventRecord(Moment):
    """One event: crash, geofence, dtc, button …; every other field is kept with it. `message` or `text` is taken for msg."""

    model_config = ConfigDict(extra="allow")
    type: Annotated[str, Field(min_length=1, max_length=EVENT_TYPE_MAX_CHARS)]
    msg: str = ""


class EventMessage(Numbering, EventRecord):
    """One event, numbered or not."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [{"boot": 4096, "seq": 3, "ts": 1_760_000_000_000, "type": "dtc", "code": "P0420"}]
        },
    )


class EventPack(Numbering):
    """Several events under one number."""

    records: Annotated[list[EventRecord], Field(min_length=1, max_length=MESSAGE_MAX_RECORDS)]


class GoneMessage(Payload):
    """What the device discarded and will never send: a counted, named loss. Repeated until acknowledged."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"boot": 4096, "gone": [[12, 90]], "reason": "ring full"}]}
    )
    boot: Boot
    gone: Annotated[list[SeqRange], Field(min_length=1, max_length=GONE_MAX_RANGES)]
    reason: Annotated[str, Field(max_length=200)] | None = None


class Status(Payload):
    """Presence: sent retained when connected, and as the will."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"state": "online", "ts": 1_760_000_000_000, "boot": 4096, "fw": "1.4.0", "tier": "esp32"}]
        }
    )
    state: Literal["online", "offline"]
    ts: Timestamp | None = None
    boot: Boot | None = None
    fw: str | None = None
    """Version of the firmware or agent."""
    tier: str | None = None
    """Kind of device: esp32, pi, phone …"""
    reason: str | None = None
    """Why it went or came back: will, reboot, update …"""


class Ack(Payload):
    """What is stored or kept as rejected, and may be forgotten by the device. Losing one costs a resend, nothing else."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "ledger": "01J9Z3",
                    "stream": "telemetry",
                    "boot": 4096,
                    "seq": [[1, 17]],
                    "rejected": [[9, "clock_ahead"]],
                },
                {"stream": "log", "digest": [["9f86d081884c7d65", "not_json"]]},
            ]
        }
    )
    ledger: str | None = None
    """Renewed by every restore of the database; when it changes, a device offers all rows it keeps again."""
    stream: Stream
    boot: Boot | None = None
    seq: list[SeqRange] = Field(default_factory=list)
    """Stored or kept as rejected."""
    rejected: list[tuple[Seq, Reason]] = Field(default_factory=list)
    """Numbers of `seq` that were refused wholly or in part, one entry a reason."""
    need: Annotated[list[SeqRange], Field(max_length=NEED_MAX_RANGES)] = Field(default_factory=list)
    """Gaps the platform asks for; a device ignores what it still holds un-acked and answers `gone` for the rest."""
    gone: list[SeqRange] = Field(default_factory=list)
    """Losses told by `gone`, now counted."""
    digest: list[tuple[Annotated[str, Field(pattern="^[0-9a-f]{16}$")], Reason]] = Field(default_factory=list)
    """Refused messages whose boot and seq could not be read: first 16 hex digits of the payload's SHA-256, reason."""


class ShadowDesired(Payload):
    """The state the device should have, whole, at most 8 KiB."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"version": 12, "state": {"interval_s": 30}}]})
    version: Annotated[int, Field(ge=0, le=NUMBER_MAX)]
    state: dict[str, JsonValue]


class ShadowReported(Payload):
    """The state the device has, as an RFC 7396 merge patch: null deletes."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"version": 12, "state": {"interval_s": 30, "old": None}}]}
    )
    version: Annotated[int, Field(ge=0, le=NUMBER_MAX)]
    """The desired version that this state answers."""
    state: dict[str, JsonValue]


class Command(Payload):
    """An order to the device, carried out at most once per id."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"id": "c-81", "params": {"delay_s": 5}, "expires_ms": 1_760_000_060_000}]}
    )
    id: Annotated[str, Field(min_length=1, max_length=64)]
    params: dict[str, JsonValue] = Field(default_factory=dict)
    expires_ms: EpochMs | None = None
    """Epoch ms after which the device answers `expired` instead of acting."""


class CommandResponse(Payload):
    """How far a command got; the last four are final."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"id": "c-81", "status": "succeeded", "result": {"rebooted": True}}]}
    )
    id: Annotated[str, Field(min_length=1, max_length=64)]
    status: Literal["accepted", "running", "succeeded", "failed", "rejected", "expired"]
    result: Any = None


JobState: TypeAlias = Literal[
    "queued",
    "notified",
    "downloading",
    "downloaded",
    "verified",
    "installing",
    "rebooting",
    "confirming",
    "succeeded",
    "failed",
    "rolled_back",
    "rejected",
    "timed_out",
    "canceled",
    "superseded",
]


class JobProgress(Payload):
    """How far an update job got on the device."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": "j-7", "state": "downloading", "progress": 0.4}]})
    id: Annotated[str, Field(min_length=1, max_length=64)]
    state: JobState
    detail: str | None = None
    progress: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the current state that is done, 0 … 1."""


class TripPlace(Payload):
    """When and where a trip begins or ends."""

    ts: EpochMs
    lat: Annotated[float, Field(ge=-90, le=90)] | None = None
    lon: Annotated[float, Field(ge=-180, le=180)] | None = None


class TripSummary(Payload):
    """The last trip of a device, or the one it is on; its readers know from `id` and `rev` whether they have it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "0d9c1f0e-5f0b-4b6e-9d41-6d0f3f0f2a11",
                    "rev": 1,
                    "state": "final",
                    "micro": False,
                    "edited": False,
                    "start": {"ts": 1_760_000_000_000, "lat": 41.2579, "lon": -95.9843},
                    "end": {"ts": 1_760_000_900_000, "lat": 41.2301, "lon": -96.0112},
                    "distance_km": 8.42,
                    "duration_s": 900.0,
                    "moving_s": 760.0,
                    "idle_s": 140.0,
                    "stop_s": 0.0,
                    "start_reason": "speed",
                    "end_reason": "silence",
                    "confidence": 0.9,
                }
            ]
        }
    )
    id: str
    rev: Annotated[int, Field(ge=1)]
    """One more whenever a final trip changed, by late data or an operator."""
    state: Literal["driving", "paused", "final"]
    micro: bool
    """Too short to count: some metres in a car park."""
    edited: bool = False
    """Merged or split by an operator."""
    start: TripPlace
    end: TripPlace
    """Of an open trip: its newest sign of life."""
    distance_km: float | None = None
    distance_uncertainty_km: float | None = None
    duration_s: float
    moving_s: float | None = None
    idle_s: float | None = None
    stop_s: float | None = None
    avg_speed_kmh: float | None = None
    max_speed_kmh: float | None = None
    start_reason: str
    end_reason: str | None = None
    evidence: str | None = None
    """The best kind of evidence the trip rests on: ignition, gear, rpm, odometer, speed or displacement."""
    confidence: Annotated[float, Field(ge=0, le=1)]
    track: str | None = None
    """Simplified way as an encoded polyline, precision 5; missing where it would not fit into 8 KiB."""


Name: TypeAlias = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9-]{0,62}$")]
Generation: TypeAlias = Annotated[
    int, Field(ge=1, le=NUMBER_MAX, strict=True, description="Number of the device's secret.", examples=[2])
]


class Credential(Payload):
    """The next secret of a device. Keep both: try the new one first, then the old one. Comes again until confirmed."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"generation": 2, "secret": "qLkTzQ4mE0sN1vYc7uJb9wXrA3fGhD6pKtUiOyWe2MB"}]}
    )
    generation: Generation
    secret: Annotated[str, Field(min_length=32, max_length=128)]
    """The password of the connections to come."""
    valid_from: Timestamp | None = None
    """When the broker begins to take it; absent: once it is confirmed."""


class CredentialConfirm(Payload):
    """The device has stored the secret of this generation: the broker switches to it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"generation": 2, "digest": "9f86d081884c7d65"}]})
    generation: Generation
    digest: Annotated[str, Field(pattern="^[0-9a-f]{16}$")] | None = None
    """First 16 hex digits of the secret's SHA-256: a secret that arrived damaged is not switched to."""


class Claim(Payload):
    """What a new device sends, connected as `claim:{claim}` with the claim's token. Send the same again when no reply came."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"serial": "SN-20931", "hardware": "esp32-s3", "firmware": "1.4.0"}]}
    )
    device: Name | None = None
    """The id it would like to have, where the claim names none."""
    serial: Annotated[str, Field(max_length=128)] | None = None
    hardware: Annotated[str, Field(max_length=128)] | None = None
    firmware: Annotated[str, Field(max_length=128)] | None = None
    type: Annotated[str, Field(max_length=63)] | None = None
    csr: Annotated[str, Field(max_length=16_384)] | None = None
    """A certificate request (PEM): the reply then holds a certificate instead of a secret."""
    nonce: Annotated[str, Field(max_length=64)] | None = None
    """Random text, made once, for a device with neither serial nor csr: it tells its retry from another device."""


class ClaimMqtt(Payload):
    """Where the device connects from now on."""

    url: str


class ClaimReply(Payload):
    """What came of a claim. Only `accepted` has the fields from `device` on; only `refused` has a reason."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "status": "accepted",
                    "serial": "SN-20931",
                    "device": "van-7",
                    "tenant": "acme",
                    "username": "van-7",
                    "secret": "qLkTzQ4mE0sN1vYc7uJb9wXrA3fGhD6pKtUiOyWe2MB",
                    "generation": 1,
                    "mqtt": {"url": "mqtts://fleet.example.org:8883"},
                    "topics": {"telemetry": "fleet/v1/acme/van-7/telemetry"},
                },
                {"status": "pending"},
                {
                    "status": "refused",
                    "reason": "used",
                    "detail": "This claim was used by another device. Ask for a new one.",
                },
            ]
        }
    )
    status: Literal["accepted", "pending", "refused"]
    reason: str | None = None
    """One word, for programs."""
    detail: str | None = None
    """A sentence that says what to do."""
    serial: str | None = None
    """As in the request. Whoever shows a claim's token hears its replies: ignore one that answers somebody else."""
    nonce: str | None = None
    """As in the request, likewise."""
    device: Name | None = None
    tenant: Name | None = None
    username: str | None = None
    secret: str | None = None
    generation: Generation | None = None
    certificate: str | None = None
    """PEM, where a certificate was asked for."""
    chain: str | None = None
    """PEM of the authorities above it."""
    mqtt: ClaimMqtt | None = None
    topics: dict[str, str] | None = None
    """Each of the device's topics by its name in the contract."""
