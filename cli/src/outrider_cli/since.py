"""Reads times as people type them: `30s`, `10m`, `2h`, `7d` ago, or an ISO 8601 time."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import typer

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_since(text: str, now: datetime) -> datetime:
    """The moment `text` names, seen from `now` (with time zone; a time without one is local).

    Raises ValueError for anything else.
    """
    if match := re.fullmatch(r"(\d{1,9})([smhd])", text.strip()):
        return now - timedelta(**{_UNITS[match[2]]: int(match[1])})
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.astimezone()


def since_option(text: str | None) -> datetime | None:
    """`parse_since` for a command-line option; None stays None."""
    if text is None:
        return None
    try:
        return parse_since(text, datetime.now().astimezone())
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is neither like 30s, 10m, 2h, 7d nor a time like 2026-01-31T12:00"
        ) from None
