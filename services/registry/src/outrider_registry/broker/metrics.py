"""What the registry measures of the broker's accounts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SECONDS = Histogram(
    "outrider_registry_broker_reconcile_seconds",
    "From the beginning of a whole comparison with the broker until nothing was left to mend",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180, 600),
)
RECONCILED = Gauge(
    "outrider_registry_broker_reconciled_timestamp_seconds",
    "When the broker's accounts were last found or made right, all of them (Unix time)",
)
CLIENTS = Gauge(
    "outrider_registry_broker_clients", "Accounts at the broker: wanted by the database, and there", ["state"]
)
QUEUE = Gauge("outrider_registry_broker_queue", "Devices whose account at the broker waits to be looked at")
COMMANDS = Counter(
    "outrider_registry_broker_commands",
    "Commands the broker carried out, for a change in the database or to repair what differed",
    ["command", "why"],
)
REFUSED = Counter("outrider_registry_broker_refused", "Commands the broker refused")
FILE_REPAIRS = Counter(
    "outrider_registry_broker_file_repairs", "Times the broker was made to write its lost or damaged file again"
)
