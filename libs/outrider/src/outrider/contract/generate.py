"""Writes the repository's `contract/` documents (JSON Schema, AsyncAPI, limits) from the contract's code.

`python -m outrider.contract.generate` writes them; `--check` only compares and exits 1 when a committed file differs.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from outrider.contract import limits, payloads, topics
from outrider.contract.reasons import EXPLANATION

DIALECT = "https://json-schema.org/draft/2020-12/schema"
DIFF_MAX_LINES = 40


@dataclass(frozen=True, slots=True)
class Channel:
    """One device-side topic: who sends what on it, and how."""

    name: str
    topic: topics.Topic
    sender: Literal["device", "platform"]
    qos: int
    retain: bool
    payloads: tuple[type[BaseModel], ...]
    summary: str


CHANNELS = (
    Channel(
        "telemetry",
        topics.TELEMETRY,
        "device",
        1,
        False,
        (
            payloads.FlatTelemetry,
            payloads.FlatPack,
            payloads.CompactBatch,
            payloads.SenmlPack,
            payloads.GoneMessage,
        ),
        "Samples, recognised by content; also arrays of flat records, SenML CBOR (RFC 8428 section 6) and Influx line protocol; "
        "plain, zstd, gzip or zlib.",
    ),
    Channel(
        "telemetryMetric",
        topics.TELEMETRY_METRIC,
        "device",
        1,
        False,
        (payloads.ScalarSample,),
        "One value of the metric that the topic names; QoS 0 is accepted too.",
    ),
    Channel(
        "log",
        topics.LOG,
        "device",
        1,
        False,
        (payloads.LogMessage, payloads.LogPack, payloads.GoneMessage),
        "Log lines: one, an array, a pack, or one object a line.",
    ),
    Channel(
        "event",
        topics.EVENT,
        "device",
        1,
        False,
        (payloads.EventMessage, payloads.EventPack, payloads.GoneMessage),
        "Events: one, an array, a pack, or one object a line.",
    ),
    Channel("status", topics.STATUS, "device", 1, True, (payloads.Status,), "Presence; also the device's will."),
    Channel(
        "ack",
        topics.ACK,
        "platform",
        0,
        False,
        (payloads.Ack,),
        "Application acknowledgement, once stored or kept as rejected.",
    ),
    Channel(
        "shadowDesired",
        topics.SHADOW_DESIRED,
        "platform",
        1,
        True,
        (payloads.ShadowDesired,),
        "The state the device should have.",
    ),
    Channel(
        "shadowReported",
        topics.SHADOW_REPORTED,
        "device",
        1,
        False,
        (payloads.ShadowReported,),
        "The state the device has.",
    ),
    Channel(
        "command",
        topics.COMMAND,
        "platform",
        1,
        False,
        (payloads.Command,),
        "An order; MQTT 5 adds Response Topic, Correlation Data and Message Expiry.",
    ),
    Channel(
        "commandResponse",
        topics.COMMAND_RESPONSE,
        "device",
        1,
        False,
        (payloads.CommandResponse,),
        "How far a command got.",
    ),
    Channel(
        "jobProgress", topics.JOB_PROGRESS, "device", 1, False, (payloads.JobProgress,), "How far an update job got."
    ),
    Channel(
        "trip",
        topics.TRIP,
        "platform",
        1,
        True,
        (payloads.TripSummary,),
        "The last trip of the device, or the one it is on; empty once the device is erased.",
    ),
    Channel(
        "credential",
        topics.CREDENTIAL,
        "platform",
        0,
        False,
        (payloads.Credential,),
        "The device's next secret, again every few minutes until it is confirmed; QoS 0, so that no broker writes it down.",
    ),
    Channel(
        "credentialConfirm",
        topics.CREDENTIAL_CONFIRM,
        "device",
        1,
        False,
        (payloads.CredentialConfirm,),
        "The device has stored its next secret.",
    ),
    Channel(
        "claim",
        topics.CLAIM,
        "device",
        1,
        False,
        (payloads.Claim,),
        "A new device asks to be enrolled; MQTT 5 may add Response Topic (the claim's own reply) and Correlation Data.",
    ),
    Channel(
        "claimReply",
        topics.CLAIM_REPLY,
        "platform",
        0,
        False,
        (payloads.ClaimReply,),
        "What came of the claim; QoS 0, as it may hold a secret: whoever hears nothing asks again.",
    ),
)

PARAMETERS = {
    "tenant": "Name of the tenant: [a-z0-9][a-z0-9-]{0,62}.",
    "device": "Name of the device, unique in a deployment: [a-z0-9][a-z0-9-]{0,62}.",
    "metric": "Name of the metric: [A-Za-z_][A-Za-z0-9_]{0,127}; dots, dashes and spaces become _.",
    "name": "Name of the command.",
    "claim": "Id of the claim: [a-z0-9]{6,32}.",
}


NUMBERED_CHANNELS = frozenset({"telemetry", "telemetryMetric", "log", "event"})
"""Whose messages may have a number beside the payload."""


def models() -> list[type[BaseModel]]:
    """Every payload model of the channels and of their user properties, once, by name."""
    found = {model for channel in CHANNELS for model in channel.payloads} | {payloads.NumberBeside}
    return sorted(found, key=lambda model: model.__name__)


def _with_number_beside() -> set[type[BaseModel]]:
    return {model for channel in CHANNELS if channel.name in NUMBERED_CHANNELS for model in channel.payloads}


def schema_documents() -> dict[str, Any]:
    """File name → JSON Schema 2020-12 of each payload."""
    return {
        f"schema/{model.__name__}.json": {"$schema": DIALECT, **model.model_json_schema(mode="validation")}
        for model in models()
    }


def asyncapi_document() -> dict[str, Any]:
    """The AsyncAPI 3.0 document, seen from the platform: it receives what devices send."""
    _, definitions = models_json_schema(
        [(model, "validation") for model in models()], ref_template="#/components/schemas/{model}"
    )
    numbered = _with_number_beside()
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for channel in CHANNELS:
        address = channel.topic.template
        channels[channel.name] = {
            "address": address,
            "summary": channel.summary,
            "parameters": {
                name: {"description": text} for name, text in PARAMETERS.items() if "{" + name + "}" in address
            },
            "messages": {
                model.__name__: {"$ref": f"#/components/messages/{model.__name__}"} for model in channel.payloads
            },
        }
        operations[channel.name] = {
            "action": "receive" if channel.sender == "device" else "send",
            "channel": {"$ref": f"#/channels/{channel.name}"},
            "summary": channel.summary,
            "bindings": {"mqtt": {"qos": channel.qos, "retain": channel.retain, "bindingVersion": "0.2.0"}},
            "messages": [
                {"$ref": f"#/channels/{channel.name}/messages/{model.__name__}"} for model in channel.payloads
            ],
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Outrider device contract",
            "version": "1.0.0",
            "description": "MQTT topics and payloads between devices and the platform. Generated; the source is "
            "outrider.contract. Fields are only ever added within v1, and readers ignore those they do not know.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": {
                model.__name__: {
                    "name": model.__name__,
                    "summary": (model.__doc__ or "").strip().splitlines()[0],
                    "payload": {"$ref": f"#/components/schemas/{model.__name__}"},
                    **({"headers": {"$ref": "#/components/schemas/NumberBeside"}} if model in numbered else {}),
                }
                for model in models()
                if model is not payloads.NumberBeside
            },
            "schemas": definitions["$defs"],
        },
    }


def limits_document() -> dict[str, Any]:
    """Every limit by name, and every reason of refusal with its explanation."""
    return {
        "limits": {name.lower(): value for name, value in vars(limits).items() if name.isupper()},
        "reasons": {reason.value: text for reason, text in EXPLANATION.items()},
    }


def documents() -> dict[str, str]:
    """File name below `contract/` → content; the same on every run."""
    found = {
        **schema_documents(),
        "asyncapi.json": asyncapi_document(),
        "limits.json": limits_document(),
    }
    return {
        name: json.dumps(found[name], indent=2, ensure_ascii=False, sort_keys=True) + "\n" for name in sorted(found)
    }


def differences(folder: Path) -> dict[str, str]:
    """File name → the first lines of its diff, for each file that is missing, differs, or is no longer generated."""
    wanted = documents()
    found: dict[str, str] = {}
    for name, content in wanted.items():
        path = folder / name
        committed = path.read_text(encoding="utf-8") if path.exists() else ""
        if committed != content:
            lines = difflib.unified_diff(
                committed.splitlines(), content.splitlines(), f"{name} (committed)", f"{name} (generated)", lineterm=""
            )
            found[name] = "\n".join(list(lines)[:DIFF_MAX_LINES])
    for path in sorted((folder / "schema").glob("*.json")):
        name = f"schema/{path.name}"
        if name not in wanted:
            found[name] = f"{name} is no longer generated: remove it"
    return found


def write(folder: Path) -> list[str]:
    """Write what differs and remove schemas no longer generated; the names of the files touched."""
    wanted = documents()
    touched = list(differences(folder))
    for name in touched:
        path = folder / name
        if name in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[name], encoding="utf-8")
        else:
            path.unlink()
    return touched


def contract_folder(start: Path) -> Path:
    """The repository's `contract` folder, `start` or its nearest parent that has one. Raises FileNotFoundError."""
    for folder in (start, *start.parents):
        if (folder / "contract").is_dir() and (folder / "pyproject.toml").exists():
            return folder / "contract"
    raise FileNotFoundError("no contract folder here or above: run this inside the repository or give --folder")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 with a diff on standard error when `--check` finds one."""
    parser = argparse.ArgumentParser(prog="python -m outrider.contract.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 when a committed file differs")
    parser.add_argument("--folder", type=Path, help="the contract folder (default: found from the current folder)")
    options = parser.parse_args(arguments)
    try:
        folder: Path = options.folder or contract_folder(Path.cwd())
    except FileNotFoundError as error:
        parser.error(str(error))
    if not options.check:
        for name in write(folder):
            print(f"written: {name}")
        return 0
    found = differences(folder)
    for diff in found.values():
        print(diff, file=sys.stderr)
    if found:
        print("contract/ differs from the code: run `python -m outrider.contract.generate`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
