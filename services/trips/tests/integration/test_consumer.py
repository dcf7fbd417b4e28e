"""trips under the behaviour suite of every consumer."""

from __future__ import annotations

import zlib
from collections import Counter

from outrider.contract.batch import BatchNumber, Header, Samples, encode_samples
from outrider.testing.consumer_contract import ConsumerContract
from outrider.testing.fixtures import Database
from outrider.testing.services import Client
from outrider_trips.app import service

T0 = 1_790_000_000_000


class TestTrips(ConsumerContract):
    """Inputs are bus batches of one speed each."""

    service = service

    async def publish(self, client: Client, number: int) -> None:
        device = f"van-{number % 7}"
        header = Header("demo", device, "telemetry", 1, number + 1, T0)
        samples = Samples.of([("speed_kmh", "number", T0 + number, number / 10)])
        payload = encode_samples(BatchNumber(0, 1, number + 1), [(header, samples)])
        await client.publish(f"outrider/v1/samples/{zlib.crc32(device.encode()) % 4}", payload)

    async def publish_poison(self, client: Client) -> None:
        await client.publish("outrider/v1/samples/0", b'{"v":2,"stream":"telemetry","samples":"none"}')

    def stored(self, database: Database) -> Counter[int]:
        return Counter(round(speed * 10) for (speed,) in database.rows("SELECT speed_kmh FROM trips.position"))
