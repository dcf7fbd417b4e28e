"""The ledger on native partitions and on TimescaleDB: exactly once, conflicts named, gaps asked for, poison kept alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psycopg
import pytest

from outrider.contract import limits
from outrider.contract.batch import (
    BatchNumber,
    Header,
    Kind,
    Record,
    RecordBatch,
    SampleBatch,
    Samples,
    decode_samples,
    encode_samples,
)
from outrider.runtime.accounting import Accounting
from outrider.runtime.acks import Acknowledger
from outrider.runtime.database import Database as Pool
from outrider.runtime.errors import Transient
from outrider.runtime.verdicts import Verdicts, acknowledge, count, judge
from outrider.servers import Postgres
from outrider.testing.fixtures import Database
from outrider.testing.waiting import eventually
from outrider_writer_timeseries.store import Ledger, Stored, Work

T0 = 1_790_000_000_000
TOPIC = "outrider/v1/samples/0"


@pytest.fixture(scope="session", params=["migrated", "timescaledb"])
def migrated(request: pytest.FixtureRequest) -> Database:
    """Every test runs on native partitions and on hypertables."""
    template: Database = request.getfixturevalue(request.param)
    return template


@pytest.fixture
async def ledger(database: Database) -> AsyncIterator[Ledger]:
    pool = Pool(database.service_urls["writer-timeseries"], "ledger-test")
    await pool.open()
    yield Ledger(pool, "writer-timeseries", 10_000)
    await pool.close()


def header(seq: int | None, boot: int | None = 7, device: str = "van-1", **more: Any) -> Header:
    return Header("demo", device, "telemetry", boot if seq or more.get("gone") else None, seq, T0, **more)


def number(metric: str, ts: int, value: float, kind: Kind = "number") -> tuple[str, Kind, int, Any]:
    return metric, kind, ts, value


def batch(*messages: tuple[Header, list[Any]], n: int = 1, epoch: int = 1) -> Work:
    payload = encode_samples(BatchNumber(0, epoch, n), [(header, Samples.of(rows)) for header, rows in messages])
    return Work(samples=[(TOPIC, decode_samples(payload))])


async def acks_of(stored: Stored) -> list[dict[str, Any]]:
    published: list[dict[str, Any]] = []

    async def publish(messages: Sequence[tuple[str, bytes]]) -> None:
        published.extend(json.loads(payload) for _, payload in messages)

    acknowledger = Acknowledger(publish)
    for verdicts in stored.verdicts:
        acknowledge(verdicts, acknowledger, stored.ledger)
    await acknowledger.flush()
    return published


def samples(database: Database) -> list[tuple[Any, ...]]:
    return database.rows(
        "SELECT device, metric, (extract(epoch FROM ts) * 1000)::bigint, value FROM telemetry.sample"
        " JOIN telemetry.series ON id = series_id ORDER BY 1, 2, 3"
    )


async def test_every_kind_of_value_is_stored(ledger: Ledger, database: Database) -> None:
    values: list[Any] = [
        ("speed_kmh", "number", T0, 51.25),
        ("count", "number", T0, 2**53 - 1),
        ("on", "boolean", T0, True),
        ("gear", "string", T0, "D'\\\t\n€"),
        ("tags", "json", T0, {"a": [1, None, "x"]}),
    ]
    await ledger.store(batch((header(1), values)))
    latest = database.rows("SELECT metric, kind, value FROM telemetry.latest ORDER BY metric")
    assert latest == [
        ("count", "number", 2**53 - 1),
        ("gear", "string", "D'\\\t\n€"),
        ("on", "boolean", True),
        ("speed_kmh", "number", 51.25),
        ("tags", "json", {"a": [1, None, "x"]}),
    ]


async def test_redelivery_of_a_batch_adds_nothing_and_is_acknowledged_again(ledger: Ledger, database: Database) -> None:
    work = [(header(1), [number("n", T0, 1.0)]), (header(2), [number("n", T0 + 1, 2.0), ("s", "string", T0, "x")])]
    first = await acks_of(await ledger.store(batch(*work)))
    again = await acks_of(await ledger.store(batch(*work)))
    assert first[0]["seq"] == again[0]["seq"] == [[1, 2]]
    assert again[0]["rejected"] == []
    assert samples(database) == [("van-1", "n", T0, 1.0), ("van-1", "n", T0 + 1, 2.0)]
    assert database.value("SELECT duplicates FROM telemetry.sequence") == 2


async def test_equal_samples_of_one_batch_are_duplicates_and_different_ones_conflict(
    ledger: Ledger, database: Database
) -> None:
    stored = await ledger.store(
        batch(
            (header(1), [number("n", T0, 1.0), number("n", T0, 1.0)]),
            (header(2), [number("n", T0, 5.0), number("other", T0, 2.0)]),
        )
    )
    (ack,) = await acks_of(stored)
    assert ack["seq"] == [[1, 2]]
    assert ack["rejected"] == [[2, "conflict"]]
    assert samples(database) == [("van-1", "n", T0, 1.0), ("van-1", "other", T0, 2.0)]
    kept = database.rows("SELECT seq, reason, convert_from(payload, 'UTF8') FROM rejected.message")
    assert kept == [(2, "conflict", f'[{{"ts":{T0},"n":5.0}}]')]


@pytest.mark.parametrize("kind", ["string", "json"])
async def test_conflicts_of_text_and_json(ledger: Ledger, database: Database, kind: Kind) -> None:
    await ledger.store(batch((header(1), [("m", kind, T0, "one")])))
    stored = await ledger.store(batch((header(2), [("m", kind, T0, "one")]), (header(3), [("m", kind, T0, "two")])))
    (ack,) = await acks_of(stored)
    assert ack["rejected"] == [[3, "conflict"]]
    assert database.value("SELECT value FROM telemetry.latest") == "one"


async def test_a_counted_seq_that_would_add_a_row_is_a_conflict(ledger: Ledger, database: Database) -> None:
    """Fault 19: a cloned card sends another message under a number that is stored."""
    await ledger.store(batch((header(1), [number("n", T0, 1.0)])))
    stored = await ledger.store(batch((header(1), [number("n", T0 + 500, 1.0), number("n", T0, 1.0)])))
    (ack,) = await acks_of(stored)
    assert ack["rejected"] == [[1, "conflict"]]
    assert samples(database) == [("van-1", "n", T0, 1.0)]
    assert database.value("SELECT conflicts FROM telemetry.sequence") == 1


async def test_a_second_kind_of_a_metric_is_its_own_series(ledger: Ledger, database: Database) -> None:
    await ledger.store(batch((header(1), [number("m", T0, 1.0)]), (header(2), [("m", "string", T0, "one")])))
    assert database.rows("SELECT kind, value FROM telemetry.latest ORDER BY kind") == [("number", 1), ("string", "one")]
    assert database.value("SELECT count(*) FROM rejected.message") == 0


@pytest.mark.parametrize(
    ("poison", "reason"),
    [
        (("m", "string", T0, "nul\0"), "bad_value"),
        (("m", "json", T0, {"a": "nul\0"}), "bad_value"),
        (("m", "string", T0, "\ud800"), "bad_value"),
        (("m", "json", T0, ["\ud800"]), "bad_value"),
        (("m", "number", T0, float("nan")), "bad_value"),
        (("m", "number", T0, float("inf")), "bad_value"),
        (("m", "number", T0, -float("inf")), "bad_value"),
        (("m", "number", T0, 10**400), "bad_value"),
        (("m", "number", T0, "text"), "bad_value"),
        (("m", "number", 31_556_889_864_403_199_000, 1.0), "clock_invalid"),
        (("m", "number", 0, 1.0), "clock_invalid"),
    ],
    ids=repr,
)
async def test_one_poison_row_takes_only_itself(ledger: Ledger, database: Database, poison: Any, reason: str) -> None:
    """Fault 10, past ingest's checks: a batch built by hand, since JSON cannot carry most of it."""
    count = 300
    rows: list[Any] = [("n", "number", T0 + i, float(i)) for i in range(count)]
    rows.insert(150, poison)
    headers = [header(seq) for seq in range(1, count + 2)]
    made = SampleBatch(BatchNumber(0, 1, 1), headers, [Samples.of([row]) for row in rows])
    stored = await ledger.store(Work(samples=[(TOPIC, made)]))
    (ack,) = await acks_of(stored)
    assert ack["seq"] == [[1, count + 1]]
    assert ack["rejected"] == [[151, reason]]
    assert [value for *_, value in samples(database)] == [float(i) for i in range(count)]
    assert database.rows("SELECT seq, reason FROM rejected.message") == [(151, reason)]


