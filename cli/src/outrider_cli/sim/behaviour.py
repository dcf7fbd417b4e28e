"""What a simulated device does when it is told something: desired state, commands, a new secret."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from outrider.contract import topics
from outrider.device.control import Commands, Order, Shadow

if TYPE_CHECKING:
    from outrider_cli.sim.device import SimDevice

INTERVAL_MIN_S, INTERVAL_MAX_S = 0.1, 3600.0
LEVELS = ("debug", "info", "warning", "error")
BOOT_S = 2.0
"""How long a reboot takes."""
DELAY_MAX_S = 60.0
LINES_MAX = 200
REPORT_WITHIN_S = 2.0
WORK_S = 0.7
"""How long a diagnosis takes."""


class Refused(Exception):
    """A command this device cannot carry out as asked; the text says why."""


class Behaviour:
    """Holds the control plane's state of one device and acts on what comes; `device` does the talking and measuring."""

    def __init__(self, device: SimDevice, tenant: str) -> None:
        self.commands = Commands()
        self.shadow = Shadow()
        self._device = device
        self._state: dict[str, Any] = {}
        """Keys of the desired state that mean nothing to this device; it has them all the same."""
        self._tenant = tenant
        self._name = name = device.plan.name
        self._desired = topics.SHADOW_DESIRED.name(tenant=tenant, device=name)
        self._reported = topics.SHADOW_REPORTED.name(tenant=tenant, device=name)
        self._credential = topics.CREDENTIAL.name(tenant=tenant, device=name)
        self._confirm = topics.CREDENTIAL_CONFIRM.name(tenant=tenant, device=name)
        commands = topics.COMMAND.filter(tenant=tenant, device=name)
        self._command = commands.removesuffix("+")
        self.filters = [self._desired, commands, self._credential]
        """What it subscribes to beside its acks."""

    def on_message(self, topic: str, payload: bytes) -> None:
        """Act on a message of one of the filters; returns at once."""
        if topic == self._desired:
            state = self.shadow.desired(payload)
            if state is not None:
                self._apply(state)
                self._device.start(self._report())
        elif topic == self._credential:
            confirm = self._device.secrets.offered(payload) if self._device.secrets else None
            if confirm is not None:
                self._device.start(self._device.publish(self._confirm, confirm))
        elif topic.startswith(self._command):
            now_ms = None if self._device.plan.clockless else time.time_ns() // 1_000_000
            found = self.commands.receive(topic.removeprefix(self._command), payload, now_ms)
            if isinstance(found, Order):
                self._device.start(self._carry_out(found))
            elif found is not None:
                self._device.start(self._say(found.name, found.payload))

    async def connected(self) -> None:
        """Tell the registry what it does not know yet, a moment after the connection stands."""
        await asyncio.sleep(self._device.dice.uniform(0.2, REPORT_WITHIN_S))
        if self._present() != self.shadow.reported:
            await self._report()

    def _present(self) -> dict[str, Any]:
        device = self._device
        own = {"interval_s": device.interval_s, "log_level": device.log_level, "firmware": device.plan.firmware}
        return {**self._state, **own}

    async def _report(self) -> None:
        state = self._present()
        if await self._device.publish(self._reported, self.shadow.report(state)):
            self.shadow.was_reported(state)

    def _apply(self, state: Mapping[str, Any]) -> None:
        """A key that cannot be had keeps its value: the difference stays to be seen."""
        device = self._device
        interval_s, log_level = state.get("interval_s"), state.get("log_level")
        if _is_interval(interval_s):
            device.set_interval(interval_s)
        if log_level in LEVELS:
            device.log_level = log_level
        own = ("interval_s", "log_level", "firmware")
        self._state = {key: value for key, value in state.items() if key not in own and value is not None}

    async def _carry_out(self, order: Order) -> None:
        await self._answer(order, "accepted")
        try:
            result = await self._do(order)
        except Refused as error:
            await self._answer(order, "rejected", {"reason": str(error)})
        else:
            await self._answer(order, "succeeded", result)

    async def _do(self, order: Order) -> Any:
        device, params = self._device, order.params
        match order.name:
            case "reboot":
                await asyncio.sleep(min(number_of(params, "delay_s", 0.0), DELAY_MAX_S))
                await device.reboot(BOOT_S)
                return {"boot": device.outbox.boot}
            case "get-logs":
                lines = int(min(number_of(params, "lines", 20.0), LINES_MAX))
                for number in range(lines):
                    device.log("debug", f"kept line {number + 1} of {lines}: heap {self._heap_bytes()} bytes free")
                return {"lines": lines}
            case "set-interval":
                interval_s = params.get("interval_s")
                if not _is_interval(interval_s):
                    raise Refused(f"interval_s is a number from {INTERVAL_MIN_S} to {INTERVAL_MAX_S:.0f}")
                device.set_interval(interval_s)
                await self._report()
                return {"interval_s": device.interval_s}
            case "run-diagnostics":
                await self._answer(order, "running")
                await asyncio.sleep(WORK_S)
                return self._diagnosis()
        raise Refused(f"this device knows no {order.name}")

    def _diagnosis(self) -> dict[str, Any]:
        device, random = self._device, self._device.dice
        counts = device.outbox.counts
        return {
            "uptime_s": device.outbox.uptime_ms(time.monotonic()) // 1000,
            "boot": device.outbox.boot,
            "firmware": device.plan.firmware,
            "heap_free_bytes": self._heap_bytes(),
            "rssi_dbm": -random.randint(48, 92),
            "unacked": device.outbox.unacked,
            "resent": counts.resent,
            "reconnects": max(0, device.connections - 1),
            "checks": {"clock": "absent" if device.plan.clockless else "ok", "storage": "ok", "sensors": "ok"},
        }

    def _heap_bytes(self) -> int:
        return self._device.dice.randrange(70_000, 190_000, 16)

    async def _answer(self, order: Order, status: Any, result: Any = None) -> None:
        answer = self.commands.answer(order, status, result)
        await self._say(answer.name, answer.payload)

    async def _say(self, command: str, payload: bytes) -> None:
        topic = topics.COMMAND_RESPONSE.name(tenant=self._tenant, device=self._name, name=command)
        await self._device.publish(topic, payload)


def _is_interval(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and INTERVAL_MIN_S <= value <= INTERVAL_MAX_S


def number_of(params: Mapping[str, Any], name: str, default: float) -> float:
    """A parameter of a command that is a number, 0 or more. Raises Refused for anything else."""
    value = params.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise Refused(f"{name} is a number, 0 or more")
    return float(value)
