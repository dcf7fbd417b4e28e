"""Watches the broker's file of accounts, where the registry can see it: what is lost while the broker runs is written again.

The broker works from memory and would notice nothing until its next start, when it would find nobody.
"""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

from outrider.access import accounts
from outrider.access.dynsec import Dynsec
from outrider.runtime.errors import Transient
from outrider_registry.broker import metrics
from outrider_registry.context import Registry
from outrider_registry.leader import Changes

log = logging.getLogger(__name__)

CHECK_S = 5.0
CERTAIN_S = 1.0
"""The broker may be writing just now: what is wrong must still be so after this long."""


def problem(path: Path) -> str | None:
    """What is wrong with the file; None for a whole one."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return error.strerror or str(error)
    if not content.strip():
        return "empty"
    try:
        json.loads(content)
    except ValueError:
        return "cut off or damaged"
    return None


async def watch(registry: Registry, path: Path, changes: Changes) -> None:
    """Look at the file for ever, parsing it only when it changed. Raises Transient where the broker cannot mend it."""
    good: tuple[int, ...] | None = None
    while True:
        seen = _identity(path)
        if seen is None or seen != good:
            wrong = await asyncio.to_thread(problem, path)
            if wrong is not None:
                await asyncio.sleep(CERTAIN_S)
                wrong = await asyncio.to_thread(problem, path)
            if wrong is not None:
                await _repair(registry, path, wrong)
            good = seen if wrong is None else None
        await changes.take(CHECK_S, settle_s=0)


async def _repair(registry: Registry, path: Path, wrong: str) -> None:
    log.error("broker_file_lost", extra={"file": str(path), "reason": wrong})
    dynsec = await Dynsec.open(registry.settings.broker_url)
    try:
        refused = await dynsec.apply([accounts.deny_by_default()])
    finally:
        await dynsec.close()
    await asyncio.sleep(CERTAIN_S)
    still = await asyncio.to_thread(problem, path)
    if refused or still is not None:
        raise Transient(
            f"the broker's accounts in {path} are {still or refused[0]}, and the broker did not write them again: "
            "is the disk full, or the folder not writable for it?"
        )
    metrics.FILE_REPAIRS.inc()
    log.warning("broker_file_repaired", extra={"file": str(path)})


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
