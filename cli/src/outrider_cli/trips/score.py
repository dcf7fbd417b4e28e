"""`outrider trips score`: how well the rules find the drives of a recording whose truth is known."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.table import Table
from typer.core import TyperCommand

from outrider.trips import Rules, Sample, Trip, segment
from outrider.trips import score as scoring
from outrider_cli import terminal
from outrider_cli.trips import recording

GRID_GAP_S = (45.0, 60.0, 80.0, 100.0, 120.0, 140.0, 180.0, 300.0, 600.0)
DELAY_S = "600"
GRID_STILL_S = (300.0, 600.0, 900.0, 1200.0, 1800.0)

HELP = """Score the trip rules on a recording of real drives.

FILE is a CSV file (or .csv.gz) with a header and one row a report: `drive` (the truth, hidden from the rules; empty or 0 \
on rows recorded while parked), `ts` (epoch seconds or milliseconds), and of lat, lon, speed_kmh, rpm, ignition, gear, \
odometer_km, accuracy_m, hdop, soc_pct, fuel_pct what there is. `drive_km`, the distance since the drive began, is the \
truth of distances.

The rows are made worse as the options say and given to the rules as a device would send them. The trips that come out \
are paired with the drives: at 0.8 a pair counts when 80 % of the time that either covers is covered by both.

Examples:

  outrider trips score drives.csv

  outrider trips score drives.csv --strip-rpm --drop 30      speed and places only

  outrider trips score drives.csv --shuffle --batches 10     late, out of order

  outrider trips score drives.csv --every 30 --parked-noise 20

  outrider trips score drives.csv --gap 300 --rule start_kmh=8

  outrider trips score drives.csv --grid                     over many thresholds

  outrider trips score drives.csv --json
"""


class Command(TyperCommand):
    """The command, with `--delay` alone as ten minutes."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for at, argument in enumerate(args):
            if argument == "--delay" and not (at + 1 < len(args) and args[at + 1].replace(".", "", 1).isdigit()):
                args = [*args[: at + 1], DELAY_S, *args[at + 1 :]]
                break
        return super().parse_args(ctx, args)


def score_(
    file: Annotated[Path, typer.Argument(help="Recorded drives, .csv or .csv.gz.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    gap: Annotated[
        float | None, typer.Option(help="Seconds of silence that end a trip (rule silence_resume_s).", min=1)
    ] = None,
    still: Annotated[
        float | None, typer.Option(help="Seconds of standing that end a trip (rule still_resume_s).", min=1)
    ] = None,
    rule: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Any other rule; may be given several times.")
    ] = None,
    grid: Annotated[bool, typer.Option("--grid", help="Also score over a grid of --gap and --still.")] = False,
    every: Annotated[float, typer.Option(help="Report only each so many seconds.", min=0)] = 0,
    drop: Annotated[float, typer.Option(help="Lose this percentage of the rows.", min=0, max=100)] = 0,
    duplicate: Annotated[float, typer.Option(help="Send this percentage of the rows twice.", min=0, max=100)] = 0,
    delay: Annotated[
        float, typer.Option(help="Let each row arrive up to so many seconds late (alone: 600).", min=0)
    ] = 0,
    shuffle: Annotated[bool, typer.Option("--shuffle", help="Let the rows arrive in any order.")] = False,
    batches: Annotated[int, typer.Option(help="Give the rows in so many batches, segmenting after each.", min=1)] = 1,
    parked_noise: Annotated[
        float, typer.Option(help="Report while parked too, positions wandering by so many metres (1 sigma).", min=0)
    ] = 0,
    parked_every: Annotated[float, typer.Option(help="Seconds between such parked reports.", min=1)] = 60,
    strip_rpm: Annotated[bool, typer.Option("--strip-rpm", help="Without rpm, ignition and gear.")] = False,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 1,
) -> None:
    rules = _rules(gap, still, rule or [])
    try:
        rows = recording.read(file)
    except recording.Unreadable as error:
        typer.echo(f"{file}: {error}", err=True)
        raise typer.Exit(2) from None
    corruption = scoring.Corruption(
        every_s=every,
        drop_pct=drop,
        duplicate_pct=duplicate,
        parked_noise_m=parked_noise,
        parked_every_s=parked_every,
        delay_s=delay,
        shuffle=shuffle,
        strip_engine=strip_rpm,
    )
    truth = scoring.drives(rows)
    samples = corruption.apply(rows, random.Random(seed))
    if not samples:
        typer.echo(f"{file}: nothing is left of {len(rows)} rows. Drop fewer.", err=True)
        raise typer.Exit(2)
    streamed = scoring.stream(samples, batches, _segmenter(rules))
    result = scoring.score(truth, streamed.trips)
    in_order = _segmenter(rules)(sorted(samples, key=lambda sample: sample.ts), _after(samples))
    result["stream"] = {
        "samples": len(samples),
        "batches": batches,
        "same_as_in_order": list(streamed.trips) == list(in_order),
        "changed_after_final": streamed.changed_after_final,
    }
    if grid:
        result["grid"] = _grid(rules, truth, samples)
    if as_json:
        typer.echo(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode())
    else:
        _show(result, truth, streamed.trips)


