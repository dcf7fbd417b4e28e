"""Payload models and generated documents: examples hold, golden vectors fit the schemas, committed files are current."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel, ValidationError

from outrider.contract import generate, payloads, topics
from outrider.contract.generate import CHANNELS, asyncapi_document, differences, documents, main, models, write

CONTRACT = generate.contract_folder(Path(__file__).resolve().parent)
LENIENT = {"message-severity.json"}
"""Accepted, as the models' descriptions say, but not what the schema asks a device to send."""
SCHEMAS = {model.__name__: generate.schema_documents()[f"schema/{model.__name__}.json"] for model in models()}


@pytest.mark.parametrize("model", models(), ids=lambda model: model.__name__)
def test_schema_is_valid_and_examples_fit(model: type[BaseModel]) -> None:
    schema = SCHEMAS[model.__name__]
    jsonschema.Draft202012Validator.check_schema(schema)
    for example in schema.get("examples", []):
        jsonschema.Draft202012Validator(schema).validate(example)
        model.model_validate_json(json.dumps(example))


def fits(document: Any, stream: str) -> bool:
    channel = next(channel for channel in CHANNELS if channel.name == stream)
    return any(
        jsonschema.Draft202012Validator(SCHEMAS[model.__name__]).is_valid(document) for model in channel.payloads
    )


@pytest.mark.parametrize(
    ("kind", "channel"), [("telemetry", "telemetry"), ("log", "log"), ("event", "event"), ("scalar", "telemetryMetric")]
)
def test_valid_vectors_fit_a_schema_of_their_channel(kind: str, channel: str) -> None:
    tried = 0
    for path in sorted((CONTRACT / "vectors" / kind / "valid").glob("*.json")):
        vector = json.loads(path.read_text(encoding="utf-8"))
        try:
            document = json.loads(vector.get("payload", "x"))
        except ValueError:
            # Compressed, generated or one object a line: no single JSON document.
            continue
        if document is None or path.name in LENIENT:
            continue
        # Bare arrays of records are the one shape without a model of its own: each record is one.
        items = document if isinstance(document, list) and not fits(document, channel) else [document]
        assert all(fits(item, channel) for item in items), path.name
        tried += 1
    assert tried >= 4


@pytest.mark.parametrize(
    ("model", "document"),
    [
        (payloads.FlatTelemetry, {"boot": 0, "seq": 1}),
        (payloads.FlatTelemetry, {"boot": 2**53, "seq": 1}),
        (payloads.FlatTelemetry, {"boot": True, "seq": 1}),
        (payloads.FlatTelemetry, {"boot": 1, "seq": True}),
        (payloads.FlatTelemetry, {"boot": 1, "seq": "1"}),
        (payloads.FlatTelemetry, {"boot": 1, "seq": 1, "now_ms": 1.5}),
        (payloads.FlatTelemetry, {"up_ms": -1}),
        (payloads.CompactBatch, {"v": 2, "t0": 1, "series": {}}),
        (payloads.CompactBatch, {"v": 1, "t0": 1, "series": {"a": [[0]]}}),
        (payloads.GoneMessage, {"gone": [[1, 2]]}),
        (payloads.GoneMessage, {"boot": 1, "gone": []}),
        (payloads.GoneMessage, {"boot": 1, "gone": [[0, 2]]}),
        (payloads.Ack, {"stream": "trip"}),
        (payloads.Ack, {"stream": "log", "rejected": [[1, "because"]]}),
        (payloads.Ack, {"stream": "log", "digest": [["short", "not_json"]]}),
        (payloads.Status, {"state": "asleep"}),
        (payloads.EventMessage, {"code": 5}),
        (payloads.LogMessage, {"level": "info"}),
        (payloads.CommandResponse, {"id": "c", "status": "done"}),
        (payloads.JobProgress, {"id": "j", "state": "downloading", "progress": 40}),
        (payloads.Credential, {"generation": 0, "secret": "s" * 43}),
        (payloads.Credential, {"generation": 2, "secret": "short"}),
        (payloads.CredentialConfirm, {"generation": "2"}),
        (payloads.CredentialConfirm, {"generation": 2, "digest": "ABC"}),
        (payloads.Claim, {"device": "Not A Name"}),
        (payloads.ClaimReply, {"status": "maybe"}),
        (payloads.ClaimReply, {"status": "accepted", "device": "+"}),
    ],
)
def test_model_and_schema_refuse(model: type[BaseModel], document: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model.model_validate_json(json.dumps(document))
    assert not jsonschema.Draft202012Validator(model.model_json_schema()).is_valid(document)


def test_unknown_fields_are_ignored() -> None:
    ack = payloads.Ack.model_validate({"stream": "log", "boot": 1, "seq": [[1, 2]], "later": 5})
    assert ack.seq == [(1, 2)]


def test_ack_has_the_keys_of_the_contract() -> None:
    assert list(payloads.Ack.model_fields) == ["ledger", "stream", "boot", "seq", "rejected", "need", "gone", "digest"]


def test_asyncapi_references_resolve() -> None:
    document = asyncapi_document()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(reference := node.get("$ref"), str):
                target: Any = document
                for part in reference.removeprefix("#/").split("/"):
                    target = target[part]
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(document)


def test_asyncapi_channels_are_the_topics() -> None:
    document = asyncapi_document()
    addresses = {channel["address"]: channel for channel in document["channels"].values()}
    for channel in CHANNELS:
        values = dict.fromkeys(addresses[channel.topic.template]["parameters"], "x")
        assert channel.topic.parse(channel.topic.name(**values)) == values
    assert document["operations"]["ack"]["action"] == "send"
    assert document["operations"]["ack"]["bindings"]["mqtt"]["qos"] == 0
    assert document["operations"]["status"]["bindings"]["mqtt"]["retain"] is True
    assert topics.TELEMETRY.template in addresses


def test_committed_documents_are_current() -> None:
    assert differences(CONTRACT) == {}


def test_documents_are_deterministic() -> None:
    assert documents() == documents()


def test_check_tells_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ["--folder", str(tmp_path)]
    assert main([*folder, "--check"]) == 1
    assert main(folder) == 0
    assert main([*folder, "--check"]) == 0
    limits = tmp_path / "limits.json"
    limits.write_text(limits.read_text(encoding="utf-8").replace("65536", "65537"), encoding="utf-8")
    (tmp_path / "schema" / "Former.json").write_text("{}", encoding="utf-8")
    capsys.readouterr()
    assert main([*folder, "--check"]) == 1
    hint = capsys.readouterr().err
    assert '-    "device_message_max_bytes": 65537' in hint
    assert "Former.json is no longer generated" in hint
    assert "python -m outrider.contract.generate" in hint
    assert sorted(write(tmp_path)) == ["limits.json", "schema/Former.json"]
    assert differences(tmp_path) == {}


def test_folder_is_found_from_below(tmp_path: Path) -> None:
    (tmp_path / "contract").mkdir()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "libs" / "x").mkdir(parents=True)
    assert generate.contract_folder(tmp_path / "libs" / "x") == tmp_path / "contract"
