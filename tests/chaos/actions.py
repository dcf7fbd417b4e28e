"""The vocabulary of the timelines: what can be done to processes, servers, network and devices."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from pathlib import Path

from outrider.access import seed
from tests.chaos.devices import KEEPALIVE_S
from tests.chaos.stage import Stage, signal_to
from tests.chaos.timeline import Action

HANG_S = 1.5 * KEEPALIVE_S
"""The longest a device may not notice, or not mend, a dead link while the broker can be reached."""
RESTORED_S = 60.0
"""How long the broker may be without identities that it lost."""
WAYS_TO_LOSE = ("deleted", "emptied", "cut off")
TAKEN_OVER_S = 9.0
"""When the slots of a stopped process must have gone to another: a lease of 6 s, and the next round of whoever takes it."""


def kill(service: str) -> Action:
    """kill -9 of a process of a service, or of `mosquitto` or `postgres`."""
    return Action(f"kill -9 {service}", lambda stage: stage.kill(service))


def freeze(service: str, for_s: float) -> Action:
    """SIGSTOP for one process, wherever it is, and SIGCONT later."""

    async def run(stage: Stage) -> None:
        if for_s > TAKEN_OVER_S:
            await stage.until_shared(service)
        pid = await stage.pick(service)
        if pid is not None and signal_to(pid, signal.SIGSTOP):
            await stay_frozen(stage, service, pid, for_s)

    return Action(f"freeze {service} for {for_s:g} s", run)


async def stay_frozen(stage: Stage, service: str, pid: int, for_s: float) -> None:
    """Lets a stopped process go on after `for_s` seconds. Where others can take its slots over, they must have, and must
    have ended its database sessions; else raises AssertionError."""
    stage.counts["frozen"] += 1
    stage.note_worst("a process frozen", for_s)
    try:
        if for_s > TAKEN_OVER_S and len(stage.processes_of(service)) > 1:
            await asyncio.sleep(TAKEN_OVER_S)
            for rest in ("runtime.slot WHERE holder", "pg_stat_activity WHERE application_name"):
                await stage.eventually(
                    f"SELECT (count(*) = 0)::int FROM {rest} {_of(service, pid)}", 1, for_s - TAKEN_OVER_S
                )
            for_s -= TAKEN_OVER_S
        await asyncio.sleep(for_s)
    finally:
        signal_to(pid, signal.SIGCONT)


def _of(service: str, pid: int) -> str:
    return f"LIKE '{service}/%/{pid}-%'"


def restart(service: str) -> Action:
    """Graceful stop and start."""
    return Action(f"restart {service}", lambda stage: stage.restart(service))


def scale(service: str, count: int) -> Action:
    """So many processes of a service."""
    return Action(f"scale {service} to {count}", lambda stage: stage.scale(service, count))


def stop(server: str, for_s: float) -> Action:
    """Graceful stop of a server for a while."""

    async def run(stage: Stage) -> None:
        async with stage.without(server):
            await asyncio.sleep(for_s)

    return Action(f"stop {server} for {for_s:g} s", run)


def wipe_broker() -> Action:
    """The broker restarts and has forgotten every session, queue and retained message."""

    async def run(stage: Stage) -> None:
        async with stage.without("mosquitto"):
            stage.forget_sessions()

    return Action("restart mosquitto with an empty persistence folder", run)


def lose_identities(how: str, *, and_kill: bool) -> Action:
    """The broker's file of accounts is lost under load, with or without a kill -9 of the broker; nobody touches a device.

    Without the accounts it starts with the services' alone and lets no device in: the registry puts them back. All of it
    within `RESTORED_S`.
    """

    async def run(stage: Stage) -> None:
        began_s = time.monotonic()
        path = stage.accounts_file()
        damage(path, how)
        stage.counts["identities lost"] += 1
        if and_kill:
            await stage.kill("mosquitto")
            online_s = await _devices_back(stage, began_s)
            stage.note_worst("devices back after the broker lost its identities", online_s - began_s)
        devices = {device.name for device in stage.fleet.devices}
        while not devices <= _accounts_in(path):
            assert time.monotonic() < began_s + RESTORED_S, f"{path.name} does not have all devices again"
            await asyncio.sleep(0.2)
        stage.note_worst("the broker's file of identities whole again", time.monotonic() - began_s)

    return Action(f"the broker's identities {how}" + (", and kill -9 mosquitto" if and_kill else ""), run)


def damage(path: Path, how: str) -> None:
    """Deletes, empties or cuts off a file."""
    if how == "deleted":
        path.unlink(missing_ok=True)
    elif how == "emptied":
        path.write_text("")
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _accounts_in(path: Path) -> set[str]:
    with contextlib.suppress(OSError, ValueError):
        return set(seed.usernames(json.loads(path.read_bytes())))
    return set()


async def _devices_back(stage: Stage, since_s: float) -> float:
    """When the last device was online again (monotonic). Raises AssertionError if one is not within `RESTORED_S`."""
    devices = stage.fleet.devices
    while not all(device.connected and device.last_online_s > since_s for device in devices):
        away = sum(not (device.connected and device.last_online_s > since_s) for device in devices)
        assert time.monotonic() < since_s + RESTORED_S, f"{away} devices are not back after {RESTORED_S:.0f} s"
        await asyncio.sleep(0.05)
    return max(device.last_online_s for device in devices)


def cut(share: float = 1.0) -> Action:
    """Device connections are reset, all at once."""

    async def run(stage: Stage) -> None:
        stage.counts["connections cut"] += stage.fleet.network.cut(share)

    return Action(f"cut {share:.0%} of the device connections", run)


def reconnect_all() -> Action:
    """All devices lose their connections at once; how long until the last is back is `everyone back online`."""

    async def run(stage: Stage) -> None:
        began_s = time.monotonic()
        stage.counts["connections cut"] += stage.fleet.network.cut()
        await _all_online(stage, began_s, "everyone back online")

    return Action("cut all device connections and wait for the last to return", run)


def outage(for_s: float) -> Action:
    """No device can reach the broker."""

    async def run(stage: Stage) -> None:
        network = stage.fleet.network
        network.refusing = True
        stage.counts["connections cut"] += network.cut()
        await asyncio.sleep(for_s)
        network.refusing = False

    return Action(f"no network for {for_s:g} s", run)


def bad_network(for_s: float, *, delay_s: float = 0.0, loss: float = 0.0) -> Action:
    """Delay each way and a share of lost segments between devices and broker."""

    async def run(stage: Stage) -> None:
        network = stage.fleet.network
        stage.counts["bad network"] += 1
        network.delay_s, network.loss = delay_s, loss
        await asyncio.sleep(for_s)
        network.delay_s, network.loss = 0.0, 0.0

    return Action(f"{delay_s * 2:g} s round trip and {loss:.0%} loss for {for_s:g} s", run)


def flap(for_s: float, *, every_s: float) -> Action:
    """Link down again and again; then every device must be back within `HANG_S`."""

    async def run(stage: Stage) -> None:
        until_s = time.monotonic() + for_s
        stage.note_worst(f"link down every {every_s:g} s", for_s)
        while time.monotonic() < until_s:
            stage.counts["connections cut"] += stage.fleet.network.cut()
            await asyncio.sleep(min(every_s, max(0.0, until_s - time.monotonic())))
        stage.counts["connections cut"] += stage.fleet.network.cut()
        await _all_online(stage, time.monotonic(), "everyone back online after flaps")

    return Action(f"cut all device connections every {every_s:g} s for {for_s:g} s", run)


def half_open() -> Action:
    """Connections fall silent without a close; devices must notice within `HANG_S`."""

    async def run(stage: Stage) -> None:
        began_s = time.monotonic()
        silent = [device for device in stage.fleet.devices if device.connected]
        stage.counts["half-open"] += stage.fleet.network.fall_silent()
        while time.monotonic() < began_s + 2 * HANG_S and not all(d.last_lost_s > began_s for d in silent):
            await asyncio.sleep(0.05)
        unaware = [device.name for device in silent if device.last_lost_s < began_s]
        assert not unaware, f"connections that have been silent for {2 * HANG_S:.0f} s still count: {unaware}"
        took_s = max((device.last_lost_s - began_s for device in silent), default=0.0)
        stage.note_worst("half-open connection noticed", took_s)
        assert took_s <= HANG_S, f"a silent connection was noticed after {took_s:.1f} s"

    return Action("all device connections fall silent", run)


async def _all_online(stage: Stage, since_s: float, figure: str) -> None:
    devices = stage.fleet.devices
    while not all(device.connected and device.last_online_s > since_s for device in devices):
        if time.monotonic() > since_s + 30:
            break
        await asyncio.sleep(0.05)
    took_s = max(device.last_online_s - since_s for device in devices)
    stage.note_worst(figure, took_s)
    away = [device.name for device in devices if device.last_online_s < since_s]
    assert not away, f"still away: {away}"
    assert took_s <= HANG_S, f"{figure} after {took_s:.1f} s"


def reboot(share: float) -> Action:
    """Devices start again with a new boot id."""

    async def run(stage: Stage) -> None:
        stage.counts["device rebooted"] += stage.fleet.reboot(share)

    return Action(f"reboot {share:.0%} of the devices", run)


def reuse_boots() -> Action:
    """Devices start again, count from 1, and say the boot id they had before."""

    async def run(stage: Stage) -> None:
        stage.counts["boot id reused"] += stage.fleet.reuse_boots()

    return Action("restart devices that reuse their boot id", run)


def spoil_clocks(for_s: float) -> Action:
    """Clocks of devices are wrong for a while, each in one of four ways."""

    async def run(stage: Stage) -> None:
        stage.counts["clock jumped"] += stage.fleet.spoil_clocks()
        await asyncio.sleep(for_s)
        stage.fleet.set_clocks()

    return Action(f"clocks in 1970, in 2099, an hour back and half a year ahead for {for_s:g} s", run)


def wait(for_s: float) -> Action:
    """Nothing happens."""

    async def run(stage: Stage) -> None:
        await asyncio.sleep(for_s)

    return Action(f"nothing for {for_s:g} s", run)
