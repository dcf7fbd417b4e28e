"""Values that many requests and answers are made of: names, tags, texts, times."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, PlainSerializer, StringConstraints

NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"
LABEL_PATTERN = r"^[a-z0-9][a-z0-9_.:-]{0,62}$"
_NO_CONTROL = r"^[^\x00-\x1f\x7f]*$"


def iso(moment: datetime) -> str:
    """A time as the API writes it: ISO 8601, UTC, milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def aware(moment: datetime) -> datetime:
    """The time in UTC, which is also what one without a zone is in. Raises ValueError past the years 1 to 9999."""
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError("past the years 1 to 9999") from None


Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""A device's or tenant's name, as in topics."""
Metric = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
Label = Annotated[str, StringConstraints(pattern=LABEL_PATTERN)]
"""A tag, type or tier."""
OptionalLabel = Annotated[str, StringConstraints(pattern=r"^([a-z0-9][a-z0-9_.:-]{0,62})?$")]
Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200, pattern=_NO_CONTROL)]
"""One line of text, without control characters."""
Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=128, pattern=_NO_CONTROL)]
Time = Annotated[datetime, PlainSerializer(iso, return_type=str, when_used="json")]
"""A time in an answer."""
AskedTime = Annotated[datetime, AfterValidator(aware)]
"""A time in a question: ISO 8601 (UTC where it says no zone) or epoch seconds or milliseconds."""


class Body(BaseModel):
    """What is sent to us: unknown members are mistakes, and are said to be."""

    model_config = ConfigDict(extra="forbid")


class Items(BaseModel):
    """A part of a list."""

    next: str | None = None
    """Cursor of the next part; null at the end."""
    total: int | None = None
    """How many there are in all parts; with the first part only."""


def like(text: str) -> str:
    """A pattern for ILIKE that finds this text anywhere."""
    return "%" + text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"


def changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """For the audit: what an edit changed, as `{field: [before, after]}`."""
    return {name: [before[name], value] for name, value in after.items() if before[name] != value}


def is_bigint(key: Any) -> bool:
    """True for a part of a cursor that PostgreSQL takes as bigint."""
    return type(key) is int and -(2**63) <= key < 2**63


def is_text(key: Any) -> bool:
    """True for a part of a cursor that PostgreSQL takes as text."""
    return type(key) is str and not any(char == "\0" or "\ud800" <= char <= "\udfff" for char in key)
