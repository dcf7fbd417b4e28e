"""Log lines on a real PostgreSQL: exactly once where numbered, conflicts named, poison kept alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from outrider.contract import limits
from outrider.contract.batch import BatchNumber, Header, Record, RecordBatch
from outrider.runtime import records
from outrider.runtime.acks import Acknowledger
from outrider.runtime.database import Database as Pool
from outrider.runtime.errors import Transient
from outrider.runtime.verdicts import Verdicts, acknowledge
from outrider.testing.fixtures import Database
from outrider_writer_logs.store import LogStore

T0 = 1_790_000_000_000
TOPIC = "outrider/v1/logs/0"


@pytest.fixture
async def store(database: Database) -> AsyncIterator[LogStore]:
    pool = Pool(database.service_urls["writer-logs"], "store-test")
    await pool.open()
    yield LogStore(pool, "writer-logs")
    await pool.close()


def header(seq: int | None, boot: int | None = 7, device: str = "van-1", **more: Any) -> Header:
    return Header("demo", device, "log", boot if seq or more.get("gone") else None, seq, T0, **more)


def line(text: str, ts: int = T0, level: str = "info", **fields: Any) -> Record:
    return Record(ts, level, text, fields)


def batch(*messages: tuple[Header, list[Record]], n: int = 1, epoch: int = 1) -> list[tuple[str, RecordBatch]]:
    made = RecordBatch(BatchNumber(0, epoch, n), [h for h, _ in messages], [records for _, records in messages])
    return [(TOPIC, made)]


async def acks_of(stored: tuple[str, Verdicts, int]) -> list[dict[str, Any]]:
    published: list[dict[str, Any]] = []

    async def publish(messages: Sequence[tuple[str, bytes]]) -> None:
        published.extend(json.loads(payload) for _, payload in messages)

    ledger, verdicts, _ = stored
    acknowledger = Acknowledger(publish)
    acknowledge(verdicts, acknowledger, ledger)
    await acknowledger.flush()
    return published


def lines(database: Database) -> list[tuple[Any, ...]]:
    return database.rows(
        "SELECT seq, item, (extract(epoch FROM ts) * 1000)::bigint, level, message, fields FROM logs.line"
        " ORDER BY ts, seq, item"
    )


def texts(database: Database) -> list[str]:
    return [text for *_, text, _ in lines(database)]


async def test_a_line_is_stored_with_everything_it_carries(store: LogStore, database: Database) -> None:
    fields = {"rssi": -97, "nested": {"a": [1, None, "D'\\\t\n€"]}}
    _, _, count = await store.store(batch((header(1), [line("tab\tquote'\\€\n", level="warning", **fields), line("")])))
    assert count == 2
    assert lines(database) == [(1, 0, T0, "warning", "tab\tquote'\\€\n", fields), (1, 1, T0, "info", "", {})]
    assert database.rows("SELECT DISTINCT tenant, device, boot FROM logs.line") == [("demo", "van-1", 7)]


async def test_redelivery_of_a_batch_adds_nothing_and_is_acknowledged_again(
    store: LogStore, database: Database
) -> None:
    work = batch((header(1), [line("a"), line("a")]), (header(2), [line("b", T0 + 1, x=1)]))
    first = await acks_of(await store.store(work))
    again = await acks_of(await store.store(work))
    assert first[0]["seq"] == again[0]["seq"] == [[1, 2]]
    assert first[0]["rejected"] == again[0]["rejected"] == []
    assert texts(database) == ["a", "a", "b"]
    assert database.rows("SELECT duplicates, conflicts FROM logs.sequence") == [(2, 0)]


async def test_one_message_twice_in_a_batch_is_stored_once(store: LogStore, database: Database) -> None:
    (ack,) = await acks_of(await store.store(batch((header(1), [line("a")]), (header(1), [line("a")]))))
    assert (ack["seq"], ack["rejected"]) == ([[1, 1]], [])
    assert texts(database) == ["a"]


@pytest.mark.parametrize(
    "other",
    [
        [line("b")],
        [line("a", level="error")],
        [line("a", x=2)],
        [line("a", T0 + 1)],
        [line("a", x=1), line("more")],
    ],
    ids=["text", "level", "fields", "time", "another line"],
)
async def test_other_content_under_a_stored_number_is_a_conflict(
    store: LogStore, database: Database, other: list[Record]
) -> None:
    """Fault 19: a cloned card."""
    await store.store(batch((header(1), [line("a", x=1)])))
    (ack,) = await acks_of(await store.store(batch((header(1), other), (header(2), [line("good", T0 + 9)]))))
    assert ack["seq"] == [[1, 2]]
    assert ack["rejected"] == [[1, "conflict"]]
    assert texts(database) == ["a", "good"]
    assert database.rows("SELECT conflicts FROM logs.sequence") == [(1,)]
    ((seq, reason, topic, payload),) = database.rows("SELECT seq, reason, topic, payload FROM rejected.message")
    assert (seq, reason, topic) == (1, "conflict", "fleet/v1/demo/van-1/log")
    assert [part["msg"] for part in json.loads(payload)] == [record.text for record in other]


async def test_equal_lines_of_different_numbers_are_both_stored(store: LogStore, database: Database) -> None:
    await store.store(batch((header(1), [line("a")]), (header(2), [line("a")]), (header(1, boot=8), [line("a")])))
    assert texts(database) == ["a", "a", "a"]


async def test_unnumbered_lines_are_stored_at_least_once(store: LogStore, database: Database) -> None:
    work = batch((header(None), [line("a")]))
    assert await acks_of(await store.store(work)) == []
    await store.store(work)
    assert texts(database) == ["a", "a"]
    assert database.rows("SELECT boot, seq FROM logs.line") == [(None, None)] * 2
    assert database.value("SELECT count(*) FROM logs.sequence") == 0


POISON = [
    (line("nul\0"), "bad_value"),
    (line("\ud800"), "bad_value"),
    (line("x", level="nul\0"), "bad_value"),
    (line("x", field="nul\0"), "bad_value"),
    (line("x", field="\ud800"), "bad_value"),
    (line("x", ts=0), "clock_invalid"),
    (line("x", ts=31_556_889_864_403_199_000), "clock_invalid"),
]


@pytest.mark.parametrize(("poison", "reason"), POISON, ids=[repr(poison)[:60] for poison, _ in POISON])
async def test_one_poison_line_takes_only_itself(
    store: LogStore, database: Database, poison: Record, reason: str
) -> None:
    """Fault 10, past ingest's checks."""
    messages = [(header(seq), [line(str(seq), T0 + seq)]) for seq in range(1, 102)]
    messages[50][1].extend([poison, line("beside", T0 + 51, level="info"), poison])
    expected = [str(seq) for seq in range(1, 52)] + ["beside"] + [str(seq) for seq in range(52, 102)]
    for _ in range(2):  # also when it is delivered again
        (ack,) = await acks_of(await store.store(batch(*messages)))
        assert ack["seq"] == [[1, 101]]
        assert ack["rejected"] == [[51, reason]]
        assert texts(database) == expected
        ((seq, kept, payload),) = database.rows("SELECT seq, reason, payload FROM rejected.message")
        assert (seq, kept) == (51, reason)
        assert len(json.loads(payload)) == 2
    assert database.rows("SELECT conflicts, rejected FROM logs.sequence") == [(0, 1)]