async def test_gone_is_counted_and_answered(ledger: Ledger, database: Database) -> None:
    stored = await ledger.store(
        batch((header(4), [number("n", T0, 1.0)]), (header(None, gone=[(1, 3)], gone_reason="ring full"), []))
    )
    (ack,) = await acks_of(stored)
    assert ack["gone"] == [[1, 3]]
    state = database.rows("SELECT contiguous_seq, last_seq, missing, gone FROM telemetry.sequence_state")
    assert state == [(4, 4, 0, 3)]
    # What was given up and comes after all is stored, and no longer gone.
    await ledger.store(batch((header(2), [number("n", T0 + 2, 2.0)])))
    assert database.rows("SELECT gone, missing FROM telemetry.sequence_state") == [(2, 0)]
    assert len(samples(database)) == 2


async def test_gaps_older_than_a_minute_are_asked_for_once_in_five_minutes(ledger: Ledger, database: Database) -> None:
    await ledger.store(batch((header(1), []), (header(5), []), (header(6), []), (header(9), [])))

    def age(seconds: int) -> None:
        database.rows(
            "UPDATE telemetry.sequence SET mark_at = mark_at - make_interval(secs => %s),"
            " needed_at = needed_at - make_interval(secs => %s)",
            seconds,
            seconds,
        )

    assert (await ledger.needs())[1] == []
    age(61)
    assert (await ledger.needs())[1] == []  # the gaps are marked now; a minute from now they are old
    age(61)
    key = ("demo", "van-1", "telemetry", 7)
    assert (await ledger.needs())[1] == [(key, [(2, 4), (7, 8)])]
    age(61)
    assert (await ledger.needs())[1] == []
    await ledger.store(batch((header(3), [])))
    age(300)
    assert (await ledger.needs())[1] == [(key, [(2, 2), (4, 4), (7, 8)])]
    await ledger.store(batch(*((header(seq), []) for seq in (2, 4, 7, 8))))
    age(400)
    assert (await ledger.needs())[1] == []
    assert database.rows("SELECT contiguous_seq, missing FROM telemetry.sequence_state") == [(9, 0)]