def _rules(gap: float | None, still: float | None, pairs: Sequence[str]) -> Rules:
    overrides: dict[str, Any] = {}
    if gap is not None:
        overrides["silence_resume_s"] = gap
    if still is not None:
        overrides["still_resume_s"] = still
    for pair in pairs:
        key, _, value = pair.partition("=")
        try:
            overrides[key.strip()] = float(value)
        except ValueError:
            raise typer.BadParameter(f"{pair!r}: write --rule KEY=NUMBER") from None
    try:
        return Rules.of(overrides)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _segmenter(rules: Rules) -> scoring.Segmenter:
    def trips(samples: Sequence[Sample], as_of_ms: int) -> Sequence[Trip]:
        return segment(samples, rules, as_of_ms).trips

    return trips


def _after(samples: Sequence[Sample]) -> int:
    return max(sample.ts for sample in samples) + 86_400_000


def _grid(rules: Rules, truth: Sequence[scoring.Drive], samples: Sequence[Sample]) -> list[dict[str, float]]:
    found = []
    for gap in GRID_GAP_S:
        for still in GRID_STILL_S:
            tried = Rules.of({**asdict(rules), "silence_resume_s": gap, "still_resume_s": still})
            rates = scoring.score(truth, _segmenter(tried)(samples, _after(samples)))["iou"]
            found.append({"gap_s": gap, "still_s": still, **{f"f1_{level}": rates[level]["f1"] for level in rates}})
    return found


def _show(result: dict[str, Any], truth: Sequence[scoring.Drive], trips: Sequence[Trip]) -> None:
    console = terminal.console()
    pairs = Table(
        "drive", "minutes", "km", "trip's km", "IoU", "start", "end", "began by", "ended by", box=None, pad_edge=False
    )
    for drive in truth:
        trip = max(trips, key=lambda one: scoring.iou(drive, one), default=None)
        length = f"{(drive.end_ms - drive.start_ms) / 60000:.1f}"
        km = "" if drive.km is None else f"{drive.km:.2f}"
        if trip is None or not scoring.iou(drive, trip):
            pairs.add_row(drive.name, length, km, "", "missed")
            continue
        start, end = ((trip.start_ms - drive.start_ms) / 1000, (trip.end_ms - drive.end_ms) / 1000)
        pairs.add_row(
            drive.name,
            length,
            km,
            f"{trip.distance_km:.2f}",
            f"{scoring.iou(drive, trip):.3f}",
            f"{start:+.0f} s",
            f"{end:+.0f} s",
            trip.start_reason,
            trip.end_reason or "",
        )
    console.print(pairs)
    rates = Table("IoU", "precision", "recall", "F1", box=None, pad_edge=False)
    for level, row in result["iou"].items():
        rates.add_row(level, *(f"{row[key]:.3f}" for key in ("precision", "recall", "f1")))
    console.print()
    console.print(rates)
    console.print()
    console.print(f"{result['drives']} drives, {result['trips']} trips from {result['stream']['samples']:,} samples.")
    console.print(f"Drives split: {result['split_rate']:.1%}. Trips that merge drives: {result['merge_rate']:.1%}.")
    for name, label, unit, factor in (
        ("start_error_s", "Start", "s", 1),
        ("end_error_s", "End", "s", 1),
        ("distance_error", "Distance", "%", 100),
    ):
        spread = result[name]
        if spread["median"] is not None:
            console.print(
                f"{label} error: median {spread['median'] * factor:.2f} {unit}, p95 {spread['p95'] * factor:.2f} {unit}."
            )
    same = "the same" if result["stream"]["same_as_in_order"] else "NOT the same"
    console.print(f"The trips are {same} as those of the samples in order.")
    if "grid" in result:
        console.print()
        console.print("F1 at IoU 0.8, by seconds of silence (down) and of standing (across) that end a trip:")
        table = Table("", *(f"{still:.0f} s" for still in GRID_STILL_S), box=None, pad_edge=False)
        for gap in GRID_GAP_S:
            table.add_row(f"{gap:.0f} s", *(f"{cell['f1_0.8']:.3f}" for cell in result["grid"] if cell["gap_s"] == gap))
        console.print(table)
