"""The page about trips names the rules as they are."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

from outrider.trips import Rules

PAGE = Path(__file__).resolve().parents[3] / "docs/howto/trips.md"
ROW = re.compile(r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]+) \|", re.MULTILINE)


def test_defaults_in_the_documentation_are_those_of_the_code() -> None:
    found = {
        name.strip("`"): float(value.split()[0])
        for names, values in ROW.findall(PAGE.read_text())
        for name, value in zip(names.split(", "), values.strip().split(", "), strict=True)
        if name != "`rev`"
    }
    assert len(found) > 5
    assert found == {name: value for name, value in asdict(Rules()).items() if name in found}
