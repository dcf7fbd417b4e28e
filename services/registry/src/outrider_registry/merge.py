"""Desired and reported state as pure functions: merge patches, configurations by priority, reports in any order."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from outrider.contract.limits import JSON_MAX_DEPTH

Json: TypeAlias = Any
State: TypeAlias = dict[str, Any]
AppliesTo: TypeAlias = Literal["all", "type", "tier", "tag"]
SPECIFICITY: Mapping[str, int] = {"all": 0, "type": 1, "tier": 2, "tag": 3}

DESIRED_MAX_BYTES = 8 * 1024
"""Of the desired state as compact JSON (wire contract v1)."""
REPORTED_MAX_BYTES = 64 * 1024
STAMPS_MAX = 2_000
"""Values and traces of deleted ones kept of a device's reports; past it the traces go."""
OVERRIDES = "device"
"""The source of a key that this device alone has."""


class NotAllowed(ValueError):
    """A value is outside what its key allows, too large or too deep; the text names key, value and what is allowed."""


# ------------------------------------------------------------------------------------------------ merge patch
def merge_patch(target: Json, patch: Json) -> Json:
    """RFC 7396: the target with the patch applied. Neither is changed."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def delta(desired: State, reported: State) -> State:
    """What a device has not reported as desired yet: the desired values that differ, objects compared inside."""
    result: State = {}
    for key, value in desired.items():
        has = reported.get(key)
        if isinstance(value, dict) and isinstance(has, dict):
            if inner := delta(value, has):
                result[key] = inner
        elif not same(value, has):
            result[key] = value
    return result


def same(one: Json, other: Json) -> bool:
    """Equal as JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return (type(one) is type(other) or (_is_number(one) and _is_number(other))) and one == other


