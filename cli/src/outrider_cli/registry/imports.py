"""Registers devices from a CSV file in chunks, with progress and a report that lets an interrupted import go on."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from outrider_cli.registry.client import Api, fail

CHUNK = 1000
COLUMNS = (
    "id", "name", "type", "tier", "tags", "serial", "owner", "location", "latitude", "longitude", "gateway", "firmware", "hardware",
)  # fmt: skip
REPORT = ("row", "id", "result", "error", "secret", "generation")
SHOWN_ERRORS = 20
DONE = ("created", "updated", "unchanged")


def import_csv(
    api: Api, file: Path, *, dry_run: bool, on_existing: str, credentials: bool, report: Path | None, resume: bool
) -> None:
    """Registers every row of the file. Ends the command with status 1 when a row failed."""
    if on_existing not in ("skip", "update", "fail"):
        raise typer.BadParameter("--on-existing is skip, update or fail")
    if resume and report is None:
        raise typer.BadParameter("--resume needs --report, which says what is done")
    rows = read_rows(file)
    done = read_done(report) if resume and report is not None and report.exists() else set()
    todo = [row for row in rows if row["id"] not in done]
    counts: Counter[str] = Counter()
    errors: list[dict[str, Any]] = []
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("checking" if dry_run else "registering", total=len(todo))
        with _report(report if not dry_run else None, append=bool(done)) as write:
            for at in range(0, len(todo), CHUNK):
                chunk = todo[at : at + CHUNK]
                body = {"dry_run": dry_run, "on_existing": on_existing, "credentials": credentials}
                sent = [{key: value for key, value in row.items() if key != "line"} for row in chunk]
                answer = api.post("/devices/import", {"rows": sent, **body})
                for row, result in zip(chunk, answer["results"], strict=True):
                    counts[result["result"]] += 1
                    result["row"] = row["line"]
                    if result.get("error"):
                        errors.append(result)
                write(answer["results"])
                progress.update(bar, advance=len(chunk))
    for error in errors[:SHOWN_ERRORS]:
        typer.echo(f"{file}:{error['row']}: {error.get('id') or ''}: {error['error']}", err=True)
    if len(errors) > SHOWN_ERRORS:
        typer.echo(f"… and {len(errors) - SHOWN_ERRORS} more", err=True)
    skipped = f", {len(done)} done before" if done else ""
    what = ", ".join(f"{number:,} {result}" for result, number in sorted(counts.items())) or "nothing to do"
    typer.echo(f"{'Would be: ' if dry_run else ''}{what}{skipped}.")
    if report is not None and not dry_run:
        typer.echo(f"{report} has a line for each row; it holds secrets: keep it safe.")
    if counts["failed"]:
        raise typer.Exit(1)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of the file as the API takes them, with their `line`. Ends the command with what is wrong with the file."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.DictReader(text)
            names = [name.strip().lower() for name in reader.fieldnames or []]
            if "id" not in names:
                fail(
                    f"{file}: the first line must name the columns, `id` among them; it reads {','.join(names)[:200]!r}."
                )
            unknown = sorted(set(names) - set(COLUMNS))
            if unknown:
                fail(f"{file}: unknown columns {', '.join(unknown)}. There are: {', '.join(COLUMNS)}.")
            reader.fieldnames = names
            return [_row(values, reader.line_num, file) for values in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        fail(f"{file} is no CSV in UTF-8: {error}")


def _row(values: dict[str, Any], line: int, file: Path) -> dict[str, Any]:
    if None in values:
        fail(f"{file}:{line}: more values than columns; put quotes around values with commas.")
    row: dict[str, Any] = {key: value.strip() for key, value in values.items() if value is not None and value.strip()}
    if "tags" in row:
        row["tags"] = row["tags"].replace(";", " ").split()
    for name in ("latitude", "longitude"):
        if name in row:
            try:
                row[name] = float(row[name])
            except ValueError:
                fail(f"{file}:{line}: {name} is {row[name]!r}; it must be a number of degrees.")
    return {"id": "", **row, "line": line}


def read_done(report: Path) -> set[str]:
    """Ids that a report says are registered."""
    with report.open(newline="", encoding="utf-8") as text:
        return {row["id"] for row in csv.DictReader(text) if row.get("result") in DONE}


class _report:
    """Appends results to the report, safely on disk chunk by chunk; readable by its owner only, because it holds secrets."""

    def __init__(self, path: Path | None, append: bool) -> None:
        self._path = path
        self._append = append

    def __enter__(self) -> Any:
        if self._path is None:
            return lambda results: None
        flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if self._append else os.O_TRUNC)
        try:
            self._file = open(os.open(self._path, flags, 0o600), "w", newline="", encoding="utf-8")
        except OSError as error:
            fail(f"{self._path}: {error}")
        self._writer = csv.DictWriter(self._file, REPORT, extrasaction="ignore")
        if not self._append:
            self._writer.writeheader()
        return self._write

    def _write(self, results: Sequence[dict[str, Any]]) -> None:
        self._writer.writerows(results)
        self._file.flush()
        os.fsync(self._file.fileno())

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            self._file.close()


def credentials_of(report: Path) -> Iterator[tuple[str, str]]:
    """(device, secret) of each row of a report that has a secret."""
    with report.open(newline="", encoding="utf-8") as text:
        for row in csv.DictReader(text):
            if row.get("secret"):
                yield row["id"], row["secret"]
