"""Uploads over HTTP beside numbered MQTT: the same payloads, the same pipeline, the same ledger, one after the other.

    python -m tests.bench.uploads --seconds 10

Writes build/bench-uploads.json. A POST counts when its 202 came, an MQTT message when its application ack came: both are in
the ledger then.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
import uvloop

from outrider.runtime import migrate
from outrider_cli import supervision
from outrider_cli.platform import Platform
from tests import identities
from tests.bench import generator, ledger, meter, payloads
from tests.bench.driver import Driver
from tests.bench.loads import Load
from tests.bench.run import started

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "build" / "bench-uploads.json"
METRICS = 10
WARM_S = 3.0
SERVICES = {"ingest": 1, "writer-timeseries": 1, "registry": 1, "gateway": 1}


@dataclass(frozen=True)
class Config:
    """What a generator of POSTs is started with."""

    port: int
    logins: str
    """File with a JSON object: device → secret."""
    connections: int
    """Kept open; each posts when its last answer has come, for the next device in turn."""


class Poster(asyncio.Protocol):
    """One kept-open connection that always waits for one answer."""

    def __init__(self, load: Posting) -> None:
        self._load = load
        self._transport: Any = None
        self._rest = b""
        self._began_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._post()

    def _post(self) -> None:
        self._began_s = time.perf_counter()
        self._transport.write(self._load.request())

    def data_received(self, data: bytes) -> None:
        self._rest += data
        head, _, body = self._rest.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if not length or len(body) < int(length):
            return
        self._rest = b""
        self._load.answered(int(head[9:12]), time.perf_counter() - self._began_s)
        if not self._load.stopped:
            self._post()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._load.stopped:
            self._load.broken += 1


class Posting:
    """All connections of a generator, and its counts."""

    def __init__(self, config: Config) -> None:
        logins: dict[str, str] = json.loads(Path(config.logins).read_text())
        self._config = config
        self._heads = [
            f"POST /api/v1/telemetry HTTP/1.1\r\nHost: 127.0.0.1:{config.port}\r\nContent-Type: application/json\r\n"
            f"Authorization: Basic {base64.b64encode(f'{device}:{secret}'.encode()).decode()}\r\nContent-Length: ".encode()
            for device, secret in logins.items()
        ]
        self._tails = payloads.tails("flat", METRICS, 1)
        self._start_ms = payloads.start_ms("flat", time.time_ns() // 1_000_000)
        self._sent = 0
        self.stored = self.refused = self.broken = 0
        self.latencies_s: list[float] = []
        self.stopped = False

    async def connect(self) -> None:
        """All connections stand, and post."""
        loop = asyncio.get_running_loop()
        for _ in range(self._config.connections):
            await loop.create_connection(lambda: Poster(self), "127.0.0.1", self._config.port)

    def request(self) -> bytes:
        """The next one: as the MQTT generator's, without a number."""
        n, self._sent = self._sent, self._sent + 1
        ts = self._start_ms + n // len(self._heads)
        body = b'{"ts":%d,' % ts + self._tails[n % payloads.VARIANTS]
        return self._heads[n % len(self._heads)] + b"%d\r\n\r\n" % len(body) + body

    def answered(self, status: int, took_s: float) -> None:
        """An answer came."""
        if status == 202:
            self.stored += 1
            self.latencies_s.append(took_s)
        else:
            self.refused += 1

    def mark(self) -> dict[str, Any]:
        """The counts, and the latencies since the last mark."""
        found, self.latencies_s = sorted(self.latencies_s), []

        def at(share: float) -> float:
            return round(1000 * found[min(len(found) - 1, int(share * len(found)))], 1) if found else 0.0

        return {
            "stored": self.stored,
            "refused": self.refused,
            "broken": self.broken,
            "p50_ms": at(0.5),
            "p99_ms": at(0.99),
        }


async def generate(config: Config) -> None:
    """The generator's process: a line of counts for every line it is sent, until its input ends."""
    posting = Posting(config)
    await posting.connect()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        print(json.dumps(posting.mark()), flush=True)
    posting.stopped = True


# ------------------------------------------------------------------------------------------------------- the harness
async def measure(seconds: float, devices: int, connections: int) -> dict[str, Any]:
    """Both ways on one platform."""
    scale = dict.fromkeys(migrate.packages(), 0) | SERVICES
    async with started(scale) as platform:
        names = [generator.name_of(number) for number in range(devices)]
        secrets = identities.register(platform.state.database_url, platform.keys, generator.TENANT, names)
        # The MQTT generator comes first: it knows when the broker lets its devices in.
        load = Load("u", "uploads", METRICS, devices=devices, in_flight=min(32_000, 64 * devices))
        mqtt = await _mqtt(platform, load, seconds)
        http = await _http(platform, secrets, connections, seconds)
        rows = await asyncio.to_thread(ledger.count, platform.state.database_url)
    return {
        "devices": devices,
        "connections": connections,
        "metrics": METRICS,
        "mqtt": mqtt,
        "http": http,
        "rows": rows,
    }