async def test_odd_numbers_in_fields_are_stored(store: LogStore, database: Database) -> None:
    await store.store(batch((header(1), [line("a", big=10**400, on=True)])))
    assert database.rows("SELECT fields->>'big', fields->'on' FROM logs.line") == [(str(10**400), True)]


async def test_gone_is_counted_and_answered(store: LogStore, database: Database) -> None:
    work = batch((header(4), [line("a")]), (header(None, gone=[(1, 3)], gone_reason="ring full"), []))
    (ack,) = await acks_of(await store.store(work))
    assert (ack["stream"], ack["seq"], ack["gone"]) == ("log", [[4, 4]], [[1, 3]])
    state = "SELECT contiguous_seq, last_seq, missing, gone FROM logs.sequence_state"
    assert database.rows(state) == [(4, 4, 0, 3)]
    await store.store(batch((header(2), [line("after all", T0 + 1)])))
    assert database.rows(state) == [(4, 4, 0, 2)]


async def test_gaps_older_than_a_minute_are_asked_for(store: LogStore, database: Database) -> None:
    ledger, _, _ = await store.store(batch((header(1), []), (header(5), [])))

    def age(seconds: int) -> None:
        database.rows("UPDATE logs.sequence SET mark_at = mark_at - make_interval(secs => %s)", seconds)

    assert await store.needs() == (ledger, [])
    age(61)
    assert await store.needs() == (ledger, [])  # seen now; old in a minute
    age(61)
    assert await store.needs() == (ledger, [(("demo", "van-1", "log", 7), [(2, 4)])])
    age(61)
    assert await store.needs() == (ledger, [])  # at most every five minutes