def size(state: State) -> int:
    """Bytes of it as compact JSON in UTF-8."""
    return len(json.dumps(state, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass"))


def check_desired(state: State, what: str) -> None:
    """Raises NotAllowed for a state of more than 8 KiB, nested too deep, or with a null or a number JSON has not."""
    if (found := size(state)) > DESIRED_MAX_BYTES:
        raise NotAllowed(f"{what} is {found} bytes; {DESIRED_MAX_BYTES} are allowed. Make it smaller.")
    check_json(state, what)


def check_json(value: Json, what: str, *, patch: bool = False, depth: int = 1) -> None:
    """Raises NotAllowed for JSON nested deeper than 8, for NaN, and, where it is no patch, for nulls in objects (a merge
    patch cannot set one)."""
    if isinstance(value, dict | list):
        if depth > JSON_MAX_DEPTH:
            raise NotAllowed(f"{what} is nested deeper than {JSON_MAX_DEPTH} levels.")
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(key, str):
                check_text(key, what)
                if inner is None and not patch:
                    raise NotAllowed(f"{what}: {key[:60]} is null; leave it out instead.")
            check_json(inner, what, patch=patch, depth=depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise NotAllowed(f"{what} has a number that JSON has not: {value}.")
    elif isinstance(value, str):
        check_text(value, what)


def check_text(text: str, what: str) -> None:
    """Raises NotAllowed for what PostgreSQL's jsonb cannot hold: NUL and lone surrogates."""
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise NotAllowed(f"{what} has a character that cannot be stored (NUL or half a surrogate pair).")


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# ------------------------------------------------------------------------------------------------ typed keys
@dataclass(frozen=True)
class Key:
    """What a configuration key may hold."""

    key: str
    type: Literal["integer", "number", "boolean", "string", "json"]
    minimum: float | None = None
    """Least value, or least number of characters of a string."""
    maximum: float | None = None
    choices: Sequence[Json] | None = None
    unit: str = ""

    def check(self, value: Json) -> None:
        """Raises NotAllowed with key, value and what is allowed."""
        if not self._has_type(value):
            raise NotAllowed(f"{self.key} = {_shown(value)} is no {self.type}; allowed: {self.allowed()}.")
        if self.choices is not None and not any(same(value, choice) for choice in self.choices):
            raise NotAllowed(f"{self.key} = {_shown(value)} is none of its choices; allowed: {self.allowed()}.")
        measure = len(value) if isinstance(value, str) else value if _is_number(value) else None
        if measure is not None and (
            (self.minimum is not None and measure < self.minimum)
            or (self.maximum is not None and measure > self.maximum)
        ):
            raise NotAllowed(f"{self.key} = {_shown(value)} is out of range; allowed: {self.allowed()}.")

    def allowed(self) -> str:
        """For people: `integer 1 … 3600 s`."""
        words: list[str] = [self.type]
        if self.choices is not None:
            words.append("one of " + ", ".join(_shown(choice) for choice in self.choices))
        low, high = (None if bound is None else f"{bound:g}" for bound in (self.minimum, self.maximum))
        if low and high:
            words.append(f"{low} … {high}")
        elif low or high:
            words.append(f"at least {low}" if low else f"at most {high}")
        if self.type == "string" and (low or high):
            words.append("characters")
        return " ".join([*words, self.unit]).strip()

    def _has_type(self, value: Json) -> bool:
        match self.type:
            case "integer":
                return _is_number(value) and (isinstance(value, int) or value.is_integer())
            case "number":
                return _is_number(value)
            case "boolean":
                return isinstance(value, bool)
            case "string":
                return isinstance(value, str)
            case _:
                return True


def check_keys(state: State, keys: Mapping[str, Key]) -> None:
    """Raises NotAllowed for a value that its key does not allow; untyped keys may hold anything. Nulls delete: allowed."""
    for name, value in state.items():
        key = keys.get(name)
        if key is not None and value is not None:
            key.check(value)


def _shown(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


# ------------------------------------------------------------------------------------------------ configurations
@dataclass(frozen=True)
class Configuration:
    """A part of the desired state of the devices it applies to."""

    name: str
    applies_to: AppliesTo
    selector: str
    priority: int
    state: State = field(hash=False)

    @property
    def order(self) -> tuple[int, int, str]:
        """Later ones win: by priority, then how specific it is, then by name."""
        return self.priority, SPECIFICITY[self.applies_to], self.name

    def applies(self, type_: str, tier: str, tags: Iterable[str]) -> bool:
        """True for a device of this type, tier and tags."""
        match self.applies_to:
            case "all":
                return True
            case "type":
                return self.selector == type_
            case "tier":
                return self.selector == tier
            case _:
                return self.selector in tags


def merged(configurations: Iterable[Configuration], overrides: State) -> tuple[State, dict[str, str]]:
    """The desired state, and where each of its top-level keys comes from (a configuration's name, or `device`).

    Configurations in any order; their values are merged by top-level key, objects as a whole patch inside.
    """
    state: State = {}
    sources: dict[str, str] = {}
    for configuration in sorted(configurations, key=lambda c: c.order):
        state = merge_patch(state, configuration.state)
        sources |= dict.fromkeys(configuration.state, configuration.name)
    state = merge_patch(state, overrides)
    sources |= dict.fromkeys(overrides, OVERRIDES)
    return state, {key: where for key, where in sources.items() if key in state}


class Merger:
    """Desired states of many devices: devices that the same configurations apply to are merged once."""

    def __init__(self, configurations: Iterable[Configuration]) -> None:
        self._configurations = list(configurations)
        self._tags = frozenset(c.selector for c in self._configurations if c.applies_to == "tag")
        self._bases: dict[tuple[str, str, frozenset[str]], State] = {}

    def desired(self, type_: str, tier: str, tags: Iterable[str], overrides: State) -> State:
        """The desired state of a device."""
        key = (type_, tier, self._tags.intersection(tags))
        base = self._bases.get(key)
        if base is None:
            base = self._bases[key] = merged(self.applying(type_, tier, key[2]), {})[0]
        return merge_patch(base, overrides) if overrides else base

    def applying(self, type_: str, tier: str, tags: Iterable[str]) -> list[Configuration]:
        """The configurations of such a device."""
        tags = frozenset(tags)
        return [c for c in self._configurations if c.applies(type_, tier, tags)]


# ------------------------------------------------------------------------------------------------ reports in any order
# A stamp says with which version a part of the reported state came:
#   f  version of the last value or deletion here; whatever is older, here or below, counts no more
#   x  that value; absent where it was deleted or an object came later
#   o  version of the last patch that had an object here; present: this is an object
#   c  its members' stamps
# The order of two reports of different versions makes no difference; of one version, the one that came later wins.
Stamp: TypeAlias = dict[str, Any]


def report(stamps: Stamp, version: int, patch: State) -> Stamp:
    """The stamps with a report of this version (an RFC 7396 patch) taken in. The given ones are not changed."""
    stamps = _copy(stamps)
    _take(stamps, version, patch)
    if _count(stamps) > STAMPS_MAX:
        # Without the traces an older report could bring back what was deleted: so older ones count no more at all.
        stamps["f"] = max(stamps.get("f", 0), _newest(stamps))
        _forget(stamps)
    return stamps


def state_of(stamps: Stamp) -> State:
    """The reported state."""
    return {key: _value(stamp) for key, stamp in stamps.get("c", {}).items() if "o" in stamp or "x" in stamp}


def _value(stamp: Stamp) -> Json:
    return state_of(stamp) if "o" in stamp else stamp["x"]


def _take(stamp: Stamp, version: int, patch: Json) -> None:
    if version < stamp.get("f", -1):
        return
    if isinstance(patch, dict):
        stamp["o"] = max(version, stamp.get("o", -1))
        stamp.pop("x", None)
        members = stamp.setdefault("c", {})
        for key, value in patch.items():
            _take(members.setdefault(key, {}), version, value)
        return
    stamp["f"] = version
    _drop(stamp, version)
    if "o" not in stamp and patch is not None:
        stamp["x"] = patch


def _drop(stamp: Stamp, version: int) -> bool:
    """Take away what came with this version or before; True if nothing is left."""
    if stamp.get("o", -1) <= version:
        stamp.pop("o", None)
    if stamp.get("f", -1) <= version:
        stamp.pop("x", None)
    members = stamp.get("c", {})
    for key in [key for key, member in members.items() if _drop(member, version)]:
        del members[key]
    if not members:
        stamp.pop("c", None)
    return "o" not in stamp and "c" not in stamp and stamp.get("f", -1) <= version


def _copy(stamp: Stamp) -> Stamp:
    copied = dict(stamp)
    if "c" in copied:
        copied["c"] = {key: _copy(member) for key, member in copied["c"].items()}
    return copied


def _count(stamp: Stamp) -> int:
    return 1 + sum(map(_count, stamp.get("c", {}).values()))


def _newest(stamp: Stamp) -> int:
    return max([int(stamp.get("f", 0)), int(stamp.get("o", 0)), *map(_newest, stamp.get("c", {}).values())])


def _forget(stamp: Stamp) -> None:
    members = stamp.get("c", {})
    for key, member in list(members.items()):
        if "o" in member or "x" in member:
            _forget(member)
        else:
            del members[key]