async def _mqtt(platform: Platform, load: Load, seconds: float) -> dict[str, Any]:
    async with Driver(load, platform) as driver:

        async def mark() -> tuple[int, dict[str, Any]]:
            figures = await driver.mark()
            return figures["acked"], figures["latency"]

        await driver.send(load.devices)
        await driver.drained(60)
        await driver.rate(None)
        figures = await _window(platform, driver.pid, mark, seconds, load.devices)
        await driver.rate(0)
        await driver.drained(60)
        return figures


async def _http(platform: Platform, secrets: dict[str, str], connections: int, seconds: float) -> dict[str, Any]:
    logins = platform.data_dir / "run" / "bench-uploads.json"
    logins.touch(mode=0o600)
    logins.write_text(json.dumps(secrets))
    port = urlsplit(platform.state.gateway_url).port
    assert port is not None
    config = Config(port, str(logins), connections)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.uploads", "--generate", json.dumps(asdict(config))),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    async def mark() -> tuple[int, dict[str, Any]]:
        stdin.write(b"\n")
        figures = json.loads(await asyncio.wait_for(stdout.readline(), 30))
        return figures["stored"], figures

    try:
        return await _window(platform, process.pid, mark, seconds, len(secrets))
    finally:
        stdin.close()
        await process.wait()


async def _window(
    platform: Platform,
    generator_pid: int,
    mark: Callable[[], Awaitable[tuple[int, dict[str, Any]]]],
    seconds: float,
    warm: int,
) -> dict[str, Any]:
    await asyncio.sleep(WARM_S)
    while (await mark())[0] < 3 * warm:  # every device has its key checked and its acks subscribed
        await asyncio.sleep(0.5)
    processes = _running(platform) | {"generator": [generator_pid]}
    before, (first, _) = meter.read(processes), await mark()
    began_s = time.monotonic()
    await asyncio.sleep(seconds)
    (final, latency), took_s = await mark(), time.monotonic() - began_s
    used = meter.used(before, meter.read(processes))
    count = final - first
    return {
        "per_s": round(count / took_s),
        "count": count,
        "latency": latency,
        "cpu_s_per_100k": {name: round(cpu_s * 1e5 / max(1, count), 1) for name, cpu_s in used.cpu_s.items()},
        "busy_share": round(used.busy_share, 2),
    }


def _running(platform: Platform) -> dict[str, list[int]]:
    state = platform.state
    statuses = supervision.all_statuses(state.supervisor_socket)
    found: dict[str, list[int]] = {}
    for name, process in {**state.servers, **state.services}.items():
        pid = statuses[name].pid
        if pid is not None:
            found.setdefault(process.service, []).append(pid)
    return found


def table(found: dict[str, Any]) -> str:
    """For people."""
    lines = [
        f"{found['devices']} devices, {found['metrics']} samples a message, {found['connections']} HTTP connections"
    ]
    for name in ("mqtt", "http"):
        one = found[name]
        cpu = one["cpu_s_per_100k"]
        server = sum(value for component, value in cpu.items() if component != "generator")
        lines.append(
            f"{name}: {one['per_s']:,}/s, to the ack p50 {one['latency']['p50_ms']} ms p99 {one['latency']['p99_ms']} ms, "
            f"CPU s per 100k: {server:.1f} ({', '.join(f'{component} {value}' for component, value in cpu.items())})"
        )
    return "\n".join(lines)


def main(
    seconds: Annotated[float, typer.Option(min=1, help="Measured seconds, each way.")] = 10,
    devices: Annotated[int, typer.Option(min=1, help="Devices that send.")] = 500,
    connections: Annotated[int, typer.Option(min=1, help="HTTP connections kept open.")] = 256,
    output: Annotated[Path, typer.Option(help="The report, as JSON.")] = REPORT,
    generate_: Annotated[str, typer.Option("--generate", hidden=True)] = "",
) -> None:
    """Measure uploads over HTTP beside numbered MQTT."""
    if generate_:
        gc.disable()
        uvloop.run(generate(Config(**json.loads(generate_))))
        return
    found = asyncio.run(measure(seconds, devices, connections))
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(found, indent=2) + "\n")
    print(table(found))


if __name__ == "__main__":
    typer.run(main)
