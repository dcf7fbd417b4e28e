"""Every golden vector of the wire contract, decoded and timed as ingest does it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from outrider.contract import topics
from outrider.contract.reasons import Reason, Refused
from outrider_ingest.formats import Decoded, decode_event, decode_log, decode_scalar, decode_telemetry
from outrider_ingest.times import anchor_candidate, resolve_records, resolve_samples

VECTORS = next(
    folder / "contract" / "vectors" for folder in Path(__file__).parents if (folder / "contract" / "vectors").is_dir()
)
FILES = sorted(path for kind in ("telemetry", "scalar", "log", "event") for path in (VECTORS / kind).rglob("*.json"))


def payload_of(vector: dict[str, Any]) -> bytes:
    if "payload_hex" in vector:
        return bytes.fromhex(vector["payload_hex"])
    if "payload_repeat" in vector:
        text, count = vector["payload_repeat"]
        return str(vector.get("payload_prefix", "") + text * count + vector.get("payload_suffix", "")).encode()
    return str(vector["payload"]).encode()


def decode(topic: str, payload: bytes) -> Decoded:
    if topics.TELEMETRY.parse(topic):
        return decode_telemetry(payload)
    if topics.LOG.parse(topic):
        return decode_log(payload)
    if topics.EVENT.parse(topic):
        return decode_event(payload)
    values = topics.TELEMETRY_METRIC.parse(topic)
    assert values, f"no decoder for {topic}"
    return decode_scalar(values["metric"], payload)


def observed(vector: dict[str, Any]) -> dict[str, Any]:
    """What comes of a vector's message, in the shape of `expect`."""
    received_ms = vector["received_ms"]
    try:
        decoded = decode(vector["topic"], payload_of(vector))
    except Refused as refused:
        return {"refuse": str(refused.reason)}
    anchor_ms = vector.get("anchor_ms", anchor_candidate(decoded, received_ms))
    samples, late = resolve_samples(decoded, received_ms, anchor_ms)
    records, late_records = resolve_records(decoded, received_ms, anchor_ms)
    found: dict[str, Any] = {
        "boot": decoded.boot,
        "seq": decoded.seq,
        "samples": [list(sample) for sample in samples],
        "sample_count": len(samples),
        "records": [[record.ts, record.label, record.text, record.fields] for record in records],
        "refused": [[str(reason)] for reason, _ in decoded.refused + late + late_records],
        "gone": [list(gone) for gone in decoded.gone],
        "gone_reason": decoded.gone_reason,
    }
    for key in ("samples", "records", "gone"):
        if key not in vector["expect"]:
            assert "sample_count" in vector["expect"] or not found[key]
    return {key: found[key] for key in vector["expect"]}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(VECTORS).with_suffix("")))
def test_vector_decodes_as_expected(path: Path) -> None:
    vector = json.loads(path.read_text(encoding="utf-8"))
    found = observed(vector)
    assert found == vector["expect"]
    # 1 == 1.0 == True in Python; on the wire and in the ledger they differ.
    assert json.dumps(found, sort_keys=True) == json.dumps(vector["expect"], sort_keys=True)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(VECTORS).with_suffix("")))
def test_vector_stands_in_the_right_folder(path: Path) -> None:
    expect = json.loads(path.read_text(encoding="utf-8"))["expect"]
    assert bool(expect.get("refuse") or expect.get("refused")) == (path.parent.name == "invalid")


def test_vectors_cover_the_contract() -> None:
    invalid = [path for path in FILES if path.parent.name == "invalid"]
    assert len(invalid) >= 100
    reasons: Counter[str] = Counter()
    for path in invalid:
        expect = json.loads(path.read_text(encoding="utf-8"))["expect"]
        reasons.update([expect["refuse"]] if "refuse" in expect else [reason for (reason,) in expect["refused"]])
    # The other reasons are found by ingest's registry or by the writers, not in the payload.
    elsewhere = {
        "conflict",
        "wrong_tenant",
        "too_many_metrics",
        "too_many_gaps",
        "unknown_device",
        "disabled_device",
        "erased",
    }
    assert set(reasons) == {str(reason) for reason in Reason} - elsewhere - {"unprocessable"}
