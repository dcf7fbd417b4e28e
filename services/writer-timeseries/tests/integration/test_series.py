"""The map of series: ids stay what they are whatever is remembered, and what is remembered is bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from outrider.contract import limits
from outrider.contract.batch import Header, Shape
from outrider.runtime.database import Database as Pool
from outrider.testing.fixtures import Database
from outrider_writer_timeseries.series import (
    DEVICE_MAX_SHAPES,
    DEVICE_SIZE,
    METRIC_SIZE,
    REFUSED,
    SHAPE_SIZE,
    SeriesMap,
)


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    pool = Pool(database.service_urls["writer-timeseries"], "test", 2)
    await pool.open()
    yield pool
    await pool.close()


def message(device: str, *metrics: str) -> tuple[Header, Shape]:
    return Header("demo", device, "telemetry", None, None, 0), Shape.of(
        tuple((metric, "number", 1) for metric in metrics)
    )


async def ids(series: SeriesMap, *messages: tuple[Header, Shape]) -> list[list[int]]:
    return [found.tolist() for found in await series.of(messages)]


async def test_ids_are_the_databases_in_the_order_of_the_runs(pool: Pool, database: Database) -> None:
    series = SeriesMap(pool, 100_000)
    first, second = await ids(series, message("van-1", "a", "b"), message("van-2", "b", "a", "c"))
    rows = database.rows("SELECT device, metric, id FROM telemetry.series")
    known = {(device, metric): id_ for device, metric, id_ in rows}
    assert first == [known["van-1", "a"], known["van-1", "b"]]
    assert second == [known["van-2", "b"], known["van-2", "a"], known["van-2", "c"]]
    assert await ids(series, message("van-1", "b"), message("van-1", "a", "b")) == [[first[1]], first]


async def test_ever_new_combinations_of_known_metrics_ask_the_database_nothing(pool: Pool, database: Database) -> None:
    series = SeriesMap(pool, 100_000)
    metrics = [f"m{i}" for i in range(6)]
    (known,) = await ids(series, message("van-1", *metrics))
    await pool.close()
    for bits in range(1, 64):
        chosen = [i for i in range(6) if bits >> i & 1]
        assert await ids(series, message("van-1", *(metrics[i] for i in chosen))) == [[known[i] for i in chosen]]
    assert series.size <= DEVICE_SIZE + METRIC_SIZE * len(metrics)


async def test_what_is_remembered_is_bounded_and_forgetting_changes_no_id(pool: Pool, database: Database) -> None:
    capacity = 10 * (DEVICE_SIZE + SHAPE_SIZE + 2)
    series = SeriesMap(pool, capacity)
    before = {n: await ids(series, message(f"van-{n}", "a", "b")) for n in range(30)}
    assert 0 < series.size <= capacity
    assert {n: await ids(series, message(f"van-{n}", "a", "b")) for n in range(30)} == before
    for n in range(30):  # every one leaves again, in whatever form it was remembered
        for m in range(DEVICE_MAX_SHAPES + 2):
            await series.of([message(f"van-{n}", f"m{m}")])
    assert 0 < series.size <= capacity
    assert sum(series._holders.values()) == sum(len(device.shapes) for device in series._cache.values())
    series.forget()
    assert series.size == 0
    assert await ids(series, message("van-3", "a", "b")) == before[3]


async def test_a_metric_too_many_is_refused_until_there_is_room(pool: Pool, database: Database) -> None:
    series = SeriesMap(pool, 100_000)
    names = [f"m{i}" for i in range(limits.DEVICE_MAX_METRICS)]
    await series.of([message("van-1", *names)])
    (found,) = await ids(series, message("van-1", "m0", "one_more"))
    assert found[0] > 0
    assert found[1] == REFUSED
    database.rows("DELETE FROM telemetry.series WHERE metric = 'm1'")
    (found,) = await ids(series, message("van-1", "m0", "one_more"))
    assert REFUSED not in found
