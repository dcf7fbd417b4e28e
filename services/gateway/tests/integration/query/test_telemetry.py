"""Telemetry of a device over the API: what is asked is what raw samples say, whatever it was read from."""

from __future__ import annotations

import csv
import io
import random
import secrets
import uuid
from typing import Any

import pyarrow as pa
import pytest

from outrider.testing.fixtures import Database
from outrider_gateway.api import sending
from outrider_gateway.query import device as questions

from .conftest import Asker, asking, moment

HOUR, MINUTE = 3_600_000, 60_000
NOW = 1_760_000_000_000 // HOUR * HOUR
AGGREGATES = ("count", "sum", "min", "max", "mean", "first", "last")


def brute(samples: dict[int, float], start: int, end: int, step: int) -> dict[int, list[float]]:
    """Every aggregate of every bucket, from the samples alone."""
    buckets: dict[int, list[float]] = {}
    for t in sorted(samples):
        if start <= t < end:
            buckets.setdefault(t // step * step, []).append(samples[t])
    return {t: [len(v), sum(v), min(v), max(v), sum(v) / len(v), v[0], v[-1]] for t, v in buckets.items()}


async def ask(asker: Asker, device: str, **params: Any) -> dict[str, Any]:
    answer = await asker.acme.get(f"devices/{device}/telemetry", params=params)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def test_any_range_and_step_equals_the_samples(asker: Asker) -> None:
    device = asker.device(f"van-{secrets.token_hex(3)}")
    chance = random.Random(5)
    samples = {NOW + n * 20_000 + chance.randrange(20_000): float(chance.randrange(1000)) for n in range(6 * 180)}
    asker.store(device, "speed_kmh", samples.items())
    asker.roll_up(NOW + 5 * HOUR + 17 * MINUTE)
    late = {NOW + HOUR + 5: 5000.0, NOW + 2 * HOUR + 31 * MINUTE + 1: -5000.0, NOW + 6 * HOUR - 1: 1.0}
    asker.store(device, "speed_kmh", late.items())  # not rolled up again
    samples |= late
    tiers: set[str] = set()
    for _ in range(40):
        start = NOW + chance.randrange(-HOUR, 5 * HOUR)
        if chance.random() < 0.4:
            start = start // MINUTE * MINUTE
        end = start + chance.choice([chance.randrange(1, 6 * HOUR), 4 * HOUR, 30 * MINUTE])
        step = chance.choice([7_000, MINUTE, 90_000, 5 * MINUTE, 15 * MINUTE, HOUR, 3 * HOUR])
        document = await ask(
            asker,
            device,
            metric="speed_kmh",
            **{"from": start, "to": end},
            step=f"{step}ms",
            aggregate=",".join(AGGREGATES),
            limit=100_000,
            source=chance.choice(["auto", "auto", "raw"]),
        )
        tiers |= {segment["tier"] for segment in document["segments"]}
        wanted = brute(samples, start, end, step)
        assert document["data"]["ts"] == sorted(wanted)
        for n, name in enumerate(AGGREGATES):
            assert document["data"][f"speed_kmh.{name}"] == pytest.approx([wanted[t][n] for t in sorted(wanted)])
    assert tiers == {"raw", "1m", "5m", "1h"}


async def test_the_newest_samples_are_never_missing(asker: Asker) -> None:
    device = asker.device(f"van-{secrets.token_hex(3)}")
    asker.store(device, "speed_kmh", [(NOW + n * MINUTE, 1.0) for n in range(300)])
    asker.roll_up(NOW + 4 * HOUR)
    asker.store(device, "speed_kmh", [(NOW + 5 * HOUR + 1, 77.0)])
    document = await ask(
        asker, device, metric="speed_kmh", **{"from": NOW, "to": NOW + 6 * HOUR}, step="1h", aggregate="last"
    )
    assert document["data"]["speed_kmh"][-1] == 77.0
    assert document["source"] == "1h"


async def test_every_page_and_format_has_the_same_rows(asker: Asker) -> None:
    device = asker.device(f"van-{secrets.token_hex(3)}")
    asker.store(device, "speed_kmh", [(NOW + n * 1000, n / 3) for n in range(50)])
    asker.store(device, "on", [(NOW + n * 5000, n % 2) for n in range(10)], "boolean")
    asker.store(device, "status", [(NOW + 2500, 'a "b", c'), (NOW + 49_000, "")], "string")
    asker.store(device, "extra", [(NOW + 2500, '{"k": [1, null]}')], "json")
    metrics = "speed_kmh,on,status,extra"
    params = {"metric": metrics, "from": NOW, "to": NOW + HOUR, "aggregate": "raw"}
    whole = await ask(asker, device, **params)
    assert whole["data"]["ts"][:4] == [NOW, NOW + 1000, NOW + 2000, NOW + 2500]
    assert whole["data"]["status"][3] == 'a "b", c'
    assert whole["data"]["on"][0] is False
    assert whole["data"]["extra"][3] == {"k": [1, None]}
    rows = list(zip(*whole["data"].values(), strict=True))
    paged, cursor = [], None
    while cursor is not None or not paged:
        more = {"cursor": cursor} if cursor else {}
        page = await ask(asker, device, **params, limit=7, **more)
        paged += list(zip(*page["data"].values(), strict=True))
        cursor = page["next"]
    assert paged == rows
    arrow = await asker.acme.get(f"devices/{device}/telemetry", params=params | {"format": "arrow"})
    table = pa.ipc.open_stream(arrow.content).read_all()
    assert [int(t.timestamp() * 1000) for t in table["ts"].to_pylist()] == whole["data"]["ts"]
    assert table["on"].to_pylist() == whole["data"]["on"]
    assert table.schema.field("speed_kmh").type == pa.float64()
    text = await asker.acme.get(f"devices/{device}/telemetry", params=params, headers={"accept": "text/csv"})
    assert text.headers["content-type"].startswith("text/csv")
    read = list(csv.reader(io.StringIO(text.text, newline="")))
    assert read[0] == ["ts", "speed_kmh", "on", "status", "extra"]
    assert [row[3] for row in read[1:]] == [value or "" for value in whole["data"]["status"]]


async def test_long_answers_are_streamed_whole_and_compressed(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outrider_gateway.query.device.STREAM_ROWS", 1000)
    monkeypatch.setattr("outrider_gateway.api.telemetry.ROWS", 1000)
    device = asker.device(f"van-{secrets.token_hex(3)}")
    asker.store(device, "speed_kmh", [(NOW + n * 1000, float(n)) for n in range(3500)])
    params = {"metric": "speed_kmh", "from": NOW, "to": NOW + HOUR, "aggregate": "raw", "format": "arrow"}
    for coding in ("gzip", "zstd", "identity"):
        answer = await asker.acme.get(f"devices/{device}/telemetry", params=params, headers={"accept-encoding": coding})
        assert answer.headers.get("content-encoding", "identity") == coding
        assert "etag" not in answer.headers
        assert "Accept-Encoding" in answer.headers["vary"]
        table = pa.ipc.open_stream(answer.content).read_all()
        assert table["speed_kmh"].to_pylist() == [float(n) for n in range(3500)]
        assert len(table["speed_kmh"].chunks) == 4
    buckets = params | {"aggregate": "count", "step": "2s", "format": "csv"}
    answer = await asker.acme.get(f"devices/{device}/telemetry", params=buckets)
    assert len(answer.text.splitlines()) == 1 + 1750


async def test_cursors_neither_repeat_nor_drop_under_late_inserts(asker: Asker) -> None:
    device = asker.device(f"van-{secrets.token_hex(3)}")
    asker.store(device, "speed_kmh", [(NOW + n * 1000, 0.0) for n in range(30)])
    params = {"metric": "speed_kmh", "from": NOW, "to": NOW + HOUR, "aggregate": "raw", "limit": 10}
    first = await ask(asker, device, **params)
    asker.store(device, "speed_kmh", [(NOW + 500, 1.0), (NOW + 15_500, 1.0)])  # before and after the cursor
    second = await ask(asker, device, **params, cursor=first["next"])
    third = await ask(asker, device, **params, cursor=second["next"])
    last = await ask(asker, device, **params, cursor=third["next"])
    times = [t for page in (first, second, third, last) for t in page["data"]["ts"]]
    assert times == sorted({*(NOW + n * 1000 for n in range(30)), NOW + 15_500})
    assert last["next"] is None
    for cursor, changed, words in (
        (first["next"], {"aggregate": "mean"}, "another question"),
        ("bm8", {}, "not made here"),
    ):
        answer = await asker.acme.get(f"devices/{device}/telemetry", params=params | changed | {"cursor": cursor})
        assert answer.status_code == 400
        assert words in answer.json()["detail"]


async def test_etags(asker: Asker) -> None:
    device = asker.device(f"van-{secrets.token_hex(3)}")
    asker.store(device, "speed_kmh", [(NOW, 1.0)])
    path, params = f"devices/{device}/telemetry", {"metric": "speed_kmh", "from": NOW, "to": NOW + HOUR, "step": "1m"}
    first = await asker.acme.get(path, params=params)
    again = await asker.acme.get(path, params=params, headers={"if-none-match": f'"x", {first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    asker.store(device, "speed_kmh", [(NOW + 1, 3.0)])
    changed = await asker.acme.get(path, params=params, headers={"if-none-match": first.headers["etag"]})
    assert changed.status_code == 200
    assert changed.json()["data"]["speed_kmh"] == [2.0]


async def test_booleans_and_texts_in_buckets(asker: Asker) -> None:
    device = asker.device(f"van-{secrets.token_hex(3)}")
    asker.store(device, "on", [(NOW, 1), (NOW + 1, 1), (NOW + 2, 0), (NOW + 3, 0)], "boolean")
    asker.store(device, "gear", [(NOW, "P"), (NOW + 1000, "D"), (NOW + MINUTE, "R")], "string")
    params = {"from": NOW, "to": NOW + HOUR, "step": "1m"}
    usual = await ask(asker, device, metric="on,gear", **params)
    assert usual["data"] == {"ts": [NOW, NOW + MINUTE], "on": [0.5, None], "gear": ["D", "R"]}
    named = await ask(asker, device, metric="on,gear", aggregate="first,last,count", **params)
    assert named["data"]["on.first"] == [True, None]
    assert named["data"]["on.last"] == [False, None]
    assert named["data"]["gear.first"] == ["P", "R"]
    assert named["data"]["gear.count"] == [2, 1]
    one = await ask(asker, device, metric="gear", **params | {"step": "all"}, aggregate="count")
    assert one["data"] == {"ts": [NOW], "gear": [3]}


@pytest.mark.parametrize(
    ("params", "status", "words"),
    [
        ({}, 400, "has: gear, speed_kmh"),
        ({"metric": "speed_kph"}, 400, "near it are: speed_kmh"),
        ({"metric": "gear", "aggregate": "mean"}, 400, "gear is text: it has no mean"),
        ({"metric": "speed_kmh", "step": "5 min"}, 400, "number and a unit"),
        ({"metric": "speed_kmh", "from": "tomorrow"}, 400, "write a time"),
        ({"metric": "speed_kmh", "from": "now", "to": "-1h"}, 400, "must be before"),
        ({"metric": "speed_kmh", "aggregate": "median"}, 400, "no aggregate"),
        ({"metric": "speed_kmh", "source": "1d"}, 400, "no source"),
        ({"metric": "speed_kmh", "source": "5m", "step": "1m"}, 400, "multiple of 5m"),
        ({"metric": "speed_kmh", "format": "xml"}, 400, "ask for json, csv, arrow"),
        ({"metric": "speed_kmh", "limit": 0}, 422, "limit"),
    ],
)
async def test_what_cannot_be_answered_says_what_to_ask(
    asker: Asker, params: dict[str, Any], status: int, words: str
) -> None:
    device = asker.device("van-asked")
    asker.store(device, "speed_kmh", [(NOW, 1.0)])
    asker.store(device, "gear", [(NOW, "P")], "string")
    answer = await asker.acme.get(f"devices/{device}/telemetry", params=params)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"


async def test_below_the_horizon_rollups_answer(asker: Asker) -> None:
    with_raw = asker.device(f"van-{secrets.token_hex(3)}", tenant="other")
    asker.store(with_raw, "speed_kmh", [(NOW + n * 10_000, float(n)) for n in range(720)], tenant="other")
    asker.roll_up(NOW + 3 * HOUR)
    horizon = moment(NOW + HOUR)
    asker.database.rows("INSERT INTO runtime.horizon VALUES ('telemetry.sample', 'other', %s)", horizon)
    path = f"devices/{with_raw}/telemetry"
    params = {"metric": "speed_kmh", "from": NOW, "to": NOW + 2 * HOUR}
    try:
        answer = (await asker.other.get(path, params=params | {"step": "1m", "aggregate": "count"})).json()
        assert answer["segments"][0]["tier"] == "1m"
        assert answer["data"]["speed_kmh"] == [6] * 120
        refused = await asker.other.get(path, params=params | {"step": "30s"})
        assert refused.status_code == 400
        assert "only rollups of 1m are left" in refused.json()["detail"]
        rounded = (await asker.other.get(path, params=params)).json()
        assert rounded["step_ms"] % MINUTE == 0
        raw = (await asker.other.get(path, params=params | {"aggregate": "raw"})).json()
        assert raw["data"]["ts"][0] == NOW + HOUR
        assert "are gone" in raw["notes"][0]
    finally:
        asker.database.rows("DELETE FROM runtime.horizon WHERE tenant = 'other'")


async def test_what_takes_too_long_says_so_and_gives_its_session_back(
    shared: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outrider_gateway.query.device.STREAM_ROWS", 1)
    async with asking(shared, gateway_query_timeout_s=0.3, gateway_queries_at_once=1) as asker:
        device = asker.device(f"van-{secrets.token_hex(3)}")
        asker.store(device, "gear", [(NOW + n * 1000, "D") for n in range(2000)], "string")
        params = {"metric": "gear", "from": NOW, "to": NOW + HOUR, "step": "1h"}
        for _ in range(2):
            answer = await asker.acme.get(f"devices/{device}/telemetry", params=params)
            assert answer.status_code == 422, answer.text
            assert "took longer than 0.3 s" in answer.json()["detail"]
        shared.rows("CREATE FUNCTION public.slow() RETURNS int LANGUAGE sql AS 'SELECT 1 FROM pg_sleep(9)'")
        shared.rows("GRANT EXECUTE ON FUNCTION public.slow TO PUBLIC")
        monkeypatch.setattr("outrider_gateway.query.store.METRICS", "SELECT public.slow()::text")
        answer = await asker.acme.get("fleet/telemetry", params={"metric": "no_such"})
        assert (answer.status_code, "took longer" in answer.json()["detail"]) == (422, True)


@pytest.mark.parametrize(
    "where",
    [
        [2**62, 0, 1, 0],
        [-1, 0, 1, 0],
        [0, 0, 2**62, 0],
        [0, 5, 1, 60_000],
        [0, 0, 4_102_444_800_000, 60_000],
        [NOW, NOW, NOW + HOUR, -60_000],
        ["a", 0, 1, 0],
        [0, 0, 1],
        [[], 0, 1, 0],
    ],
)
async def test_a_cursor_that_was_made_up_is_refused_in_words(asker: Asker, where: list[Any]) -> None:
    device = asker.device("van-forged")
    asker.store(device, "speed_kmh", [(NOW, 1.0)])
    cursor = sending.encode_cursor((device, ("speed_kmh",), (), None), where)
    path = f"devices/{device}/telemetry"
    answer = await asker.acme.get(path, params={"metric": "speed_kmh", "cursor": cursor})
    assert (answer.status_code, "not made here" in answer.json()["detail"]) == (400, True), answer.text
    real = sending.encode_cursor((device, ("speed_kmh",), (), None), [NOW, NOW, NOW + HOUR, 60_000])
    assert (await asker.acme.get(path, params={"metric": "speed_kmh", "cursor": real})).status_code == 200
    mark = ("trips", None, None, None, None, None)
    for made_up in (["x" * 36], [2**62, str(uuid.uuid4()), 0, 0], [0, "no uuid", 0, 0]):
        answer = await asker.acme.get("trips", params={"cursor": sending.encode_cursor(mark, made_up)})
        assert (answer.status_code, "not made here" in answer.json()["detail"]) == (400, True), answer.text


async def test_a_page_is_short_where_its_rows_are_wide(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "MOST_VALUES", 100)
    device = asker.device("van-wide")
    for metric in ("one", "two"):
        asker.store(device, metric, [(NOW + n * 1000, float(n)) for n in range(60)])
    asker.store(device, "gear", [(NOW + n * 1000, "P") for n in range(60)], "string")
    over = {"from": NOW, "to": NOW + HOUR, "limit": 100_000}
    every = {"aggregate": "mean,min,max,sum,count", "step": "1s"}
    for asked, most in (
        ({"metric": "one,two", "aggregate": "raw"}, 50),
        ({"metric": "one,gear", "aggregate": "raw"}, 4),
        ({"metric": "one,two"} | every, 10),
    ):
        first = await ask(asker, device, **over, **asked)
        assert (len(first["data"]["ts"]), first["next"] is None) == (most, False)
        second = await ask(asker, device, **over, **asked, cursor=first["next"])
        assert second["data"]["ts"][0] == first["data"]["ts"][-1] + 1000
