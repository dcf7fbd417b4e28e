"""Writes `contract/gateway-openapi.json` from the code; `--check` only compares: `python -m outrider_gateway.openapi`."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from outrider.contract.generate import contract_folder
from outrider_gateway.api import application

NAME = "gateway-openapi.json"


def text() -> str:
    """The document as it is checked in."""
    return json.dumps(application().openapi(), indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Status 0, or 1 with a diff on standard error when `--check` finds one."""
    parser = argparse.ArgumentParser(prog="python -m outrider_gateway.openapi", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 when the committed file differs")
    parser.add_argument("--file", type=Path, help="the file (default: contract/gateway-openapi.json of this checkout)")
    options = parser.parse_args(arguments)
    try:
        path: Path = options.file or contract_folder(Path.cwd()) / NAME
    except FileNotFoundError as error:
        parser.error(str(error))
    wanted = text()
    found = path.read_text() if path.exists() else ""
    if not options.check:
        path.write_text(wanted)
        print(f"written: {path}")
        return 0
    if found == wanted:
        return 0
    diff = difflib.unified_diff(found.splitlines(True), wanted.splitlines(True), str(path), "the code")
    sys.stderr.writelines(list(diff)[:200])
    print(f"{path} differs from the code: run `python -m outrider_gateway.openapi`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
