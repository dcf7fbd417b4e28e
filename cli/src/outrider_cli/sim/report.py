"""What a simulated fleet did, counted over all devices: as a table for people, as JSON for programs."""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

from outrider_cli.sim.device import SimDevice

RECENT_S = 10.0


@dataclass(frozen=True)
class Report:
    """Totals of one run. Messages unless the name says otherwise; numbered ones unless it says `unnumbered`."""

    devices: int
    connected: int
    made: int
    sent: int
    acked: int
    unacked: int
    rejected: int
    resent: int
    unnumbered: int
    reconnects: int
    gone: int
    samples: int
    p50_ms: float | None
    p99_ms: float | None
    msgs_per_s: float
    duration_s: float
    acks_malformed: int
    acks_stale: int
    needed: int
    offered_again: int
    problem: str
    """Why a device is not connected, for one of those that are not."""
    reasons: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return asdict(self)

    def table(self) -> Table:
        """The report for people."""
        table = Table(title="outrider sim", show_header=False, title_justify="left")
        table.add_column(style="bold")
        table.add_column(justify="right")
        table.add_column(style="dim")
        bad = "[red]" if self.unacked else "[green]"
        for name, value, what in (
            ("devices", f"{self.devices:,}", f"{self.connected:,} connected at the end {self.problem}"),
            ("sent", f"{self.sent:,}", f"numbered messages with {self.samples:,} samples (unnumbered ones included)"),
            ("acked", f"{self.acked:,}", "stored, or rejected and kept"),
            ("unacked", f"{bad}{self.unacked:,}[/]", "made but not acknowledged; 0 is what you want"),
            ("rejected", f"{self.rejected:,}", ", ".join(f"{n} × {reason}" for reason, n in self.reasons.items())),
            ("resent", f"{self.resent:,}", "further sendings of a message"),
            ("unnumbered", f"{self.unnumbered:,}", "taken by the broker, without application ack"),
            ("reconnects", f"{self.reconnects:,}", ""),
            ("gone", f"{self.gone:,}", "given up for lack of room, and announced"),
            ("publish→ack p50", _ms(self.p50_ms), ""),
            ("publish→ack p99", _ms(self.p99_ms), ""),
            ("messages/s", f"{self.msgs_per_s:,.1f}", f"over {self.duration_s:.1f} s"),
        ):
            table.add_row(name, value, what)
        return table


class Latencies:
    """Seconds from first publish to application ack, of the whole run and of the last ten seconds."""

    def __init__(self) -> None:
        self._all = array("d")
        self._recent: deque[tuple[float, float]] = deque()

    def add(self, now_s: float, latency_s: float) -> None:
        """One acknowledged message."""
        self._all.append(latency_s)
        self._recent.append((now_s, latency_s))
        while self._recent[0][0] < now_s - RECENT_S:
            self._recent.popleft()

    def all(self) -> list[float]:
        """Of the whole run, sorted."""
        return sorted(self._all)

    def recent(self, now_s: float) -> list[float]:
        """Of the last ten seconds, sorted."""
        return sorted(latency_s for at_s, latency_s in self._recent if at_s >= now_s - RECENT_S)


def report(devices: Sequence[SimDevice], latencies_s: Sequence[float], duration_s: float) -> Report:
    """Totals over `devices` after `duration_s` seconds of producing; `latencies_s` is sorted."""
    counts = [device.outbox.counts for device in devices]
    reasons: Counter[str] = Counter()
    for one in counts:
        reasons.update(one.reasons)
    sent, unnumbered = _sum(one.sent for one in counts), _sum(device.unnumbered for device in devices)
    return Report(
        devices=len(devices),
        connected=_sum(device.connected for device in devices),
        made=_sum(one.added for one in counts),
        sent=sent,
        acked=_sum(one.acked for one in counts),
        unacked=_sum(device.outbox.unacked for device in devices),
        rejected=_sum(one.rejected for one in counts),
        resent=_sum(one.resent for one in counts),
        unnumbered=unnumbered,
        reconnects=_sum(max(0, device.connections - 1) for device in devices),
        gone=_sum(one.discarded for one in counts),
        samples=_sum(device.samples for device in devices),
        p50_ms=_percentile(latencies_s, 0.50),
        p99_ms=_percentile(latencies_s, 0.99),
        msgs_per_s=round((sent + unnumbered) / duration_s, 1) if duration_s else 0.0,
        duration_s=round(duration_s, 2),
        acks_malformed=_sum(one.acks_malformed for one in counts),
        acks_stale=_sum(one.acks_stale for one in counts),
        needed=_sum(one.needed for one in counts),
        offered_again=_sum(one.offered_again for one in counts),
        problem=next((device.problem for device in devices if device.problem), ""),
        reasons=dict(reasons),
    )


def _sum(values: Iterable[int]) -> int:
    return sum(values)


def _percentile(latencies_s: Sequence[float], share: float) -> float | None:
    if not latencies_s:
        return None
    return round(latencies_s[min(len(latencies_s) - 1, int(share * len(latencies_s)))] * 1000, 1)


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f} ms"
