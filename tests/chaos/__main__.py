"""`python -m tests.chaos`: play a seeded schedule of scenarios, write build/chaos.json, print a table."""

from __future__ import annotations

import json
import resource
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Annotated

import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.chaos import report
from tests.chaos.book import Book
from tests.chaos.devices import Load
from tests.chaos.run import Options, Round, run
from tests.chaos.scenarios import DRAWS, LONG, USUAL, long_faults
from tests.chaos.timeline import Draw, Scenario, schedule

ROOT = Path(__file__).resolve().parents[2]
SHOWN_EXAMPLES = 8
REPORT = ROOT / "build" / "chaos.json"
REPORT_OF_SOME = REPORT.with_name("chaos-only.json")
"""A run of chosen scenarios leaves the report alone that the page in docs/ is made from."""
ALL = "all"
NAMES_TRIED = 50


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Scenarios to play, drawn from the seed.")] = 10,
    seed: Annotated[int, typer.Option(help="The same seed gives the same schedule; 0: a random one.")] = 0,
    only: Annotated[str, typer.Option(help="Play only scenarios whose name contains this.")] = "",
    devices: Annotated[int, typer.Option(min=10, help="Devices in the fleet.")] = 40,
    rate: Annotated[float, typer.Option(min=0.1, help="Messages a second of each device.")] = 5,
    samples: Annotated[int, typer.Option(min=1, max=100, help="Samples in each message.")] = 10,
    list_only: Annotated[bool, typer.Option("--list", help="Print the schedule and stop.")] = False,
    write_docs: Annotated[
        bool, typer.Option("--write-docs", help="Only make docs/chaos.md from the last report.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the data folder when something was wrong.")] = False,
    long: Annotated[
        bool, typer.Option("--long", help="Database outage and link flaps of 10 minutes instead of one.")
    ] = False,
) -> None:
    """Break the platform on purpose and count every sample afterwards. Exit code 0 only if every promise was kept."""
    if write_docs:
        print(report.write_page(json.loads(REPORT.read_text()), ROOT / "docs"))
        return
    seed = seed or secrets.randbelow(1_000_000) + 1
    draws = chosen(DRAWS, only)
    once = chosen(long_faults(LONG if long else USUAL), only)
    if not draws and not once:
        raise typer.BadParameter(f"no scenario has {only!r} in its name")
    if not draws:
        rounds = len(once)
    elif rounds < len(DRAWS) + len(once) and not long:
        once = []  # a short run plays no long fault
    scenarios = schedule(draws, seed=seed, rounds=max(rounds, len(once)), once=once)
    if list_only:
        print("\n".join(map(str, scenarios)))
        return
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files[1], files[1]))  # for the crowd, and the broker inherits it
    # a short path outside the checkout, which the account of root's PostgreSQL may enter
    folder = Path(tempfile.mkdtemp(prefix="outrider-chaos-"))
    folder.chmod(0o711)
    missed = ["the run did not come to its end"]
    try:
        written = _play(scenarios, Options(folder / "data", seed, devices, Load(rate, samples)), only or ALL)
        missed = report.missed(written)
    finally:
        if keep and missed:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if missed:
        print("\nMissed:", *missed, sep="\n  ")
    sys.exit(1 if missed else 0)


def chosen(draws: Sequence[Draw], only: str) -> list[Draw]:
    """The draws that can give a scenario with `only` in its name, made to give no other."""

    def limited(draw: Draw) -> Draw:
        def of_that_name(random: Random) -> Scenario:
            while only not in (scenario := draw(random)).name:
                pass
            return scenario

        return of_that_name

    return [limited(draw) for draw in draws if any(only in draw(Random(seed)).name for seed in range(NAMES_TRIED))]


def _play(scenarios: list[Scenario], options: Options, scenario_set: str) -> dict[str, object]:
    console = Console()
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    console.print(f"seed {options.seed}: {len(scenarios)} rounds, {options.devices} devices")
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting", total=len(scenarios))
        current, began_s = "", time.monotonic()

        def on_start(number: int, scenario: Scenario) -> None:
            nonlocal current, began_s
            current, began_s = scenario.name, time.monotonic()

        def on_tick(book: Book) -> None:
            newest = book.entries[-2000:]
            waiting = len(book.unacked(newest))
            progress.update(task, description=f"{current}: {len(book.entries):,} messages, {waiting:,} waiting")

        def on_round(number: int, played: Round) -> None:
            progress.advance(task)
            progress.console.print(line(number, played, time.monotonic() - began_s))

        result = uvloop.run(run(scenarios, options, on_start=on_start, on_tick=on_tick, on_round=on_round))
    written = report.as_dict(result, scenario_set, options.devices)
    path = REPORT if scenario_set == ALL else REPORT_OF_SOME
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(written, indent=2) + "\n")
    console.print(report.table(written))
    for text in written["examples"][:SHOWN_EXAMPLES]:
        console.print(text, style="red", highlight=False, markup=False, soft_wrap=True)
    return written


def line(number: int, played: Round, took_s: float) -> str:
    """One round in a line."""
    found = played.findings
    verdict = "[green]clean[/]" if played.clean else f"[bold red]{dict(found.problems)} {played.failure}[/]"
    return (
        f"{number:4} {played.scenario.name:<32} {verdict}  {found.acked:,} acked, {found.rejected:,} refused, "
        f"recovery {played.recovery_s:.1f} s, settled {played.settle_s:.1f} s, alone {played.max_unattended_s:.1f} s, "
        f"{took_s:.0f} s"
    )


if __name__ == "__main__":
    typer.run(main)
