"""The device's side of the control plane: commands at most once, desired state by version, secrets that are renewed.

Pure: no clock, no I/O. The caller publishes what it is given and keeps `kept()` where it outlives a power cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import orjson

from outrider.contract.limits import NUMBER_MAX

Status: TypeAlias = Literal["accepted", "running", "succeeded", "failed", "rejected", "expired"]
FINAL: frozenset[str] = frozenset({"succeeded", "failed", "rejected", "expired"})
REMEMBERED_COMMANDS = 256
"""Ids a device knows again. The registry has at most a handful under way for one device."""
ID_MAX_CHARS = 64


@dataclass(frozen=True, slots=True)
class Order:
    """A command to carry out now, for the first and only time."""

    id: str
    name: str
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What to publish on the response topic of the command `name`, with QoS 1."""

    name: str
    payload: bytes


@dataclass(slots=True)
class _Known:
    name: str
    status: Status
    result: Any = None


class Commands:
    """Commands by id, so that each is carried out at most once, whatever comes twice and whenever the power goes."""

    def __init__(self, kept: Iterable[Mapping[str, Any]] = ()) -> None:
        """`kept` is what `kept()` gave before the restart."""
        self._known = {entry["id"]: _Known(entry["name"], entry["status"], entry.get("result")) for entry in kept}

    def receive(self, name: str, payload: bytes, now_ms: int | None) -> Order | Answer | None:
        """What a message on `command/{name}` asks for: an order, or only an answer (a repeat, or too late).

        None for what is no command. `now_ms` None: this device has no clock, so nothing is too late. Before an order is
        carried out, say `answer(id, "accepted")` and put `kept()` on disk.
        """
        try:
            document = orjson.loads(payload)
            command_id, params, expires_ms = document["id"], document.get("params") or {}, document.get("expires_ms")
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        if not isinstance(command_id, str) or not 1 <= len(command_id) <= ID_MAX_CHARS or not isinstance(params, dict):
            return None
        known = self._known.get(command_id)
        if known is not None:
            return _answer(command_id, known)
        if now_ms is not None and isinstance(expires_ms, int) and expires_ms <= now_ms:
            return self._remember(command_id, _Known(name, "expired"))
        return Order(command_id, name, params)

    def answer(self, order: Order, status: Status, result: Any = None) -> Answer:
        """Remember how far an order got, and say so."""
        self._known.pop(order.id, None)
        return self._remember(order.id, _Known(order.name, status, result))

    def interrupted(self) -> list[Answer]:
        """After a restart: commands that were begun and not ended. They failed, and are not begun again."""
        answers = []
        for command_id, known in self._known.items():
            if known.status not in FINAL:
                known.status, known.result = "failed", {"reason": "the device restarted meanwhile"}
                answers.append(_answer(command_id, known))
        return answers

    def kept(self) -> list[dict[str, Any]]:
        """What must survive a restart, as JSON can hold it."""
        return [
            {"id": command_id, "name": known.name, "status": known.status, "result": known.result}
            for command_id, known in self._known.items()
        ]

    def _remember(self, command_id: str, known: _Known) -> Answer:
        self._known[command_id] = known
        while len(self._known) > REMEMBERED_COMMANDS:
            del self._known[next(iter(self._known))]
        return _answer(command_id, known)


def _answer(command_id: str, known: _Known) -> Answer:
    document = {"id": command_id, "status": known.status}
    return Answer(known.name, orjson.dumps(document if known.result is None else document | {"result": known.result}))


class Shadow:
    """Desired state by version, and reported state as the changes since the last report that arrived."""

    def __init__(self, version: int = 0, reported: Mapping[str, Any] | None = None) -> None:
        self.version = version
        """Of the desired state that was taken last."""
        self.reported: dict[str, Any] = dict(reported or {})
        """What the registry is known to have."""

    def desired(self, payload: bytes) -> dict[str, Any] | None:
        """The whole state to have from now on; None for what is older than what was taken, the same, or no such message."""
        try:
            document = orjson.loads(payload)
            version, state = document["version"], document["state"]
        except (ValueError, TypeError, KeyError):
            return None
        if type(version) is not int or not self.version < version <= NUMBER_MAX or not isinstance(state, dict):
            return None
        self.version = version
        return state

    def report(self, state: Mapping[str, Any]) -> bytes:
        """The payload that tells the registry of this state; after its PUBACK call `was_reported` with the same one."""
        return orjson.dumps({"version": self.version, "state": difference(self.reported, state)})

    def was_reported(self, state: Mapping[str, Any]) -> None:
        """The registry has it."""
        self.reported = dict(state)


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch (RFC 7396) from one object to the other. A patch cannot set null, so `after` holds none."""
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            if inner := difference(old, value):
                patch[key] = inner
        elif key not in before or value != old or type(value) is not type(old):
            patch[key] = value
    return patch


class Secrets:
    """A device's secrets by generation. It connects with the newest, else with an older one, until the newest was taken."""

    def __init__(self, secrets: Mapping[int, str]) -> None:
        """At least one. Raises ValueError for none."""
        if not secrets:
            raise ValueError("a device without a secret cannot connect")
        self._secrets = dict(secrets)

    def offered(self, payload: bytes) -> bytes | None:
        """Takes the secret in a message on `credential`; the confirmation to publish once it is on disk.

        None for what is no newer secret. A repeat of the newest is confirmed again.
        """
        try:
            document = orjson.loads(payload)
            generation, secret = document["generation"], document["secret"]
        except (ValueError, TypeError, KeyError):
            return None
        if type(generation) is not int or not isinstance(secret, str) or not secret:
            return None
        if generation < max(self._secrets, default=1):
            return None
        self._secrets[generation] = secret
        digest = hashlib.sha256(secret.encode()).hexdigest()[:16]
        return orjson.dumps({"generation": generation, "digest": digest})

    def to_try(self, attempt: int) -> tuple[int, str]:
        """Generation and secret for the attempt-th connection in a row (from 0): the newest, then the older ones in turn."""
        generations = sorted(self._secrets, reverse=True)
        generation = generations[attempt % len(generations)]
        return generation, self._secrets[generation]

    def took(self, generation: int) -> None:
        """The broker let this device in with that generation: older ones are done with."""
        self._secrets = {known: secret for known, secret in self._secrets.items() if known >= generation}

    def kept(self) -> dict[int, str]:
        """What must survive a restart."""
        return dict(self._secrets)
