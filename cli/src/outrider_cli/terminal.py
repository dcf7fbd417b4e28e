"""The one console that commands print to."""

from __future__ import annotations

import re
from typing import Any

from rich.console import Console
from rich.text import Text

PIPE_WIDTH = 200
"""Columns where the output is no terminal: wide enough that tables keep one row a line for grep."""
_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What a terminal does not show but obeys, and what turns the direction of a text."""


def harmless(text: str) -> str:
    """A text as it may be shown: what devices and people wrote does not command the terminal."""
    return _COMMANDS.sub("·", text)


class _Console(Console):
    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(harmless(text), **options)


def console() -> Console:
    """Standard output, as wide as the terminal. It shows control characters as dots."""
    found = _Console(highlight=False)
    return found if found.is_terminal else _Console(highlight=False, width=PIPE_WIDTH)
