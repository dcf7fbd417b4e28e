"""The whole benchmark: the chosen loads, the peers, the ceilings, growth; gathers what becomes build/bench.json."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from outrider.servers import Mosquitto, ServerError
from outrider_cli.platform import PlatformError
from outrider_cli.supervision import SupervisionError
from tests.bench import peers
from tests.bench.driver import LoadFailure
from tests.bench.loads import (
    CONNECTIONS_MAX,
    FULL_SECONDS,
    GROWTH_DEVICES,
    GROWTH_LOAD,
    GROWTH_REPLICAS,
    LOADS,
    PEER_LOADS,
    SHARED_CONNECTIONS,
    Load,
)
from tests.bench.machine import machine_facts
from tests.bench.run import Options, found_peers, measure, measure_peer, servers_only

PEER_S = 30.0
GROWTH_S = 30.0
COPY_ROWS = 10_000_000
BROKER_S = 10.0
FAILURES = (LoadFailure, PlatformError, SupervisionError, ServerError, OSError, TimeoutError)
"""What may keep a load from being measured; the others are measured all the same."""


@dataclass(frozen=True)
class Plan:
    """What is measured. `seconds` is None for each load's own."""

    command: str
    loads: Sequence[str]
    seconds: float | None = None
    half_seconds: float = 20.0
    with_peers: bool = True
    full: bool = False
    devices: int | None = None
    connections: int | None = None
    replicas: int = 1


@dataclass(frozen=True)
class Told:
    """What is called while it runs."""

    begin: Callable[[str], None]
    progress: Callable[[str, Mapping[str, Any]], None]
    result: Callable[[str, Mapping[str, Any]], None]
    save: Callable[[Mapping[str, Any]], None]


async def run(plan: Plan, told: Told) -> dict[str, Any]:
    """Measures everything of the plan; the report, which is also handed to `told.save` after each part."""
    began_s = time.monotonic()
    report: dict[str, Any] = {
        "command": plan.command,
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "duration_s": 0.0,
        "machine": machine_facts(Path(tempfile.gettempdir())),
        "versions": {},
        "persistence": "",
        "database": {},
        "connections": plan.connections,
        "loads": {},
        "peers": {},
        "ceilings": {},
        "growth": [],
        "missing": [],
    }

    def note(name: str, result: dict[str, Any]) -> dict[str, Any]:
        for fact in ("versions", "persistence", "database"):
            report[fact] = result.pop(fact, None) or report[fact]
        report["duration_s"] = round(time.monotonic() - began_s, 1)
        told.result(name, result)
        return result

    for letter in plan.loads:
        load = _chosen(LOADS[letter], plan)
        report["loads"][letter] = note(f"({letter})", await _tried(load, _options(plan, load), told))
        told.save(report)
    if plan.with_peers:
        await _peers(plan, report, told, note)
        await _ceilings(report, told)
        told.save(report)
    if plan.full:
        for load, replicas in growth(LOADS[GROWTH_LOAD]):
            options = replace(_options(plan, load), replicas=replicas, seconds=min(plan.seconds or GROWTH_S, GROWTH_S))
            result = note(f"({load.letter}) {load.devices:,} × {replicas}", await _tried(load, options, told))
            report["growth"].append(result)
            told.save(report)
    report["duration_s"] = round(time.monotonic() - began_s, 1)
    told.save(report)
    return report


def growth(load: Load) -> list[tuple[Load, int]]:
    """(load, replicas) of a full run: more devices at one replica, then more replicas."""
    by_devices = [
        (replace(load, devices=devices, connections=SHARED_CONNECTIONS if devices > CONNECTIONS_MAX else None), 1)
        for devices in GROWTH_DEVICES
    ]
    return by_devices + [(load, replicas) for replicas in GROWTH_REPLICAS if replicas > 1]


def _chosen(load: Load, plan: Plan) -> Load:
    return replace(load, devices=plan.devices or load.devices, connections=plan.connections or load.connections)


def _options(plan: Plan, load: Load) -> Options:
    own_s = FULL_SECONDS.get(load.letter, load.seconds) if plan.full else load.seconds
    return Options(plan.seconds or own_s, plan.half_seconds, replicas=plan.replicas)


async def _tried(load: Load, options: Options, told: Told) -> dict[str, Any]:
    told.begin(f"({load.letter}) {load.title}, {load.devices:,} devices, {options.replicas} replicas")
    try:
        return await measure(load, options, told.progress)
    except FAILURES as error:
        return _failed(load, options, error)


def _failed(load: Load, options: Options, error: BaseException) -> dict[str, Any]:
    shown = {"letter": load.letter, "title": load.title, "devices": load.devices}
    return {"load": shown, "replicas": options.replicas, "failure": f"{type(error).__name__}: {error}"}


async def _peers(
    plan: Plan, report: dict[str, Any], told: Told, note: Callable[[str, dict[str, Any]], dict[str, Any]]
) -> None:
    report["missing"] = peers.missing()
    async with servers_only() as platform:
        names = [peer.name for peer in found_peers(platform, LOADS["a"])]
    for index, name in enumerate(names):
        for letter in (letter for letter in plan.loads if letter in PEER_LOADS):
            load = _chosen(LOADS[letter], plan)
            options = _options(plan, load)
            options = replace(options, seconds=min(options.seconds, PEER_S))
            told.begin(f"{name} ({letter}) {load.title}")
            try:
                _, result = await measure_peer(index, load, options, told.progress)
            except FAILURES as error:
                result = _failed(load, options, error)
            report["peers"].setdefault(name, {})[letter] = note(f"{name} ({letter})", result)
            told.save(report)


async def _ceilings(report: dict[str, Any], told: Told) -> None:
    """What PostgreSQL and the broker do on this machine with nothing of ours in between."""
    async with servers_only() as platform:
        told.begin("bare COPY, PostgreSQL's ceiling")
        report["ceilings"]["copy"] = await peers.copy_ceiling(platform.state.database_url, COPY_ROWS)
    told.begin("mosquitto_sub, the broker's ceiling")
    with tempfile.TemporaryDirectory(prefix="outrider-bench-") as folder:
        broker = Mosquitto(Path(folder), test_account=True)
        await asyncio.to_thread(broker.start)
        try:
            report["ceilings"]["broker"] = await peers.broker_ceiling(broker, BROKER_S)
        except ServerError as error:
            report["missing"].append(str(error))
        finally:
            await asyncio.to_thread(broker.stop)
