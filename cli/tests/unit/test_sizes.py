"""Sizes in words, and bars."""

from __future__ import annotations

import pytest

from outrider_cli.sizes import bar, size


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1_500_000, "1.4 MiB"),
        (-2048, "-2.0 KiB"),
        (2**60, "1024.0 PiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text
    assert size(None) == ""


@pytest.mark.parametrize(
    ("value", "text"), [(0, ""), (1, "▏"), (500, "██"), (625, "██▌"), (1000, "████"), (2000, "████")]
)
def test_bars_are_as_long_as_their_part_of_the_largest(value: float, text: str) -> None:
    assert bar(value, 1000, 4) == text
