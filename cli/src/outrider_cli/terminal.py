"""The one console that commands print to."""

from __future__ import annotations

from rich.console import Console

PIPE_WIDTH = 200
"""Columns where the output is no terminal: wide enough that tables keep one row a line for grep."""


def console() -> Console:
    """Standard output, as wide as the terminal."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=PIPE_WIDTH)
