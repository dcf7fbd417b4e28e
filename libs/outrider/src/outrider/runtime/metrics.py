"""Prometheus metrics that every service has; a service adds its own beside them (`outrider_<service>_<thing>_<unit>`)."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

SESSION_CONNECTED = Gauge("outrider_session_connected", "1 while the session of a slot is attended", ["client_id"])
SESSION_RECONNECTS = Counter("outrider_session_reconnects", "Times a session lost its connection", ["client_id"])
SLOTS_HELD = Gauge("outrider_slots_held", "Slots this replica holds the lease of", ["group"])
IN_HAND_MESSAGES = Gauge("outrider_in_hand_messages", "Messages delivered and not yet acknowledged", ["group"])
IN_HAND_BYTES = Gauge("outrider_in_hand_bytes", "Bytes delivered and not yet acknowledged", ["group"])
OLDEST_SECONDS = Gauge("outrider_in_hand_oldest_seconds", "Age of the oldest message in hand", ["group"])
CONSUMED = Counter(
    "outrider_consumed_messages", "Messages settled: stored, rejected or left to redelivery", ["group", "outcome"]
)
BATCH_SECONDS = Histogram("outrider_batch_seconds", "Time to handle one batch", ["group"], buckets=SECONDS)
RETRIES = Counter("outrider_retries", "Batches tried again after a transient failure", ["group"])
REJECTED = Counter("outrider_rejected_messages", "Messages or parts of them refused and kept, by reason", ["reason"])
ERASED = Counter("outrider_erased_messages", "Messages of erased devices, dropped without a trace", ["stream"])
SEQUENCE = Counter(
    "outrider_sequence_messages", "Numbered messages accounted for, by what became of them", ["stream", "outcome"]
)
GAPPED = Gauge("outrider_sequence_gapped_boots", "Boots of devices with a gap in their sequence numbers", ["stream"])
ACKS = Counter("outrider_application_acks", "Application acks published (one per device, stream and boot)", ["stream"])
