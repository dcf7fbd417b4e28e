"""Uploads on their way to the ledger: numbered here, published in the device's name, done when the application ack came.

An upload that got no ack stays in hand and is sent again, byte for byte, as delivery rule 3 says; its sender was told 503.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson
from prometheus_client import Counter, Histogram

from outrider.contract import envelope, limits
from outrider.contract.batch import Stream
from outrider.runtime.backoff import Backoff
from outrider.runtime.database import Database
from outrider.runtime.errors import Transient
from outrider_gateway.errors import Invalid, Unavailable
from outrider_gateway.house import TOPIC, House
from outrider_gateway.limits import InHand
from outrider_gateway.link import Link
from outrider_gateway.store import uploads as store
from outrider_gateway.store.processes import Gap

log = logging.getLogger(__name__)

UPLOADS = Counter("outrider_gateway_uploads", "Uploads by stream and outcome", ["stream", "outcome"])
ACK_SECONDS = Histogram(
    "outrider_gateway_ack_seconds",
    "From an upload's arrival to its ack",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300),
)
RESENT = Counter("outrider_gateway_resent", "Uploads published again")

RETRY_MAX_S = 5.0
RECONNECTED_RESEND_S = 3.0
RETRY_AFTER_S = 30
"""As long as a device would wait before it sends again (delivery rule 3)."""
STOP_S = 2.0


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of an upload: it is stored, and kept where parts of it, or all, were refused."""

    stream: str
    boot: int
    seq: int
    ledger: str | None
    reasons: tuple[str, ...]
    replayed: bool = False
    """An earlier request with its Idempotency-Key got this already."""


class Upload:
    """One numbered message in hand."""

    __slots__ = (
        "boot",
        "changed",
        "device",
        "ended",
        "gone",
        "payload",
        "problem",
        "properties",
        "receipt",
        "resend_s",
        "seq",
        "settled",
        "since_s",
        "size",
        "stream",
        "tenant",
        "topic",
    )

    def __init__(self, tenant: str, device: str, stream: str, boot: int, seq: int, payload: bytes, ts: int) -> None:
        self.tenant = tenant
        self.device = device
        self.stream = stream
        self.boot = boot
        self.seq = seq
        self.payload = payload
        self.size = len(payload)
        self.topic = TOPIC[stream].name(tenant=tenant, device=device)
        self.properties = envelope.user_properties(boot, seq, ts)
        self.since_s = time.monotonic()
        self.changed = asyncio.Event()
        """It ended, or there is reason to send it again at once."""
        self.receipt: Receipt | None = None
        self.settled = asyncio.Event()
        """There is a receipt."""
        self.gone = False
        """Given up: what is sent is that its number is gone."""
        self.ended = False
        """Nothing is to be sent any more."""
        self.problem = "no ack came"
        self.resend_s = float(limits.RESEND_FIRST_S)
        """Without an ack it is published again after so long; then after twice as long (delivery rule 3)."""

    @property
    def key(self) -> tuple[str, int, int]:
        """What its ack names."""
        return self.stream, self.boot, self.seq

    def end(self, receipt: Receipt | None) -> None:
        """It is acked, as stored (with its receipt) or as gone; or another one with its number took its place."""
        self.ended = True
        self.receipt = receipt
        if receipt is not None:
            self.settled.set()
        self.changed.set()

    def give_up(self, reason: str) -> None:
        """From now on it is said that its number is gone (delivery rule 6)."""
        document = {"boot": self.boot, "gone": [[self.seq, self.seq]], "reason": reason}
        self.payload, self.size, self.properties, self.gone = orjson.dumps(document), 0, [], True


