"""Kinds of commands that every device is expected to know, with their parameters; any other name is custom."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from outrider_registry import merge


class Params(BaseModel):
    """Parameters of a command; unknown ones are mistakes."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Reboot(Params):
    """Start again."""

    delay_s: float | None = Field(None, ge=0, le=3600, description="Seconds to wait before.")


class GetLogs(Params):
    """Send the kept log lines on the log topic."""

    lines: int | None = Field(None, ge=1, le=10_000, description="At most so many, the newest.")
    level: Literal["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"] | None = Field(
        None, description="This severe or more."
    )


class SetInterval(Params):
    """Send telemetry at another interval until the desired state says otherwise."""

    interval_s: float = Field(ge=0.1, le=86_400, description="Seconds between two messages.")


class RunDiagnostics(Params):
    """Look at itself and answer what it found."""

    checks: (
        Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=63)]], Field(max_length=50)] | None
    ) = Field(None, description="Only these; without: all it has.")


KINDS: dict[str, type[Params]] = {
    "reboot": Reboot,
    "get-logs": GetLogs,
    "set-interval": SetInterval,
    "run-diagnostics": RunDiagnostics,
}
PARAMS_MAX_BYTES = 8 * 1024


def check(name: str, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a command as they are sent. Raises merge.NotAllowed saying what is allowed."""
    if (found := merge.size(params)) > PARAMS_MAX_BYTES:
        raise merge.NotAllowed(f"The parameters are {found} bytes; {PARAMS_MAX_BYTES} are allowed.")
    merge.check_json(params, "params", patch=True)
    kind = KINDS.get(name)
    if kind is None:
        return params
    try:
        return kind.model_validate(params).model_dump(exclude_unset=True, exclude_none=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise merge.NotAllowed(f"{name}: {where}: {first['msg']}. Allowed: {allowed(kind)}.") from None


def allowed(kind: type[Params]) -> str:
    """The parameters in words: `delay_s (0 … 3600)`."""
    words = []
    for name, schema in kind.model_json_schema()["properties"].items():
        options = schema.get("anyOf", [schema])
        low, high = (next((o[key] for o in options if key in o), None) for key in ("minimum", "maximum"))
        choices = next((o["enum"] for o in options if "enum" in o), None)
        bounds = f"{low:g} … {high:g}" if low is not None and high is not None else ", ".join(choices or [])
        words.append(f"{name} ({bounds})" if bounds else name)
    return "; ".join(words)
