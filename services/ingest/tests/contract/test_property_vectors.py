"""Every golden vector of numbering beside the payload, read as ingest reads a delivery."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from outrider.contract.reasons import Reason
from outrider.runtime.mqtt import Connection, Delivery
from outrider_ingest.messages import Message, digest_of, read

FOLDER = next(
    folder / "contract" / "vectors" / "properties"
    for folder in Path(__file__).parents
    if (folder / "contract" / "vectors").is_dir()
)
FILES = sorted(FOLDER.rglob("*.json"))
NOWHERE: Connection = None  # type: ignore[assignment]


def read_vector(vector: dict[str, Any]) -> Message:
    payload = bytes.fromhex(vector["payload_hex"]) if "payload_hex" in vector else vector["payload"].encode()
    properties = {"user_property": list(vector["properties"].items())}
    message = read(Delivery(vector["topic"], payload, 1, NOWHERE, vector["received_ms"], properties))
    anchor_ms = vector.get("anchor_ms", message.anchor_candidate())
    message.resolve({message.boot_key: anchor_ms} if message.boot_key and anchor_ms is not None else {})
    return message


def observed(message: Message) -> dict[str, Any]:
    """What comes of a message, in the shape of `expect`."""
    if message.digest is not None:
        assert message.header() is None
        return {"refuse": message.digest[1]}
    headers = [header for header in (message.header(), message.second_header()) if header is not None]
    refused = sorted([str(rejection.reason)] for rejection in message.rejections)
    for header in headers:
        if header.seq is not None:
            assert sorted([str(reason)] for reason in header.reasons) == refused
    found: dict[str, Any] = {
        "numbers": [[header.boot, header.seq] for header in headers if header.seq is not None],
        "refused": refused,
    }
    if message.samples:
        values = iter(message.samples.value)
        kinds = [(metric, kind) for metric, kind, count in message.samples.shape.runs for _ in range(count)]
        times = message.samples.ts if len(message.samples.ts) > 1 else message.samples.ts * len(kinds)
        found["samples"] = [[*name, ts, next(values)] for name, ts in zip(kinds, times, strict=True)]
    if message.records:
        found["records"] = [[record.ts, record.label, record.text, record.fields] for record in message.records]
    if gone := [list(item) for header in headers for item in header.gone]:
        found["gone"] = gone
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_vector_is_read_as_expected(path: Path) -> None:
    vector = json.loads(path.read_text(encoding="utf-8"))
    message = read_vector(vector)
    expect = {key: value for key, value in vector["expect"].items() if value != [] or key in ("numbers", "refused")}
    assert json.dumps(observed(message), sort_keys=True) == json.dumps(expect, sort_keys=True)
    assert bool(expect.get("refuse") or expect.get("refused")) == (path.parent.name == "invalid")
    if message.digest is not None:
        assert message.digest == digest_of(message.delivery.payload, Reason(message.digest[1]))


def test_vectors_are_found() -> None:
    assert len(FILES) >= 40


def test_a_replay_loses_the_number_beside_the_payload() -> None:
    properties = {"user_property": [("outrider-replay", "1"), ("outrider-boot", "1"), ("outrider-seq", "1")]}
    message = read(Delivery("fleet/v1/acme/van-1/telemetry", b'{"a":1}', 1, NOWHERE, 1_760_000_000_000, properties))
    message.resolve({})
    header = message.header()
    assert header is not None
    assert (header.boot, header.seq, message.second_header()) == (None, None, None)


def test_a_stranger_is_acknowledged_under_both_numbers() -> None:
    properties = {"user_property": [("outrider-boot", "9"), ("outrider-seq", "4")]}
    payload = b'{"boot":7,"seq":3,"ts":1759999990000,"a":1}'
    message = read(Delivery("fleet/v1/acme/van-1/telemetry", payload, 1, NOWHERE, 1_760_000_000_000, properties))
    message.refuse_whole(Reason.UNKNOWN_DEVICE, "no such device")
    headers = [message.header(), message.second_header()]
    assert [(h.boot, h.seq, list(h.reasons)) for h in headers if h is not None] == [
        (7, 3, [Reason.UNKNOWN_DEVICE]),
        (9, 4, [Reason.UNKNOWN_DEVICE]),
    ]