class Uploads:
    """Everything this process has in hand."""

    def __init__(
        self,
        url: str,
        database: Database,
        in_hand: InHand,
        *,
        replica: str = "",
        ack_timeout_s: float = 10.0,
        give_up_s: float = 3600.0,
        boot: int | None = None,
    ) -> None:
        """`boot`: of this process's numbers; by default a random one."""
        self.boot = boot or secrets.randbelow(limits.NUMBER_MAX) + 1
        self.link = Link(url, self._resend)
        self.in_hand = in_hand
        self.house = House(database, self.link, self.boot, replica, self._has)
        self._database = database
        self._ack_timeout_s = ack_timeout_s
        self._give_up_s = give_up_s
        self._last: dict[tuple[str, str, str], tuple[int, int]] = {}
        """Per tenant, device and stream the number and the time that were given last."""
        self._of_device: dict[tuple[str, str], dict[tuple[str, int, int], Upload]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def send(
        self, tenant: str, device: str, stream: Stream, payload: bytes, idempotency_key: str | None = None
    ) -> Receipt:
        """Number it, publish it and wait for its ack.

        Raises TooMany past a limit, Invalid for a key that stands for other bytes, Unavailable when no ack came in time: it
        is then still in hand and sent again. Raises Transient where its key cannot be looked up; nothing was sent then.
        """
        self.in_hand.take(tenant, device, len(payload))
        taken = True
        try:
            if idempotency_key is None:
                boot, (seq, ts) = self.boot, self._next(tenant, device, stream)
            else:
                claimed = await self._claim(tenant, device, stream, payload, idempotency_key)
                if claimed.outcome is not None:
                    UPLOADS.labels(stream, "replayed").inc()
                    return Receipt(stream, claimed.boot, claimed.seq, **_of(claimed.outcome), replayed=True)
                boot, seq, ts = claimed.boot, claimed.seq, claimed.ts
            upload = self._of_device.get((tenant, device), {}).get((stream, boot, seq))
            if upload is None or upload.gone:
                if upload is not None:
                    upload.end(None)
                upload = Upload(tenant, device, stream, boot, seq, payload, ts)
                self._start(upload)
                taken = False  # the upload gives it back
        finally:
            if taken:
                self.in_hand.give_back(tenant, device, len(payload))
        receipt = await self._wait(upload)
        if idempotency_key is not None:
            outcome = {"ledger": receipt.ledger, "reasons": receipt.reasons}
            with suppress(Transient):  # a retry is then sent again under its number, and acked again
                await store.settle(self._database, tenant, device, idempotency_key, (boot, seq), outcome)
        return receipt

    async def _wait(self, upload: Upload) -> Receipt:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._ack_timeout_s):
                await upload.settled.wait()
        if upload.receipt is None:
            UPLOADS.labels(upload.stream, "no_ack").inc()
            raise Unavailable(
                f"It is not stored yet after {self._ack_timeout_s:g} s ({upload.problem}), and is sent on until it is. Send it "
                "again later: with the same Idempotency-Key, or with times in it, it is stored once.",
                RETRY_AFTER_S,
                stream=upload.stream,
                boot=upload.boot,
                seq=upload.seq,
            )
        UPLOADS.labels(upload.stream, "refused" if upload.receipt.reasons else "stored").inc()
        ACK_SECONDS.observe(time.monotonic() - upload.since_s)
        return upload.receipt

    async def _claim(self, tenant: str, device: str, stream: Stream, payload: bytes, key: str) -> store.Claimed:
        """The number of this key: the one it has, in whatever replica it got it, or a new one."""
        digest = hashlib.sha256(stream.encode() + b"\0" + payload).digest()
        found = await store.find(self._database, tenant, device, key)
        if found is None:
            seq, ts = self._next(tenant, device, stream)
            new = store.Claimed(stream, self.boot, seq, ts, digest, None)
            try:
                if await store.claim(self._database, tenant, device, key, new):
                    return new
            except BaseException:
                # Whether the row is there, nobody knows; if it is, a retry sends the number after all.
                self._declare_gone(tenant, device, stream, new.seq, "its Idempotency-Key could not be kept")
                raise
            self._declare_gone(tenant, device, stream, new.seq, "its Idempotency-Key was used at the same time")
            found = await store.find(self._database, tenant, device, key)
            if found is None:
                raise Unavailable("The Idempotency-Key was used just now and cannot be read; try again.")
        if found.digest != digest:
            raise Invalid(
                "This Idempotency-Key was used for another upload of this device. Take a new key for each upload, and the "
                "same one only to send the same bytes again."
            )
        return found

    def _next(self, tenant: str, device: str, stream: str) -> tuple[int, int]:
        """The next number, and the time (epoch ms) of what has none: no two uploads of a device share one, since two
        values of a metric at one time would be a conflict."""
        key = tenant, device, stream
        seq, ts = self._last.get(key, (0, 0))
        self._last[key] = last = seq + 1, max(ts + 1, time.time_ns() // 1_000_000)
        return last

    async def run(self, serve: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `serve()` until cancelled. It stops first, so that its last requests still get their acks."""
        tasks = {
            asyncio.create_task(work(), name=name)
            for name, work in (("link", self.link.run), ("numbers", self.house.run))
        }
        serving = asyncio.create_task(serve(), name="http")
        try:
            done, _ = await asyncio.wait({serving, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for group in ({serving}, {*tasks, *self._tasks}):
                for task in group:
                    task.cancel()
                await asyncio.wait(group)
            await self._end()

    async def _end(self) -> None:
        """What is still in hand was answered with 503. Its numbers, as far as they are gaps, another process declares gone."""
        left = self.in_hand.uploads
        await self.link.close()
        if left:
            log.warning("uploads_left", extra={"uploads": left, "boot": self.boot})
        with suppress(Transient):
            await self.house.end(clean=not left)

    def _has(self, gap: Gap, first: int, last: int) -> bool:
        of_device = self._of_device.get((gap.tenant, gap.device), {})
        return any((stream, boot) == (gap.stream, gap.boot) and first <= seq <= last for stream, boot, seq in of_device)

    # ------------------------------------------------------------------------------------------------- on the way
    def _start(self, upload: Upload) -> None:
        self._of_device.setdefault((upload.tenant, upload.device), {})[upload.key] = upload
        task = asyncio.create_task(self._deliver(upload), name="upload")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("upload_failed", exc_info=task.exception())

    def _declare_gone(self, tenant: str, device: str, stream: str, seq: int, reason: str) -> None:
        """A number that nothing was published under."""
        upload = Upload(tenant, device, stream, self.boot, seq, b"", 0)
        upload.give_up(reason)
        self.in_hand.add(tenant, device, 0)  # whatever the limits say: it is small, and a gap for ever is worse
        self._start(upload)

    async def _deliver(self, upload: Upload) -> None:
        """Publish it until it is acked; after `give_up_s` without, declare its number gone until that is acked."""
        line = self.link.attend(upload.tenant, upload.device, self._heard_for(upload.tenant, upload.device))
        backoff = Backoff(max_s=RETRY_MAX_S)
        try:
            while True:
                upload.changed.clear()
                try:
                    await self.link.publish(line, upload.topic, upload.payload, upload.properties)
                    upload.problem = "no ack came"
                    wait_s, upload.resend_s = upload.resend_s, min(2 * upload.resend_s, limits.RESEND_MAX_S)
                except Transient as error:
                    upload.problem = str(error)
                    wait_s = backoff.next_s()
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await upload.changed.wait()
                if upload.ended:
                    return
                if not upload.gone and time.monotonic() - upload.since_s > self._give_up_s:
                    log.error(
                        "upload_given_up", extra={"device": upload.device, "seq": upload.seq, "reason": upload.problem}
                    )
                    UPLOADS.labels(upload.stream, "gone").inc()
                    self.in_hand.shrink(upload.size)
                    upload.give_up(f"the gateway sent it for {self._give_up_s:g} s and got no ack")
                RESENT.inc()
        finally:
            self.link.leave(line)
            self._forget(upload)

    def _forget(self, upload: Upload) -> None:
        of_device = self._of_device.get((upload.tenant, upload.device), {})
        if of_device.get(upload.key) is upload:
            del of_device[upload.key]
            if not of_device:
                del self._of_device[upload.tenant, upload.device]
        self.in_hand.give_back(upload.tenant, upload.device, upload.size)

    def _resend(self) -> None:
        """After a reconnect, at once; and soon again, since a writer that is not back yet cannot publish its acks."""
        for of_device in self._of_device.values():
            for upload in of_device.values():
                upload.resend_s = RECONNECTED_RESEND_S
                upload.changed.set()

    def _heard_for(self, tenant: str, device: str) -> Callable[[dict[str, Any]], None]:
        return lambda document: self._heard(self._of_device.get((tenant, device), {}), document)

    def _heard(self, of_device: dict[tuple[str, int, int], Upload], ack: dict[str, Any]) -> None:
        """An ack of this device, perhaps of uploads in hand; those of another boot are somebody else's."""
        stream, boot = ack.get("stream"), ack.get("boot")
        for upload in list(of_device.values()):
            if upload.stream != stream:
                continue
            if "digest" in ack:  # its device changed tenants on its way, so it was counted elsewhere
                name = hashlib.sha256(upload.payload).hexdigest()[:16]
                if reasons := [reason for digest, reason in ack["digest"] if digest == name]:
                    upload.end(Receipt(upload.stream, upload.boot, upload.seq, None, tuple(reasons)))
            elif upload.boot != boot:
                continue
            elif _covers(ack.get("seq"), upload.seq):
                reasons = [reason for seq, reason in ack.get("rejected", ()) if seq == upload.seq]
                upload.end(Receipt(upload.stream, upload.boot, upload.seq, ack.get("ledger"), tuple(reasons)))
            elif upload.gone and _covers(ack.get("gone"), upload.seq):
                upload.end(None)


def _covers(ranges: Any, seq: int) -> bool:
    return any(first <= seq <= last for first, last in ranges or ())


def _of(outcome: dict[str, Any]) -> dict[str, Any]:
    return {"ledger": outcome["ledger"], "reasons": tuple(outcome["reasons"])}
