"""Recorded drives from a CSV file: one row a report, the column `drive` holding the truth."""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Iterator
from pathlib import Path

from outrider.trips import Sample
from outrider.trips.score import Recorded

NUMBERS = {
    "lat": "lat",
    "lon": "lon",
    "speed_kmh": "speed_kmh",
    "rpm": "rpm",
    "odometer_km": "odometer_km",
    "accuracy_m": "accuracy_m",
    "hdop": "hdop",
    "alt_m": "alt_m",
    "elevation_m": "alt_m",
    "heading_deg": "heading_deg",
    "soc_pct": "soc_pct",
    "fuel_pct": "fuel_pct",
}
PARKED = {"", "0", "-1", "na", "nan", "none", "null", "parked"}  # values of `drive` on rows recorded outside a drive
TRUE, FALSE = {"1", "true", "on", "yes", "1.0"}, {"0", "false", "off", "no", "0.0"}
_LATEST_S = 1e11  # a larger ts is in milliseconds (in seconds it would be the year 5138)


class Unreadable(ValueError):
    """The file is no recording: says where and why."""


def read(path: Path) -> list[Recorded]:
    """All rows of a .csv or .csv.gz file. Unreadable names the line and the column."""
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise Unreadable(f"{path} cannot be read: {error}") from None
    reader = csv.reader(io.StringIO(text))
    try:
        rows = list(_rows(reader))
    except csv.Error as error:
        raise Unreadable(f"line {reader.line_num}: {error}") from None
    if not any(row.drive is not None for row in rows):
        raise Unreadable("There is no row with a drive in it.")
    return rows


def _rows(reader: Iterator[list[str]]) -> Iterator[Recorded]:
    header = [name.strip().lower() for name in next(reader, [])]
    for needed in ("drive", "ts"):
        if needed not in header:
            raise Unreadable(f"line 1: there is no column {needed!r}; found: {', '.join(header) or 'nothing'}")
    if not {"lat", "speed_kmh", "odometer_km"} & set(header):
        raise Unreadable(
            "line 1: there is none of the columns lat and lon, speed_kmh, odometer_km: nothing to see motion by"
        )
    for line, fields in enumerate(reader, start=2):
        if not any(field.strip() for field in fields):
            continue
        if len(fields) != len(header):
            raise Unreadable(f"line {line}: {len(fields)} fields, the header has {len(header)}")
        row = {name: field.strip() for name, field in zip(header, fields, strict=True)}
        ts = _number(row["ts"], "ts", line)
        if ts is None:
            raise Unreadable(f"line {line}: ts is empty")
        values = {NUMBERS[name]: _number(row[name], name, line) for name in header if name in NUMBERS}
        sample = Sample(
            ts=round(ts if abs(ts) > _LATEST_S else ts * 1000),
            ignition=_boolean(row.get("ignition", ""), line),
            gear=row.get("gear") or None,
            **values,
        )
        drive = None if row["drive"].lower() in PARKED else row["drive"]
        yield Recorded(sample, drive, _number(row.get("drive_km", ""), "drive_km", line))


def _number(text: str, column: str, line: int) -> float | None:
    if text.lower() in ("", "na", "nan", "null", "none"):
        return None
    try:
        value = float(text)
    except ValueError:
        raise Unreadable(f"line {line}: {column} is {text!r}, not a number") from None
    return value if math.isfinite(value) else None


def _boolean(text: str, line: int) -> bool | None:
    if text.lower() in TRUE | FALSE:
        return text.lower() in TRUE
    if text.lower() in ("", "na", "nan", "null", "none"):
        return None
    raise Unreadable(f"line {line}: ignition is {text!r}, not true or false")
