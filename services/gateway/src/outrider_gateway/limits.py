"""How much may be in hand: uploads that wait for their acks, per device, per tenant and in this process."""

from __future__ import annotations

from collections import Counter

from prometheus_client import Counter as Metric
from prometheus_client import Gauge

from outrider_gateway.errors import TooMany

LIMITED = Metric("outrider_gateway_limited", "Uploads answered with 429, by the limit they met", ["limit"])
IN_HAND = Gauge("outrider_gateway_in_hand_uploads", "Uploads that wait for their acks")
IN_HAND_BYTES = Gauge("outrider_gateway_in_hand_bytes", "Bytes of uploads that wait for their acks")
RETRY_AFTER_S = {"device": 1, "tenant": 2, "process": 5, "process_bytes": 5}
_WHAT = {
    "device": "uploads of this device wait for their acks",
    "tenant": "uploads of your tenant wait for their acks",
    "process": "uploads of everybody wait here for their acks",
    "process_bytes": "bytes of uploads wait here for their acks",
}


class InHand:
    """Counts what is in hand. A slow ledger thus slows its senders down instead of filling this process's memory."""

    def __init__(self, device_max: int, tenant_max: int, process_max: int, bytes_max: int) -> None:
        self._max = {"device": device_max, "tenant": tenant_max, "process": process_max, "process_bytes": bytes_max}
        self._of_device: Counter[tuple[str, str]] = Counter()
        self._of_tenant: Counter[str] = Counter()
        self.uploads = 0
        self.bytes = 0

    def take(self, tenant: str, device: str, size: int) -> None:
        """One more. Raises TooMany, which names the limit, and takes nothing."""
        now = {
            "device": self._of_device[tenant, device] + 1,
            "tenant": self._of_tenant[tenant] + 1,
            "process": self.uploads + 1,
            "process_bytes": self.bytes + size,
        }
        for name, wanted in now.items():
            if wanted > self._max[name]:
                self._forget_zeros(tenant, device)
                LIMITED.labels(name).inc()
                raise TooMany(
                    f"{self._max[name]:,} {_WHAT[name]}, which is the most allowed at once. Send more slowly, and this one again.",
                    RETRY_AFTER_S[name],
                    limit={"name": name, "max": self._max[name]},
                )
        self.add(tenant, device, size)

    def add(self, tenant: str, device: str, size: int) -> None:
        """One more, whatever the limits say."""
        self._of_device[tenant, device] += 1
        self._of_tenant[tenant] += 1
        self.uploads += 1
        self.shrink(-size)

    def give_back(self, tenant: str, device: str, size: int) -> None:
        """One less."""
        self._of_device[tenant, device] -= 1
        self._of_tenant[tenant] -= 1
        self._forget_zeros(tenant, device)
        self.uploads -= 1
        self.shrink(size)

    def shrink(self, size: int) -> None:
        """So many bytes less of an upload that stays in hand."""
        self.bytes -= size
        IN_HAND.set(self.uploads)
        IN_HAND_BYTES.set(self.bytes)

    def _forget_zeros(self, tenant: str, device: str) -> None:
        if not self._of_device[tenant, device]:
            del self._of_device[tenant, device]
        if not self._of_tenant[tenant]:
            del self._of_tenant[tenant]
