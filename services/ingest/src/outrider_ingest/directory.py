"""Whose a device is, as the registry says: only its own tenant's topics are taken, and only while it is enabled.

The broker sees to it that a device publishes under its own name; Mosquitto 2.0 cannot tell its tenant from another.
What is known is kept in memory and forgotten when the registry tells of a change (NOTIFY `outrider_registry`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence

import psycopg

from outrider.contract.reasons import Reason
from outrider.runtime.backoff import Backoff
from outrider.runtime.database import Database
from outrider_ingest.messages import Message

log = logging.getLogger(__name__)

LISTEN = "LISTEN outrider_registry"
UNKNOWN_FOR_S = 5.0
"""How long an unregistered device stays so without another look; its registration is told anyway."""
UNKNOWN_MAX_DEVICES = 50_000
ALIVE_S = 5.0
DEAF_MAX_S = 60.0
"""So long what is known holds while changes cannot be heard: mostly the database is away, and then nothing changes."""
OWNERS = "SELECT device, tenant, enabled FROM registry.directory WHERE device = ANY (%s)"
ERASED = "SELECT runtime.erased(%s)"
# A view of the administrator's; where that is no superuser, forced row-level security hides all rows from it, too.
WHOLE_PLATFORM = "SELECT set_config('outrider.tenant', '*', true)"


class Directory:
    """What ingest knows of the registry's devices. `check` costs one look-up in memory for a device that is known."""

    def __init__(self, database: Database, database_url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._database_url = database_url
        self._clock = clock
        self._owners: dict[str, str] = {}
        """Tenants of enabled devices."""
        self._disabled: dict[str, str] = {}
        self._unknown: dict[str, float] = {}
        """Until when (by the clock) nobody asks again."""
        self._erased: set[str] = set()
        """Those of the unknown that were erased, when somebody asked last."""
        self._changes = 0
        """What was read before a change was told may be from before the change."""
        self.problem: str | None = "has not heard from the registry yet"
        """Why changes of the registry are not heard; None while they are."""

    async def check(self, messages: Sequence[Message]) -> None:
        """Refuse what does not come from an enabled device of the topic's tenant. Raises Transient."""
        owners = self._owners
        strange = [message for message in messages if owners.get(message.identity.device) != message.identity.tenant]
        if strange:
            await self._judge(
                [message for message in strange if not message.foreign and message.identity.problem is None]
            )

    async def _judge(self, messages: Sequence[Message]) -> None:
        found = await self._owners_of({message.identity.device for message in messages})
        for message in messages:
            tenant = message.identity.tenant
            owner, enabled = found.get(message.identity.device, (None, False))
            if owner is None and message.identity.device in self._erased:
                # `rejected.keep` counts it and keeps nothing; a number is acknowledged by the writer, which keeps nothing either.
                message.refuse_whole(Reason.ERASED, "the device was erased")
            elif owner is None:
                message.refuse_whole(Reason.UNKNOWN_DEVICE, "no such device is registered")
            elif owner != tenant:
                detail = f"sent to the topics of tenant {tenant}; the device is of tenant {owner}"
                message.refuse_whole(Reason.WRONG_TENANT, detail, owner)
            elif not enabled:
                message.refuse_whole(Reason.DISABLED_DEVICE, "the device is disabled in the registry")

    async def _owners_of(self, devices: Iterable[str]) -> dict[str, tuple[str, bool]]:
        """(tenant, enabled) of these devices, those unknown left out."""
        now_s, found, asked = self._clock(), {}, []
        for device in devices:
            if (owner := self._owners.get(device)) is not None:
                found[device] = owner, True
            elif (owner := self._disabled.get(device)) is not None:
                found[device] = owner, False
            elif self._unknown.get(device, 0.0) <= now_s:
                asked.append(device)
        if asked:
            before = self._changes
            async with self._database.transaction() as connection:
                await connection.execute(WHOLE_PLATFORM)
                rows = await (await connection.execute(OWNERS, (asked,))).fetchall()
                unknown = sorted(set(asked) - {row[0] for row in rows})
                erased = await (await connection.execute(ERASED, (unknown,))).fetchall() if unknown else []
            self._erased.difference_update(asked)
            self._erased.update(device for (device,) in erased)
            answers = {device: (tenant, enabled) for device, tenant, enabled in rows}
            found |= answers
            if self._changes == before and self.problem is None:
                self._remember(asked, answers)
        return found

    def _remember(self, asked: Sequence[str], answers: dict[str, tuple[str, bool]]) -> None:
        if len(self._unknown) > UNKNOWN_MAX_DEVICES:
            self._unknown.clear()
            self._erased.clear()
        for device in asked:
            tenant, enabled = answers.get(device, (None, False))
            if tenant is None:
                self._unknown[device] = self._clock() + UNKNOWN_FOR_S
            elif enabled:
                self._owners[device] = tenant
            else:
                self._disabled[device] = tenant

    def tell(self, change: str) -> None:
        """Forget what a change of the registry (`device:ID`, `tenant:NAME`) makes doubtful."""
        kind, _, name = change.partition(":")
        if kind == "device":
            self._changes += 1
            for known in (self._owners, self._disabled, self._unknown):
                known.pop(name, None)
        elif kind == "tenant":
            self._changes += 1
            for of_tenant in (self._owners, self._disabled):
                for device in [device for device, tenant in of_tenant.items() if tenant == name]:
                    del of_tenant[device]

    def forget(self) -> None:
        """Forget everything: changes may have been missed."""
        self._changes += 1
        for known in (self._owners, self._disabled, self._unknown):
            known.clear()

    async def listen(self) -> None:
        """Hear of changes until cancelled. While it cannot, nothing new is remembered, and afterwards all is asked again."""
        backoff = Backoff()
        heard_s = self._clock()
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(
                    self._database_url,
                    autocommit=True,
                    application_name=self._database.application_name,
                    connect_timeout=5,
                    keepalives_idle=5,
                    keepalives_interval=2,
                    keepalives_count=3,
                    tcp_user_timeout=15000,
                )
                async with connection:
                    await connection.execute(LISTEN)
                    self.forget()
                    self.problem = None
                    backoff.reset()
                    while True:
                        async for notice in connection.notifies(timeout=ALIVE_S):
                            self.tell(notice.payload)
                        await connection.execute("SELECT 1")  # a connection that died without a word is noticed
                        heard_s = self._clock()
            except psycopg.Error as error:
                reason = str(error).strip().split("\n", 1)[0]
                self.problem = f"does not hear of changes in the registry: {reason}"
                log.warning("directory_deaf", extra={"reason": self.problem})
            if self._clock() - heard_s > DEAF_MAX_S:
                self.forget()
            await asyncio.sleep(backoff.next_s())
