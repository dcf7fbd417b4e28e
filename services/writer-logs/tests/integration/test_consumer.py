"""writer-logs under the behaviour suite of every consumer."""

from __future__ import annotations

from collections import Counter

from outrider.contract.batch import BatchNumber, Header, Record, encode_records
from outrider.testing.consumer_contract import ConsumerContract
from outrider.testing.fixtures import Database
from outrider.testing.services import Client
from outrider_writer_logs.app import service

T0 = 1_790_000_000_000


class TestWriterLogs(ConsumerContract):
    """Inputs are bus batches of one line each."""

    service = service

    async def publish(self, client: Client, number: int) -> None:
        header = Header("demo", f"van-{number % 7}", "log", 1, number + 1, T0)
        records = [Record(T0 + number, "info", str(number), {})]
        payload = encode_records(BatchNumber(0, 1, number + 1), [(header, records)])
        await client.publish(f"outrider/v1/logs/{number % 4}", payload)

    async def publish_poison(self, client: Client) -> None:
        await client.publish("outrider/v1/logs/0", b"\xff\x00 not a batch")

    def stored(self, database: Database) -> Counter[int]:
        return Counter(int(message) for (message,) in database.rows("SELECT message FROM logs.line"))
