"""Without a master key the registry does not start, says why, and no supervisor tries again and again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from outrider.runtime.settings import BAD_SETTINGS_EXIT_CODE


@pytest.mark.parametrize(("key", "said"), [("", "must be set"), ("k1:short", "line 1")])
def test_a_missing_or_bad_master_key_ends_the_start(key: str, said: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OUTRIDER_")}
    if key:
        environment["OUTRIDER_MASTER_KEY"] = key
    # Nobody listens there: the key is looked at before anything else is needed.
    environment["OUTRIDER_DATABASE_URL"] = "postgresql://127.0.0.1:1/none"
    ended = subprocess.run(
        [sys.executable, "-m", "outrider_registry"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == BAD_SETTINGS_EXIT_CODE, ended.stdout + ended.stderr
    assert said in ended.stdout
    assert "outrider key new" in ended.stdout
    assert "short" not in ended.stdout.replace("too short", "")
