"""Which acks are an upload's own. A link that publishes nowhere stands for the broker; the clock is real and nothing waits."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from outrider.runtime.database import Database
from outrider.runtime.errors import NotStored
from outrider_gateway.errors import Unavailable
from outrider_gateway.limits import InHand
from outrider_gateway.link import Line, Link
from outrider_gateway.uploads import Receipt, Uploads


class Deaf(Link):
    """Takes everything, answers nothing."""

    def __init__(self) -> None:
        super().__init__("mqtt://127.0.0.1:1", lambda: None)
        self.published: list[tuple[str, bytes, tuple[tuple[str, str], ...]]] = []
        self.came = asyncio.Event()
        self.refuse: Callable[[], None] = lambda: None

    async def publish(
        self, line: Line | None, topic: str, payload: bytes, user_properties: Sequence[tuple[str, str]] = ()
    ) -> None:
        self.published.append((topic, payload, tuple(user_properties)))
        self.came.set()
        self.refuse()

    def say(self, **ack: Any) -> None:
        """An ack of the device."""
        self._lines["fleet/v1/acme/van/ack"].heard({"stream": "telemetry", "ledger": "l", "seq": [], **ack})


@pytest.fixture
async def uploads() -> AsyncIterator[Uploads]:
    database = Database("postgresql://127.0.0.1:1/none", "test")
    made = Uploads("mqtt://127.0.0.1:1", database, InHand(64, 64, 64, 10**6), ack_timeout_s=5)
    made.link = Deaf()
    yield made
    for task in made._tasks:
        task.cancel()
    await asyncio.gather(*made._tasks, return_exceptions=True)


async def sent(uploads: Uploads) -> tuple[Deaf, asyncio.Task[Receipt]]:
    link = uploads.link
    assert isinstance(link, Deaf)
    task = asyncio.create_task(uploads.send("acme", "van", "telemetry", b'{"n":1}'))
    await link.came.wait()
    return link, task


async def test_its_own_ack_ends_it(uploads: Uploads) -> None:
    link, task = await sent(uploads)
    assert [name for name, _ in link.published[0][2]] == ["outrider-boot", "outrider-seq", "outrider-ts"]
    link.say(boot=uploads.boot, seq=[[1, 3]], rejected=[[1, "conflict"], [2, "bad_name"]])
    assert await task == Receipt("telemetry", uploads.boot, 1, "l", ("conflict",))
    await asyncio.gather(*uploads._tasks)
    assert (uploads.in_hand.uploads, uploads._of_device) == (0, {})


@pytest.mark.parametrize(
    "ack",
    [
        {"boot": -1, "seq": [[1, 1]]},
        {"stream": "log", "seq": [[1, 1]]},
        {"seq": [[2, 9]]},
        {"seq": [], "need": [[1, 1]]},
        {"gone": [[1, 1]]},
        {"digest": [["0" * 16, "not_json"]]},
    ],
)
async def test_acks_of_others_do_not(uploads: Uploads, ack: dict[str, Any]) -> None:
    link, task = await sent(uploads)
    link.say(**{"boot": uploads.boot, **ack})
    (upload,) = uploads._of_device["acme", "van"].values()
    assert not upload.ended
    link.say(boot=uploads.boot, seq=[[1, 1]])
    assert (await task).reasons == ()


async def test_an_ack_by_digest_ends_it_as_refused(uploads: Uploads) -> None:
    link, task = await sent(uploads)
    link.say(digest=[[hashlib.sha256(b'{"n":1}').hexdigest()[:16], "wrong_tenant"]])
    assert (await task).reasons == ("wrong_tenant",)


async def test_a_resend_is_the_same_bytes_and_the_same_number(uploads: Uploads) -> None:
    link, task = await sent(uploads)
    link.came.clear()
    uploads._resend()  # as after a reconnect
    await link.came.wait()
    assert link.published[0] == link.published[1]
    link.say(boot=uploads.boot, seq=[[1, 1]])
    await task
    assert len(link.published) == 2


async def test_a_503_says_why(uploads: Uploads) -> None:
    uploads._ack_timeout_s = 0.05
    link = uploads.link
    assert isinstance(link, Deaf)

    def refuse() -> None:
        raise NotStored("nobody subscribes to fleet/v1/acme/van/telemetry")

    link.refuse = refuse
    with pytest.raises(Unavailable, match="nobody subscribes") as caught:
        await uploads.send("acme", "van", "telemetry", b"{}")
    assert (caught.value.extra["seq"], caught.value.headers["Retry-After"]) == (1, "30")
    assert uploads.in_hand.uploads == 1  # it is sent on


async def test_uploads_of_a_device_have_numbers_and_times_of_their_own(uploads: Uploads) -> None:
    given = [uploads._next("acme", "van", "telemetry") for _ in range(100)]
    assert [seq for seq, _ in given] == list(range(1, 101))
    assert len({ts for _, ts in given}) == 100
    assert uploads._next("acme", "van", "log")[0] == uploads._next("acme", "car", "telemetry")[0] == 1