async def test_too_many_gaps_are_refused(store: LogStore, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SEQUENCE_MAX_RANGES", 2)
    for seq in (2, 4):
        await store.store(batch((header(seq), [line(str(seq))])))
    (ack,) = await acks_of(await store.store(batch((header(6), [line("6")]))))
    assert ack["rejected"] == [[6, "too_many_gaps"]]
    assert texts(database) == ["2", "4"]


async def test_refused_by_ingest_is_acknowledged_with_its_reason(store: LogStore, database: Database) -> None:
    (ack,) = await acks_of(await store.store(batch((header(1, reasons=["bad_value"]), [line("the good line")]))))
    assert (ack["seq"], ack["rejected"]) == ([[1, 1]], [[1, "bad_value"]])
    assert texts(database) == ["the good line"]


async def test_old_and_new_days_get_their_partitions(store: LogStore, database: Database) -> None:
    day = 86_400_000
    now = database.value("SELECT (extract(epoch FROM now()) * 1000)::bigint")
    times = [limits.TIME_MIN_MS, now - 400 * day, now - 2 * day, now, now + 200_000]
    await store.store(batch((header(1), [line(str(i), ts) for i, ts in enumerate(times)])))
    assert [ts for _, _, ts, *_ in lines(database)] == times


async def test_a_partition_dropped_meanwhile_is_made_again(store: LogStore, database: Database) -> None:
    now = database.value("SELECT (extract(epoch FROM now()) * 1000)::bigint")
    await store.store(batch((header(1), [line("a", now)])))
    database.rows(f"DROP TABLE {database.value('SELECT tableoid::regclass::text FROM logs.line')}")
    with pytest.raises(Transient, match="partition"):
        await store.store(batch((header(2), [line("b", now)])))
    await store.store(batch((header(2), [line("b", now)])))
    assert texts(database) == ["b"]


async def test_storing_the_same_batch_at_once_from_many_sides_stores_it_once(
    store: LogStore, database: Database
) -> None:
    work = batch((header(1), [line("a")]), (header(2), [line("b", T0 + 1)]))
    await asyncio.gather(*(store.store(work) for _ in range(4)))
    assert texts(database) == ["a", "b"]
    assert database.value("SELECT duplicates FROM logs.sequence") == 6


async def test_committed_numbers_give_the_depth(store: LogStore, database: Database) -> None:
    database.rows("SELECT runtime.declare_slots('writer-logs', 4)")
    database.rows("INSERT INTO runtime.published (producer_slot, epoch, topic, number) VALUES (0, 1, %s, 9)", TOPIC)
    await store.store(batch((header(1), []), n=4))
    assert database.rows("SELECT group_name, batches FROM runtime.depth") == [("writer-logs", 5)]


async def test_the_role_can_neither_change_nor_remove_what_is_stored(store: LogStore, database: Database) -> None:
    await store.store(batch((header(1), [line("a")])))
    with psycopg.connect(database.service_urls["writer-logs"], autocommit=True) as connection:
        for statement in (
            "UPDATE logs.line SET message = ''",
            "DELETE FROM logs.line",
            "TRUNCATE logs.line",
            "DELETE FROM logs.sequence",
            "SELECT * FROM telemetry.boot",  # another service's; there also where only writer-logs is installed
            "SELECT * FROM rejected.message",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())


async def test_a_writer_whose_clock_is_behind_notes_what_comes_too_late(
    store: LogStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database's clock says which days are gone; by the writer's, nothing of the line's day can be."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    database.rows("SELECT runtime.raise_horizon('logs.line', '*', %s)", today - timedelta(days=1))
    late_ms = int((today - timedelta(days=1, minutes=1)).timestamp() * 1000)
    monkeypatch.setattr(records, "time", SimpleNamespace(time=lambda: late_ms / 1000 + 22 * 3600))
    await store.store(batch((header(1), [line("late", late_ms)])))
    assert database.rows("SELECT name, tenant, day FROM runtime.expired") == [
        ("logs.line", "demo", (today - timedelta(days=2)).date())
    ]
