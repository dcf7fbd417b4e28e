"""Every limit of wire contract v1 in one place (plain Python: device code, services, broker configuration and tests read it)."""

DEVICE_MESSAGE_MAX_BYTES = 64 * 1024
"""A device's message on the wire. Ingest's limit: what exceeds it is kept and named, not cut off by the broker."""
DECOMPRESSED_MAX_BYTES = 1024 * 1024
BROKER_PACKET_MAX_BYTES = 4 * 1024 * 1024
"""The broker's own limit; a bus batch and a `$CONTROL` batch must fit in it."""

MESSAGE_MAX_SAMPLES = 5_000
MESSAGE_MAX_RECORDS = 5_000
"""Log lines or events in one message."""
DEVICE_MAX_METRICS = 1_000
JSON_MAX_DEPTH = 8
STRING_VALUE_MAX_BYTES = 4 * 1024
NAME_MAX_CHARS = 63
METRIC_MAX_CHARS = 128
EVENT_TYPE_MAX_CHARS = 128

NUMBER_MAX = 2**53 - 1
"""Largest boot, seq, uptime and integer value: what every JSON reader keeps exactly (RFC 8259 section 6)."""
CLOCK_AHEAD_MAX_MS = 5 * 60 * 1000
TIME_MIN_MS = 946_684_800_000
"""2000-01-01T00:00:00Z: an older time is a device that never set its clock."""
TIME_MAX_MS = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z: the last millisecond that every store can hold."""

DEVICE_WINDOW_MESSAGES = 64
"""Messages a device keeps in flight without application ack (delivery rule 3)."""
RESEND_FIRST_S = 30
RESEND_MAX_S = 300
ACK_COALESCE_MS = 100
NEED_MAX_RANGES = 32
NEED_GAP_AGE_S = 60
NEED_INTERVAL_S = 300
SEQUENCE_MAX_RANGES = 1_024
"""Disjoint ranges of sequence numbers kept per (device, stream, boot); a window of 64 needs far fewer."""
GONE_MAX_RANGES = 32

BUS_BATCH_MAX_BYTES = 128 * 1024
BUS_BATCH_MAX_AGE_MS = 20
