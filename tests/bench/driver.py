"""The harness's side of a load generator: start it, tell it what to do, read its counts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from outrider_cli.platform import Platform
from tests import identities
from tests.bench import generator
from tests.bench.loads import Load

ROOT = Path(__file__).resolve().parents[2]
CONNECT_S = 180.0
ANSWER_S = 30.0
LINE_MAX_BYTES = 1 << 20


class LoadFailure(Exception):
    """The load could not be made as wanted: the figures would mean nothing."""


def _logins(platform: Platform, devices: int, connections: int) -> tuple[str, list[tuple[str, str]]]:
    """The door and a login for each connection: the devices themselves, or, where they share, the test account."""
    names = [generator.name_of(number) for number in range(devices)]
    state = platform.state
    secrets = identities.register(state.database_url, platform.keys, generator.TENANT, names)
    if connections == devices:
        return state.device_mqtt_url, list(secrets.items())
    parts = urlsplit(platform.test_url)
    return platform.test_url, [(unquote(parts.username or ""), unquote(parts.password or ""))] * connections


class Driver:
    """A running generator; `async with` ends it."""

    def __init__(self, load: Load, platform: Platform, *, acks: bool = True) -> None:
        """Registers the load's devices in the platform, which must run a registry and have its test account."""
        self.load = load
        connections = load.devices if load.connections is None else min(load.connections, load.devices)
        url, logins = _logins(platform, load.devices, connections)
        self._logins = platform.data_dir / "run" / "bench-logins.json"
        with open(os.open(self._logins, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(logins, file)
        self.latest: dict[str, Any] = {"sent": 0, "acked": 0, "in_flight": 0, "rejected": 0, "resent": 0, "failure": ""}
        self._config = generator.Config(
            port=urlsplit(url).port or 1883,
            logins=str(self._logins),
            metrics=load.metrics,
            frames=load.frames,
            encoding=load.encoding,
            devices=load.devices,
            connections=connections,
            in_flight=load.in_flight,
            acks=acks,
        )
        self._process: asyncio.subprocess.Process | None = None
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._reading: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *generator.arguments(self._config),
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_MAX_BYTES,
        )
        self._reading = asyncio.create_task(self._read())
        try:
            await self._answer(CONNECT_S)
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Ends the process."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 5)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def rate(self, rate: float | None) -> dict[str, Any]:
        """Messages a second from now on; None: as fast as acks allow; 0: none. Gives the counts."""
        return await self._ask(do="rate", rate=rate)

    async def send(self, count: int) -> None:
        """That many messages, one a device in turn."""
        await self._ask(do="send", count=count)

    async def mark(self) -> dict[str, Any]:
        """The counts, and the latencies since the last mark."""
        return await self._ask(do="mark")

    def credit(self, messages: int) -> None:
        """That many messages are known to be committed (for a peer, which sends no acks)."""
        self._write(do="credit", messages=messages)

    async def drained(self, timeout_s: float) -> bool:
        """Waits until nothing is due or without ack; False after `timeout_s`."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            figures = await self._ask(do="look")
            if not figures["in_flight"] and not figures["due"]:
                return True
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(0.1)

    async def _ask(self, **command: Any) -> dict[str, Any]:
        self._write(**command)
        answer = await self._answer(ANSWER_S)
        figures: dict[str, Any] = answer["mark"]
        if figures["failure"]:
            raise LoadFailure(figures["failure"])
        return figures

    def _write(self, **command: Any) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):  # its end is seen by who waits for an answer
            self._process.stdin.write(json.dumps(command).encode() + b"\n")

    async def _answer(self, timeout_s: float) -> dict[str, Any]:
        try:
            answer = await asyncio.wait_for(self._answers.get(), timeout_s)
        except TimeoutError:
            raise LoadFailure(f"the generator did not answer within {timeout_s:.0f} s") from None
        if "ended" in answer:
            raise LoadFailure("the generator ended; its error is above")
        return answer

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            document = json.loads(line)
            if "tick" in document:
                self.latest = document["tick"]
            else:
                self._answers.put_nowait(document)
        self._answers.put_nowait({"ended": True})