async def test_a_boot_of_too_many_gaps_is_refused_not_stored_without_bound(
    ledger: Ledger, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SEQUENCE_MAX_RANGES", 3)
    for seq in (2, 4, 6):
        await ledger.store(batch((header(seq), [number("n", T0 + seq, seq)])))
    (ack,) = await acks_of(await ledger.store(batch((header(8), [number("n", T0 + 8, 8.0)]))))
    assert ack["rejected"] == [[8, "too_many_gaps"]]
    assert len(samples(database)) == 3
    assert database.value("SELECT stored::text FROM telemetry.sequence") == "{[2,3),[4,5),[6,7)}"


async def test_a_device_may_have_a_thousand_metrics(
    ledger: Ledger, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DEVICE_MAX_METRICS", 2)
    stored = await ledger.store(batch((header(1), [number(m, T0, 1.0) for m in ("a", "b", "c")])))
    (ack,) = await acks_of(stored)
    assert ack["rejected"] == [[1, "too_many_metrics"]]
    assert [metric for _, metric, *_ in samples(database)] == ["a", "b"]
    await ledger.store(batch((header(1, device="van-2"), [number("c", T0, 1.0)])))
    assert len(samples(database)) == 3


async def test_refused_by_ingest_travels_and_is_acknowledged_with_its_reason(
    ledger: Ledger, database: Database
) -> None:
    (ack,) = await acks_of(await ledger.store(batch((header(1, reasons=["no_time"]), []))))
    assert ack["seq"] == [[1, 1]]
    assert ack["rejected"] == [[1, "no_time"]]
    assert database.rows("SELECT contiguous_seq, rejected FROM telemetry.sequence_state") == [(1, 1)]


async def test_old_and_new_days_get_their_partitions(ledger: Ledger, database: Database) -> None:
    day = 86_400_000
    now = database.value("SELECT (extract(epoch FROM now()) * 1000)::bigint")
    times = [limits.TIME_MIN_MS, now - 400 * day, now - 29 * day, now - 2 * day, now, now + 200_000]
    await ledger.store(batch((header(1), [number("n", ts, float(i)) for i, ts in enumerate(times)])))
    assert [ts for _, _, ts, _ in samples(database)] == times


@pytest.mark.parametrize("migrated", ["migrated"], indirect=True)  # hypertables make their own partitions
async def test_a_partition_dropped_meanwhile_is_made_again(ledger: Ledger, database: Database) -> None:
    now = database.value("SELECT (extract(epoch FROM now()) * 1000)::bigint")
    await ledger.store(batch((header(1), [number("n", now, 1.0)])))
    part = database.value("SELECT tableoid::regclass::text FROM telemetry.sample")
    database.rows(f"DROP TABLE {part}")
    with pytest.raises(Transient, match="partition"):
        await ledger.store(batch((header(2), [number("n", now, 2.0)])))
    await ledger.store(batch((header(2), [number("n", now, 2.0)])))
    assert [value for *_, value in samples(database)] == [2.0]


async def test_events_are_stored_once_and_other_content_under_their_number_conflicts(
    ledger: Ledger, database: Database
) -> None:
    def event(seq: int | None, text: str) -> Work:
        boot = 7 if seq else None
        made = RecordBatch(
            BatchNumber(0, 1, 1),
            [Header("demo", "van-1", "event", boot, seq, T0)],
            [[Record(T0, "crash", text, {"g": 4.2})]],
        )
        return Work(events=[("outrider/v1/events/0", made)])

    for text, expected in (("hard", []), ("hard", []), ("soft", [[1, "conflict"]])):
        (ack,) = await acks_of(await ledger.store(event(1, text)))
        assert ack["seq"] == [[1, 1]]
        assert ack["rejected"] == expected
    assert database.rows("SELECT type, message, fields FROM telemetry.event") == [("crash", "hard", {"g": 4.2})]
    assert database.rows("SELECT stream, reason FROM rejected.message") == [("event", "conflict")]
    await ledger.store(event(None, "x"))
    await ledger.store(event(None, "x"))
    assert database.value("SELECT count(*) FROM telemetry.event") == 3


async def test_depth_is_published_minus_committed(ledger: Ledger, database: Database) -> None:
    database.rows("SELECT runtime.declare_slots('writer-timeseries', 4)")
    database.rows("INSERT INTO runtime.published (producer_slot, epoch, topic, number) VALUES (0, 1, %s, 9)", TOPIC)
    depth = "SELECT batches FROM runtime.depth WHERE topic = %s"
    assert database.value(depth, TOPIC) == 9
    await ledger.store(batch((header(1), []), n=4))
    assert database.value(depth, TOPIC) == 5
    await ledger.store(batch((header(1), []), n=3))  # redelivered: the newest counts
    assert database.value(depth, TOPIC) == 5
    await ledger.store(batch((header(2), []), n=1, epoch=2))  # a new epoch ends the wait for the old one's tail
    assert database.value(depth, TOPIC) == 0


async def test_the_ledger_gets_a_new_id_when_the_database_is_another_one(ledger: Ledger, database: Database) -> None:
    first = await ledger.store(batch((header(1), [number("n", T0, 1.0)])))
    assert (await ledger.store(batch((header(1), [number("n", T0, 1.0)])))).ledger == first.ledger
    database.rows("UPDATE telemetry.ledger SET cluster = 'the cluster the backup was taken from'")
    again = batch((header(1), [number("n", T0, 1.0)]))
    with pytest.raises(Transient, match="restored"):
        await ledger.store(again)
    renewed = await ledger.store(again)
    assert renewed.ledger != first.ledger
    assert (await ledger.store(again)).ledger == renewed.ledger


async def test_no_slot_stores_by_what_it_knew_before_a_restore(ledger: Ledger, database: Database) -> None:
    """The slots of a process share the map of series: that one of them saw the restore does not renew the others' ids."""
    first = await ledger.store(batch((header(1), [number("n", T0, 1.0)])))
    database.rows("UPDATE telemetry.ledger SET cluster = 'the cluster the backup was taken from'")
    works = [batch((header(seq), [number("n", T0 + seq, 1.0)]), n=seq) for seq in range(2, 6)]
    outcomes = await asyncio.gather(*(ledger.store(work) for work in works), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Transient] * 4
    assert len(samples(database)) == 1
    renewed = [await ledger.store(work) for work in works]
    assert {stored.ledger for stored in renewed} != {first.ledger}
    assert len(samples(database)) == 5


async def test_a_transaction_that_waited_for_another_sees_what_that_one_stored(
    ledger: Ledger, database: Database
) -> None:
    accounting = Accounting("telemetry", "writer-timeseries")
    headers = [header(1), header(2)]

    async def second() -> Verdicts:
        async with ledger._database.transaction() as connection:
            return await judge(connection, accounting, headers)

    async with ledger._database.transaction() as connection:
        verdicts = await judge(connection, accounting, headers[:1])
        assert not verdicts.stale
        waiting = asyncio.create_task(second())
        blocked = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        await eventually(lambda: database.value(blocked) == 1)
        await accounting.count(connection, count(verdicts))
    assert (await waiting).stale == {0}


async def test_a_lost_commit_reply_changes_nothing_on_the_second_try(ledger: Ledger, database: Database) -> None:
    """Fault 12: whether or not the transaction was committed, the same batch may come again."""
    work = batch((header(1), [number("n", T0, 1.0)]), (header(2), [("s", "string", T0, "x")]))
    storing = [asyncio.create_task(ledger.store(work)) for _ in range(4)]
    await asyncio.gather(*storing)
    assert samples(database) == [("van-1", "n", T0, 1.0)]
    assert database.value("SELECT duplicates FROM telemetry.sequence") == 6


async def test_a_read_only_database_is_transient(ledger: Ledger, database: Database) -> None:
    await ledger.store(batch((header(1), [number("n", T0, 1.0)])))
    name = database.value("SELECT current_database()")
    database.rows(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    database.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ledger-test'")
    with pytest.raises(Transient):
        await ledger.store(batch((header(2), [number("n", T0 + 1, 2.0)])))
    with psycopg.connect(database.admin_url, autocommit=True, options="-c default_transaction_read_only=off") as admin:
        admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = off".encode())
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ledger-test'")
    await ledger.store(batch((header(2), [number("n", T0 + 1, 2.0)])))
    assert len(samples(database)) == 2


async def test_the_writers_role_can_neither_change_nor_remove_what_is_stored(
    ledger: Ledger, database: Database
) -> None:
    await ledger.store(batch((header(1), [number("n", T0, 1.0)])))
    with psycopg.connect(database.service_urls["writer-timeseries"], autocommit=True) as connection:
        for statement in (
            "UPDATE telemetry.sample SET value = 0",
            "DELETE FROM telemetry.sample",
            "TRUNCATE telemetry.sample",
            "DELETE FROM telemetry.sequence",
            "DELETE FROM rejected.message",
            "SELECT * FROM rejected.message",
            "INSERT INTO rejected.quota DEFAULT VALUES",
            "UPDATE telemetry.boot SET anchor_ms = 0",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())


async def test_a_killed_database_is_transient_and_then_works(own_postgres: Postgres, own_database: Database) -> None:
    pool = Pool(own_database.service_urls["writer-timeseries"], "ledger-test")
    await pool.open()
    ledger = Ledger(pool, "writer-timeseries", 10_000)
    await ledger.store(batch((header(1), [number("n", T0, 1.0)])))
    await asyncio.to_thread(own_postgres.kill)
    with pytest.raises(Transient):
        await ledger.store(batch((header(2), [number("n", T0 + 1, 2.0)])))
    await asyncio.to_thread(own_postgres.start)
    await eventually(lambda: own_database.value("SELECT true"))
    await ledger.store(batch((header(2), [number("n", T0 + 1, 2.0)])))
    assert len(samples(own_database)) == 2
    await pool.close()


ERASE = "SELECT telemetry.erase_device('demo', 'van-1')"


async def test_no_slot_stores_by_what_it_knew_before_an_erasure(ledger: Ledger, database: Database) -> None:
    """The slots of a process share the tombstones: that one of them read a new one does not sort the others' batches."""
    await ledger.store(batch((header(1), [number("n", T0, 1.0)]), (header(1, device="van-2"), [number("n", T0, 1.0)])))
    find, found, go_on = ledger._series.of, asyncio.Event(), asyncio.Event()

    async def slow(messages: Sequence[tuple[Header, Any]]) -> Any:
        ids = await find(messages)
        if not found.is_set():
            found.set()
            await go_on.wait()
        return ids

    ledger._series.of = slow  # type: ignore[method-assign]
    storing = asyncio.create_task(ledger.store(batch((header(2), [number("n", T0 + 1, 2.0)]))))
    await found.wait()
    database.rows("INSERT INTO runtime.tombstone (device, tenant) VALUES ('van-1', 'demo')")
    database.rows(ERASE)
    await ledger.store(batch((header(2, device="van-2"), [number("n", T0 + 1, 2.0)])))
    go_on.set()
    assert [one.device for one in (await storing).verdicts[0].erased] == ["van-1"]
    assert database.value("SELECT count(*) FROM telemetry.sample") == 2, "only van-2's"


async def test_a_device_that_comes_back_after_an_erasure_is_seen_again(ledger: Ledger, database: Database) -> None:
    """Without a tombstone, too: its id had gone to another tenant, and that one gave it back."""
    await ledger.store(batch((header(1), [number("n", T0, 1.0)])))
    database.rows(ERASE)
    await ledger.store(batch((header(1, boot=8), [number("n", T0 + 1, 2.0)])))
    assert samples(database) == [("van-1", "n", T0 + 1, 2.0)]
