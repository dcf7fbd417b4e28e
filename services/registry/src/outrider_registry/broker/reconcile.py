"""Makes the broker's accounts be what the database says: all of it now and then, what changed at once.

What the broker holds is read at every connection and every interval, and followed in memory in between. A device that
differs is not changed by what was read then, but put into a queue of names and looked up again when its turn comes: so a
change that happens while 10,000 devices are filled in is neither overtaken nor kept waiting, whoever changed last goes first.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from outrider.access import accounts, rights
from outrider.access.accounts import Client, Command, State
from outrider.access.dynsec import BATCH_MAX_COMMANDS, Dynsec
from outrider.runtime.errors import Transient
from outrider_registry.broker import metrics
from outrider_registry.broker.desired import CLAIM, PERSON, Reader, Wanted, ahead, is_device, merged
from outrider_registry.context import Registry
from outrider_registry.control import presence
from outrider_registry.leader import EVERYTHING, Changes
from outrider_registry.store import regained
from outrider_registry.store.transactions import of_platform

log = logging.getLogger(__name__)

KINDS = ("device", "claim", "account", "tenant")
SLOW_BATCH_ACCOUNTS = 400_000
"""Mosquitto 2.0 writes its whole file for every command, 2.9 µs an account, and does nothing else meanwhile: commands in a
batch times accounts there, so that it stands still for about a second."""
REPAIR, CHANGE = "repair", "change"
_THROWS_OUT = ("deleteClient", "disableClient", "modifyClient")


@dataclass(slots=True)
class _Kicked:
    """Devices that were disconnected and may come back."""

    at: datetime
    devices: list[str]


@dataclass
class Reconciler:
    """One connection's work: it ends with the connection."""

    registry: Registry
    dynsec: Dynsec
    actual: State = field(default_factory=State)
    """What the broker holds, followed."""
    queue: dict[str, str] = field(default_factory=dict)
    """Devices to look at, with the reason; the last one first."""
    refused: list[str] = field(default_factory=list)
    kicked: list[_Kicked] = field(default_factory=list)
    stale_roles: set[str] = field(default_factory=set)
    """Roles to remove once nobody holds them."""
    claim_over_s: float = math.inf
    """When the first claim is over, on the monotonic clock."""

    def __post_init__(self) -> None:
        self._reader = Reader(self.registry.keys, self.dynsec.knows_user_patterns)
        kept = self.registry.settings.broker_keep_accounts
        self._kept = frozenset(name.strip() for name in kept.split(",") if name.strip())

    @property
    def _batch(self) -> int:
        if self.dynsec.knows_user_patterns:
            return BATCH_MAX_COMMANDS
        return min(BATCH_MAX_COMMANDS, max(1, SLOW_BATCH_ACCOUNTS // (len(self.actual.clients) + 1)))

    async def run(self, changes: Changes) -> None:
        """Work until the connection ends. Raises Transient then, or where the broker refuses what must be done."""
        whole_due_s = time.monotonic()
        began_s: float | None = None
        while True:
            now_s = time.monotonic()
            wait_s = 0.0 if self.queue else max(0.0, min(whole_due_s - now_s, self._next_s()))
            taken = await self._take(changes, wait_s, 0.0 if self.queue else 0.02)
            if EVERYTHING in taken or (time.monotonic() >= whole_due_s and not self.queue):
                began_s = time.monotonic()
                self.refused.clear()
                await self.compare(reread=True)
                whole_due_s = began_s + self.registry.settings.reconcile_interval_s
            else:
                await self._heed(taken)
            if self.queue:
                await self.next_batch()
            metrics.QUEUE.set(len(self.queue))
            if not self.queue:
                await self._remove_stale_roles()
            if not self.queue and began_s is not None:
                self._done(began_s)
                began_s = None
            await self._mark_those_who_stayed_away()

    async def _take(self, changes: Changes, wait_s: float, settle_s: float) -> set[str]:
        taken = asyncio.ensure_future(changes.take(wait_s, settle_s))
        closed = asyncio.ensure_future(self.dynsec.connection.closed.wait())
        try:
            await asyncio.wait({taken, closed}, return_when=asyncio.FIRST_COMPLETED)
            if closed.done():
                raise self.dynsec.connection.reason
            return taken.result()
        finally:
            for task in (taken, closed):
                task.cancel()

    def _next_s(self) -> float:
        """Seconds until a claim is over or somebody who was kicked should be back."""
        now = datetime.now(UTC)
        waits = [(kicked.at + self._patience - now).total_seconds() for kicked in self.kicked]
        return min([*waits, self.claim_over_s - time.monotonic()])

    @property
    def _patience(self) -> timedelta:
        return timedelta(seconds=self.registry.settings.presence_silence_s)

    async def _heed(self, changed: Iterable[str]) -> None:
        kinds: dict[str, list[str]] = {}
        for change in changed:
            kind, _, name = change.partition(":")
            kinds.setdefault(kind, []).append(name)
        if "tenant" in kinds:
            await self.compare(reread=False)
        elif "claim" in kinds or "account" in kinds or self.claim_over_s <= time.monotonic():
            await self.named()
        for name in kinds.get("device", ()):
            self._put(name, CHANGE)

    def _put(self, name: str, why: str) -> None:
        self.queue.pop(name, None)
        self.queue[name] = why

    async def compare(self, reread: bool) -> None:
        """All of it: what is not a device's is mended at once, devices that differ are put into the queue."""
        if reread:
            self.actual = await self.dynsec.read()
            for name in self._kept:
                self.actual.clients.pop(name, None)
                self.actual.roles.pop(name, None)
        async with of_platform(self.registry.database) as connection:
            roles = await self._reader.roles(connection)
            named = await self._reader.named(connection)
            devices = await self._reader.devices(connection, None)
        wanted = merged([named, self._reader.services(), devices], roles)
        wanted.leave_unknown(self.actual)
        self._note_claims(named)
        metrics.CLIENTS.labels("desired").set(len(wanted.state.clients))
        metrics.CLIENTS.labels("actual").set(len(self.actual.clients))
        commands = accounts.plan(_others(wanted.state), _others(self.actual))
        self.stale_roles = {command["rolename"] for command in commands if command["command"] == "deleteRole"}
        await self._apply([command for command in commands if command["command"] != "deleteRole"], REPAIR)
        differing = _differing(wanted.state, self.actual)
        # The last put is looked at first: whoever must go.
        for name in sorted(differing, key=lambda name: name not in wanted.state.clients):
            if name not in self.queue:
                self._put(name, REPAIR)

    async def named(self) -> None:
        """Claims and people."""
        async with of_platform(self.registry.database) as connection:
            wanted = await self._reader.named(connection)
        wanted.leave_unknown(self.actual)
        self._note_claims(wanted)
        actual = State(
            {name: client for name, client in self.actual.clients.items() if name.startswith((CLAIM, PERSON))},
            {name: role for name, role in self.actual.roles.items() if name.startswith((rights.CLAIM, rights.VIEWER))},
        )
        await self._apply(accounts.plan(wanted.state, actual), CHANGE)

    async def next_batch(self) -> None:
        """The next devices of the queue: looked up, changed, and their presence corrected."""
        names = list(self.queue)[-self._batch :][::-1]
        reasons = {name: self.queue.pop(name) for name in names}
        async with of_platform(self.registry.database) as connection:
            wanted = await self._reader.devices(connection, names)
            if secrets := ahead(wanted.state, self.actual, names, self.registry.keys):
                days = self.registry.settings.credential_rotation_days
                if found := await regained.take(connection, self.registry.keys, secrets, days):
                    log.warning("secrets_regained", extra={"rows": len(found), "reason": "the database was restored"})
                    wanted = await self._reader.devices(connection, names)
        wanted.leave_unknown(self.actual)
        roles = {*wanted.state.roles, *(rights.GATEWAY + name for name in names)}
        actual = State(
            {name: self.actual.clients[name] for name in names if name in self.actual.clients},
            {name: self.actual.roles[name] for name in roles if name in self.actual.roles},
        )
        await self._apply(accounts.plan(wanted.state, actual), REPAIR if REPAIR in reasons.values() else CHANGE)

    async def _remove_stale_roles(self) -> None:
        # Mosquitto 2.0 frees a role that is removed from under its holders, and dies when it looks at them next.
        held = {role for client in self.actual.clients.values() for role in client.roles} if self.stale_roles else set()
        roles = sorted(self.stale_roles - held)
        self.stale_roles.clear()
        await self._apply([{"command": "deleteRole", "rolename": role} for role in roles], REPAIR)

    def _note_claims(self, wanted: Wanted) -> None:
        self.claim_over_s = time.monotonic() + wanted.over_s + 0.05

    async def _apply(self, commands: Sequence[Command], why: str) -> None:
        if not commands:
            return
        at = datetime.now(UTC)
        before: dict[str, Client] = dict(self.actual.clients) if any(_edits_role(c) for c in commands) else {}
        was_there = {c["username"] for c in commands if c["command"] in _THROWS_OUT} & self.actual.clients.keys()
        size = self._batch
        for start in range(0, len(commands), size):
            batch = commands[start : start + size]
            refusals = await self.dynsec.apply(batch)
            failed = {id(refusal.command) for refusal in refusals}
            for refusal in refusals:
                log.error("broker_refused", extra={"reason": str(refusal)})
                self.refused.append(str(refusal))
                metrics.REFUSED.inc()
            for command in batch:
                if id(command) not in failed:
                    accounts.apply(self.actual, command)
                    metrics.COMMANDS.labels(command["command"], why).inc()
        await self._after_kicks(at, was_there, before, commands)

    async def _after_kicks(
        self, at: datetime, was_there: set[str], before: dict[str, Client], commands: Sequence[Command]
    ) -> None:
        """Those who may not come back are offline now; the others get some time.

        Whether they were connected when the broker was last asked says little: presence knows who was online.
        """
        edited = {command["rolename"] for command in commands if _edits_role(command)}
        gone: list[str] = []
        away: list[str] = []
        for name in was_there:
            now = self.actual.clients.get(name)
            if not is_device(name):
                continue
            if now is None or now.disabled:
                gone.append(name)
            else:
                away.append(name)
        if self.dynsec.knows_user_patterns:  # others let the holders of a role stay
            away += [
                name
                for name, client in before.items()
                if is_device(name) and edited & client.roles and name not in was_there
            ]
        if gone:
            await self._mark_offline(gone, "disabled", None)
        if away:
            self.kicked.append(_Kicked(at, away))

    async def _mark_those_who_stayed_away(self) -> None:
        due = datetime.now(UTC) - self._patience
        for kicked in [kicked for kicked in self.kicked if kicked.at <= due]:
            self.kicked.remove(kicked)
            # Who holds a role that was edited may have been left connected, and has nothing to say then.
            there = await self.dynsec.connected(kicked.devices) if self.dynsec.knows_user_patterns else ()
            await self._mark_offline([name for name in kicked.devices if name not in there], "kicked", kicked.at)

    async def _mark_offline(self, devices: Sequence[str], reason: str, kicked_at: datetime | None) -> None:
        try:
            await presence.mark_offline(self.registry, devices, reason, kicked_at)
        except Transient as error:  # presence compares by itself too
            log.warning("not_marked_offline", extra={"rows": len(devices), "reason": str(error)})

    def _done(self, began_s: float) -> None:
        took_s = time.monotonic() - began_s
        metrics.SECONDS.observe(took_s)
        metrics.CLIENTS.labels("actual").set(len(self.actual.clients))
        log.debug("broker_reconciled", extra={"lag_s": round(took_s, 3)})
        if self.refused:
            raise Transient(f"{len(self.refused)} changes of the broker's accounts were refused: {self.refused[0]}")
        metrics.RECONCILED.set_to_current_time()


def _edits_role(command: Command) -> bool:
    return bool(command["command"] == "modifyRole")


def _others(state: State) -> State:
    """Without devices and what is theirs alone."""
    return State(
        {name: client for name, client in state.clients.items() if not is_device(name)},
        {name: role for name, role in state.roles.items() if not name.startswith(rights.GATEWAY)},
        state.groups,
        state.allowed_by_default,
    )


def _differing(wanted: State, actual: State) -> list[str]:
    """Names without a prefix whose account, or role as a gateway, is not as it should be."""
    names = [
        name
        for name in sorted(wanted.clients.keys() | actual.clients.keys())
        if is_device(name) and wanted.clients.get(name) != actual.clients.get(name)
    ]
    gateways = {name for name in wanted.roles.keys() | actual.roles.keys() if name.startswith(rights.GATEWAY)}
    names += [
        name.removeprefix(rights.GATEWAY)
        for name in sorted(gateways)
        if wanted.roles.get(name) != actual.roles.get(name)
    ]
    return list(dict.fromkeys(names))


async def reconcile(registry: Registry, changes: Changes) -> None:
    """Connect and work until the connection ends. Raises Transient."""
    dynsec = await Dynsec.open(registry.settings.broker_url)
    log.info("broker_control_connected", extra={"user_patterns": dynsec.knows_user_patterns})
    try:
        await Reconciler(registry, dynsec).run(changes)
    finally:
        with suppress(Transient):
            await dynsec.close()
