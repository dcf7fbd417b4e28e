"""`python -m tests.bench`: measure the loads, write build/bench.json, print tables."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tests.bench import report
from tests.bench.loads import LOADS
from tests.bench.suite import Plan, Told, run

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "build" / "bench.json"


def main(
    loads: Annotated[str, typer.Option(help="Letters of the loads to run, with commas.")] = ",".join(LOADS),
    seconds: Annotated[float | None, typer.Option(min=1, help="Measured seconds of every load.")] = None,
    half_seconds: Annotated[float, typer.Option(min=0, help="Measured seconds at half load; 0: no half load.")] = 20,
    devices: Annotated[int | None, typer.Option(min=1, help="Devices, instead of each load's own number.")] = None,
    connections: Annotated[
        int | None, typer.Option(min=1, help="Connections that carry them; at most devices.")
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, help="Processes of ingest and of writer-timeseries.")] = 1,
    peers: Annotated[bool, typer.Option(help="Measure the peers found on this machine, and the ceilings.")] = True,
    full: Annotated[
        bool, typer.Option("--full", help="Also growth with devices and replicas; (d) for 10 minutes.")
    ] = False,
    output: Annotated[Path, typer.Option(help="The report, as JSON.")] = REPORT,
    write_docs: Annotated[
        bool, typer.Option("--write-docs", "--docs", help="Only make docs/bench.md of the last report.")
    ] = False,
) -> None:
    """Measure the whole system on this machine. Exit code 0 only if everything was measured and nothing was lost."""
    if write_docs:
        print(report.write_page(json.loads(output.read_text()), ROOT / "docs"))
        return
    letters = [letter.strip() for letter in loads.split(",")]
    if unknown := [letter for letter in letters if letter not in LOADS]:
        raise typer.BadParameter(f"there is no load {', '.join(unknown)}; there are {', '.join(LOADS)}")
    short_s = half_seconds if seconds is None else min(half_seconds, seconds)
    plan = Plan(_command(), letters, seconds, short_s, peers, full, devices, connections, replicas)
    written = _measured(plan, output)
    sys.exit(0 if report.is_complete(written) else 1)


def _measured(plan: Plan, output: Path) -> dict[str, Any]:
    console = Console()
    columns = (SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting")
        name = ""

        def begin(text: str) -> None:
            nonlocal name
            name = text
            progress.reset(task, description=text)

        def tell(phase: str, figures: Mapping[str, Any]) -> None:
            counts = f"{figures['acked']:,} messages stored, {figures['in_flight']:,} under way"
            progress.update(task, description=f"{name}: {phase}, {counts}")

        def result(text: str, figures: Mapping[str, Any]) -> None:
            progress.console.print(line(text, figures), highlight=False, markup=False, soft_wrap=True)

        def save(written: Mapping[str, Any]) -> None:
            output.parent.mkdir(exist_ok=True)
            output.write_text(json.dumps(written, indent=2) + "\n")

        try:
            written = uvloop.run(_until_told_to_end(plan, Told(begin, tell, result, save)))
        except asyncio.CancelledError:
            sys.exit(128 + signal.SIGTERM)
    wide = console if console.is_terminal else Console(width=200)
    for sheet in report.sheets(written):
        wide.print(sheet.rich())
    for why in written["missing"]:
        console.print(f"not measured: {why}", markup=False, soft_wrap=True)
    return written


async def _until_told_to_end(plan: Plan, told: Told) -> dict[str, Any]:
    """A SIGTERM ends everything in order, as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run(plan, told)


def line(name: str, result: Mapping[str, Any]) -> str:
    """One result in a line."""
    if result.get("failure"):
        return f"{name}: {result['failure']}"
    full, half = result["full"], result.get("half")
    latency = (
        "" if half is None else f", at half load p50 {half['latency']['p50_ms']} p99 {half['latency']['p99_ms']} ms"
    )
    return (
        f"{name}: {full['messages_per_s']:,.0f} messages/s, {full['samples_per_s']:,.0f} samples/s{latency}, "
        f"lost {result['lost']:,}, duplicated {result['duplicated']:,}"
    )


def _command() -> str:
    """How the same is run again."""
    options = [option for option in sys.argv[1:] if option != "--full"]
    full = " FULL=1" if "--full" in sys.argv else ""
    return f"make bench{full}" + (f' OPTIONS="{shlex.join(options)}"' if options else "")


if __name__ == "__main__":
    typer.run(main)
