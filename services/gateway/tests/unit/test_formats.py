"""Columns come back from every format as they went in; tracks become what maps read."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider_gateway.api.compression import choose as choose_coding
from outrider_gateway.query import formats, geo
from outrider_gateway.query.asked import Asking, iso
from outrider_gateway.query.columns import Answer, Column, Page, Series
from outrider_gateway.query.device import aligned
from outrider_gateway.query.trips import Point, track_of

COLUMNS = [
    Column("speed_kmh", "speed_kmh", "number", "km/h"),
    Column("n", "speed_kmh", "integer", "", "count"),
    Column("on", "on", "boolean", ""),
    Column("status", "status", "string", ""),
    Column("extra", "extra", "json", ""),
]
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)
VALUES: list[st.SearchStrategy[Any]] = [
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(0, 2**53),
    st.booleans(),
    TEXT,
    st.dictionaries(TEXT, st.integers(-5, 5) | TEXT | st.none(), max_size=2),
]
ROW = st.tuples(*(st.none() | kind for kind in VALUES))


def answer_of(rows: list[tuple[Any, ...]]) -> Answer:
    async def pages() -> AsyncIterator[Page]:
        for at in range(0, len(rows), 2):
            part = rows[at : at + 2]
            yield Page(
                [1000 * (at + n) for n in range(len(part))], [list(column) for column in zip(*part, strict=True)]
            )

    return Answer({"device": "van-7"}, COLUMNS, pages())


async def whole(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


@pytest.mark.parametrize("seed", range(3))
async def test_arrow_gives_back_what_went_in(seed: int) -> None:
    rows: list[tuple[Any, ...]] = [
        (1.5, 3, True, "a,b", {"k": None}),
        (None,) * 5,
        (-0.0, 2**53, False, "", {"": "\n"}),
    ]
    rows = rows[seed:] + rows[:seed]
    table = pa.ipc.open_stream(await whole(formats.arrow_of(answer_of(rows)))).read_all()
    assert table.schema.field("ts").type == pa.timestamp("ms", tz="UTC")
    assert table.schema.field("speed_kmh").metadata[b"unit"] == b"km/h"
    assert [value.timestamp() for value in table["ts"].to_pylist()] == [0, 1, 2]
    columns = [table[name].to_pylist() for name in ("speed_kmh", "n", "on", "status", "extra")]
    columns[-1] = [None if value is None else json.loads(value) for value in columns[-1]]
    assert list(zip(*columns, strict=True)) == rows


@settings(max_examples=40)
@given(st.lists(ROW, max_size=5))
async def test_csv_gives_back_what_went_in(rows: list[tuple[Any, ...]]) -> None:
    text = (await whole(formats.csv_of(answer_of(rows)))).decode()
    read = list(csv.reader(io.StringIO(text, newline="")))
    assert read[0] == ["ts", "speed_kmh", "n", "on", "status", "extra"]
    assert len(read) == len(rows) + 1
    for n, (cells, row) in enumerate(zip(read[1:], rows, strict=True)):
        number, whole_, on, status, extra = row
        assert cells[0] == iso(n * 1000)
        assert cells[1] == ("" if number is None else repr(number))
        assert cells[2] == ("" if whole_ is None else str(whole_))
        assert cells[3] == ("" if on is None else str(on).lower())
        assert cells[4] == (status or "")
        assert (cells[5] == "") if extra is None else (json.loads(cells[5]) == extra)


async def test_csv_tells_an_empty_text_from_none() -> None:
    text = (await whole(formats.csv_of(answer_of([(None, None, None, "", None), (None,) * 5])))).decode()
    assert text.splitlines()[1:] == ['1970-01-01T00:00:00.000Z,,,,"",', "1970-01-01T00:00:01.000Z,,,,,"]


def test_json_holds_columns_and_large_integers() -> None:
    body = formats.json_of({"device": "van-7"}, [COLUMNS[4]], Page([5], [[{"big": 2**80}]]))
    document = json.loads(body)
    assert document["data"] == {"ts": [5], "extra": [{"big": 2**80}]}
    assert document["columns"][0]["kind"] == "json"


@pytest.mark.parametrize(
    ("named", "accept", "wanted"),
    [
        (None, "", "json"),
        (None, "*/*", "json"),
        (None, "text/csv", "csv"),
        (None, "application/vnd.apache.arrow.stream", "arrow"),
        (None, "application/json;q=0.5, text/csv", "csv"),
        (None, "text/csv;q=0, application/json;q=0.1", "json"),
        (None, "image/png", "json"),
        ("CSV", "application/json", "csv"),
    ],
)
def test_choose_a_format(named: str | None, accept: str, wanted: str) -> None:
    assert formats.choose(named, accept, ("json", "csv", "arrow")) == wanted


def test_choose_refuses_an_unknown_format() -> None:
    with pytest.raises(Asking, match="ask for json, csv"):
        formats.choose("xlsx", "", ("json", "csv"))


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("gzip", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("zstd;q=0, gzip;q=0.5", "gzip"),
        ("identity", None),
        ("", None),
        ("br", None),
    ],
)
def test_choose_a_coding(accept: str, wanted: str | None) -> None:
    assert choose_coding(accept) == wanted


@given(st.sets(st.tuples(st.integers(0, 30), st.integers(0, 2)), max_size=40), st.integers(1, 7))
def test_pages_of_samples_put_together_are_all_samples(stored: set[tuple[int, int]], rows: int) -> None:
    series = [Series(n, "van-7", f"m{n}", "number") for n in range(3)]
    got: dict[tuple[int, int], int] = {}
    at: int | None = 0
    while at is not None:
        found = []
        for one in series:  # as the database: of each the first rows + 1
            found += [(n, t, t * 10 + n) for t, n in sorted(stored) if n == one.id and t >= at][: rows + 1]
        page, at = aligned(found, series, rows)
        assert len(page.ts) <= rows
        for n, column in enumerate(page.values):
            for t, value in zip(page.ts, column, strict=True):
                if value is not None:
                    assert (t, n) not in got
                    got[t, n] = value
    assert got == {(t, n): t * 10 + n for t, n in stored}


LINE = [Point(50.1, 8.6, 1000, 100.0, 30.0), Point(50.2, 8.7, 2000, 101.0, 31.0)]


def test_geojson_is_what_rfc_7946_says() -> None:
    document = json.loads(geo.collection([geo.feature("id-1", LINE, {"device": "van-7"})], next=None))
    (feature,) = document["features"]
    assert document["type"] == "FeatureCollection"
    assert feature["geometry"] == {"type": "LineString", "coordinates": [[8.6, 50.1, 100.0], [8.7, 50.2, 101.0]]}
    assert feature["properties"]["coordTimes"] == ["1970-01-01T00:00:01.000Z", "1970-01-01T00:00:02.000Z"]
    assert geo.feature("x", LINE[:1], {})["geometry"] == {"type": "Point", "coordinates": [8.6, 50.1, 100.0]}
    assert geo.feature("x", [], {})["geometry"] is None
    assert "coordTimes" not in geo.feature("x", [Point(1, 2), Point(2, 3)], {})["properties"]


def test_gpx_is_read_back() -> None:
    root = ET.fromstring(geo.gpx([("van <7> & Co\x07", "12 km", LINE), ("empty", "", [])]))
    space = {"g": "http://www.topografix.com/GPX/1/1"}
    assert root.get("version") == "1.1"
    assert root.get("creator")
    tracks = root.findall("g:trk", space)
    assert [track.findtext("g:name", None, space) for track in tracks] == ["van <7> & Co", "empty"]
    points = tracks[0].findall("g:trkseg/g:trkpt", space)
    assert [(float(p.get("lat", "")), float(p.get("lon", ""))) for p in points] == [(50.1, 8.6), (50.2, 8.7)]
    assert [child.tag.partition("}")[2] for child in points[0]] == ["ele", "time"]  # in the order of the schema


def test_a_track_that_cannot_be_read_is_none() -> None:
    assert track_of("_p~iF~ps|U")[0].lat == pytest.approx(38.5)
    assert track_of("_p~iF~ps|") == track_of(None) == []


async def test_a_long_csv_holds_up_nobody() -> None:
    columns = [Column(f"m{n}", f"m{n}", "number", "") for n in range(5)]
    page = Page(list(range(0, 50_000_000, 1000)), [[1.5] * 50_000 for _ in columns])

    async def pages() -> AsyncIterator[Page]:
        yield page

    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    running = asyncio.create_task(others())
    await asyncio.sleep(0)
    written = b"".join([piece async for piece in formats.csv_of(Answer({}, columns, pages()))])
    running.cancel()
    assert turns > 10
    assert written.count(b"\r\n") == 50_001
