"""What devices and people wrote is shown, never obeyed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.table import Table

from outrider_cli import erase, terminal

EVIL = "a\x1b]0;mine\x07\x1b[2Jb\x9b31mc\u202ed"


def test_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("value", title=EVIL)
    table.add_row(EVIL)
    for shown in (table, EVIL):
        terminal.console().print(shown)
        out = capsys.readouterr().out
        assert "a·]0;mine··[2Jb·31mc·d" in out
        assert not set(out) & set("\x1b\x07\x9b\u202e")


def test_lines_and_styles_stay(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.console().print("[bold]one[/]\n\ttwo é ⣿ 漢")
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == ["one", "two é ⣿ 漢"]


def test_a_name_in_an_erasures_report_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    made = {
        "kind": "person",
        "subject": "x[/][red]",
        "state": "waiting",
        "id": "1",
        "problem": "see [/]",
        "erased": {"[b]": {"[/]": 1}},
        "not_erased": [{"what": "[/]", "why": "[i]"}],
    }
    erase._print(cast(Any, SimpleNamespace(as_json=False)), made)
    out = capsys.readouterr().out
    assert "person x[/][red]: waiting" in out
    assert "see [/]" in out
    assert "[b]" in out
