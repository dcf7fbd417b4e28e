"""Runs rounds: scenario under load, everything settles, every sample is counted by value; one platform for all rounds."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psycopg

from outrider.testing.derived import rollup_differences
from outrider_cli import supervision
from outrider_cli.platform import Platform, PlatformError
from tests.chaos import ledger
from tests.chaos.book import Book
from tests.chaos.devices import TENANT, Load
from tests.chaos.fleet import Fleet, names
from tests.chaos.judge import Findings
from tests.chaos.stage import Stage
from tests.chaos.timeline import Scenario
from tests.chaos.watch import Watch
from tests.identities import register

SETTLE_S = 90.0
SERVED_S = 60.0


SPINE = {"trips": 0, "lifecycle": 0, "gateway": 0}


@dataclass
class Round:
    """What came of one scenario."""

    scenario: Scenario
    findings: Findings
    failure: str = ""
    """Why an action of it failed."""
    recovery_s: float = 0.0
    """From the end of the last step until every device had an ack for something made after it."""
    settle_s: float = 0.0
    max_unattended_s: float = 0.0
    sent_bytes: int = 0
    """Topics and payloads that sound devices sent, sendings again included."""
    acked_rows: int = 0
    """What they got acks for as stored."""

    @property
    def clean(self) -> bool:
        """True when the scenario could be played and every promise was kept."""
        return self.findings.clean and not self.failure


@dataclass
class Result:
    """What came of a run."""

    seed: int
    rounds: list[Round] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    minutes: int = 0
    """Minutes of series whose rollup was held against the ledger at the end."""
    """Over all messages of the run, at its end."""
    counts: Counter[str] = field(default_factory=Counter)
    worst: dict[str, float] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    first_bytes: dict[str, int] = field(default_factory=dict)
    last_bytes: dict[str, int] = field(default_factory=dict)
    leftovers: list[int] = field(default_factory=list)
    aborted: str = ""
    """Why the run ended before its last round."""
    versions: dict[str, str] = field(default_factory=dict)
    duration_s: float = 0.0

    @property
    def max_unattended_s(self) -> float:
        """The longest that any slot stood alone while broker and database were up."""
        return max((r.max_unattended_s for r in self.rounds), default=0.0)

    @property
    def clean(self) -> bool:
        """True when nothing was lost, doubled or left behind in any round, and all rounds were played."""
        return self.findings.clean and all(r.clean for r in self.rounds) and not self.leftovers and not self.aborted


@dataclass(frozen=True)
class Options:
    """How a run is made: `devices` with `load` each; `environment`: more variables for all services."""

    folder: Path
    seed: int
    devices: int = 32
    load: Load = field(default_factory=Load)
    environment: Mapping[str, str] = field(default_factory=dict)
    scale: Mapping[str, int] = field(default_factory=dict)
    """Processes by service; SPINE leaves out what makes something of the ledger."""
    settle_s: float = SETTLE_S


async def run(
    scenarios: Sequence[Scenario],
    options: Options,
    *,
    on_start: Callable[[int, Scenario], None] = lambda number, scenario: None,
    on_tick: Callable[[Book], None] = lambda book: None,
    on_round: Callable[[int, Round], None] = lambda number, round_: None,
) -> Result:
    """Plays the scenarios one after the other; `on_tick` is called about twice a second. Nothing is left running.

    A platform that does not come back after a round ends the run: `aborted` says so. Raises what keeps it from starting.
    """
    began_s = time.monotonic()
    result = Result(options.seed)
    platform = Platform(options.folder, scale=options.scale, environment=options.environment, test_account=True)
    try:
        await asyncio.to_thread(platform.start)
        await asyncio.to_thread(platform.wait_ready, 120)
        result.versions = dict(platform.state.versions)
        try:
            await _rounds(platform, scenarios, options, result, on_start, on_tick, on_round)
        except* (AssertionError, PlatformError, psycopg.Error) as errors:
            result.aborted = "; ".join(str(error) for error in errors.exceptions)
    finally:
        await asyncio.to_thread(platform.stop)
        result.leftovers = await asyncio.to_thread(supervision.processes_of, options.folder.absolute())
        result.duration_s = time.monotonic() - began_s
    return result


async def _rounds(
    platform: Platform,
    scenarios: Sequence[Scenario],
    options: Options,
    result: Result,
    on_start: Callable[[int, Scenario], None],
    on_tick: Callable[[Book], None],
    on_round: Callable[[int, Round], None],
) -> None:
    book = Book()
    state = platform.state
    secrets = await asyncio.to_thread(register, state.database_url, platform.keys, TENANT, names(options.devices))
    url = state.device_mqtt_url
    fleet = Fleet(book, secrets=secrets, load=options.load, seed=options.seed, device_url=url)
    stage = Stage(platform, fleet, Random(options.seed))
    watch = await asyncio.to_thread(Watch, platform, lambda: stage.away > 0)
    beside = [asyncio.create_task(watch.run(), name="watch"), asyncio.create_task(_ticks(on_tick, book), name="ticks")]
    try:
        await fleet.start()
        for number, scenario in enumerate(scenarios, 1):
            on_start(number, scenario)
            played = await _round(stage, watch, scenario, options)
            result.rounds.append(played)
            result.first_bytes = result.first_bytes or dict(watch.now_bytes)
            on_round(number, played)
        result.findings = await asyncio.to_thread(ledger.check, book, stage.admin_url)
        result.minutes = await asyncio.to_thread(_check_rollups, stage.admin_url, result.findings)
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await fleet.stop()
        await stage.close()
        result.counts, result.worst = stage.counts, stage.worst
        result.peak_bytes, result.last_bytes = watch.peak_bytes, watch.now_bytes


def _check_rollups(database_url: str, findings: Findings) -> int:
    """Minutes of the rollups that were compared with the ledger; what differs is a problem."""
    with psycopg.connect(database_url, connect_timeout=10) as connection:
        minutes, wrong = rollup_differences(connection)
    for text in wrong:
        findings.note("rolled up wrong", 1, text)
    return minutes


async def _round(stage: Stage, watch: Watch, scenario: Scenario, options: Options) -> Round:
    fleet, platform = stage.fleet, stage.platform
    first_number = fleet.book.next_number
    for service in ("ingest", "writer-timeseries", "writer-logs"):
        await stage.scale(service, scenario.scale.get(service, 1))
    await _ready(platform)
    stage.forget_short_lives()
    await asyncio.to_thread(watch.fresh)
    sent_before, acked_before = fleet.traffic()
    fleet.produce(True)
    failure = await _play(scenario, stage)
    ended_s = time.monotonic()
    while not fleet.served_since(ended_s) and time.monotonic() - ended_s < SERVED_S:
        await asyncio.sleep(0.1)
    recovery_s = time.monotonic() - ended_s
    fleet.produce(False)
    fleet.set_clocks()
    settle_s = await fleet.settle(options.settle_s)
    with_slots = watch.attendance.max_s
    findings = await asyncio.to_thread(ledger.check, fleet.book, stage.admin_url, since=first_number)
    sent, acked = fleet.traffic()
    return Round(
        scenario,
        findings,
        failure,
        round(recovery_s, 2),
        round(settle_s, 2),
        round(with_slots, 2),
        sent - sent_before,
        acked - acked_before,
    )


async def _play(scenario: Scenario, stage: Stage) -> str:
    """Starts each step at its time; returns when all have ended, with what failed."""
    began_s = time.monotonic()
    running: list[asyncio.Task[None]] = []
    for step in scenario.in_order():
        await asyncio.sleep(max(0.0, began_s + step.at_s - time.monotonic()))
        running.append(asyncio.create_task(_do(step.action.run, stage), name=step.action.text))
    await asyncio.wait(running)
    return "; ".join(f"{task.get_name()}: {task.exception()!r}" for task in running if task.exception())


async def _do(action: Callable[[Stage], object], stage: Stage) -> None:
    outcome = action(stage)
    assert asyncio.iscoroutine(outcome)
    await outcome


async def _ready(platform: Platform) -> None:
    try:
        await asyncio.to_thread(platform.wait_ready, 60)
    except PlatformError as error:
        raise AssertionError(f"the platform did not recover: {error}") from error


async def _ticks(on_tick: Callable[[Book], None], book: Book) -> None:
    while True:
        on_tick(book)
        await asyncio.sleep(0.5)
