"""MQTT topics of wire contract v1: one template gives publish name, subscription filter and parser.

Plain Python on purpose: CPython and MicroPython import this same file. So: no typing, re or dataclasses.
"""

NAME_MAX_CHARS = 63
STREAMS = ("telemetry", "log", "event")

_LOWER = "abcdefghijklmnopqrstuvwxyz"
_DIGIT = "0123456789"
_NAME = _LOWER + _DIGIT + "-"
_METRIC_FIRST = _LOWER + _LOWER.upper() + "_"
_METRIC = _METRIC_FIRST + _DIGIT


def is_name(text):
    """True for a tenant or device name: `[a-z0-9][a-z0-9-]{0,62}`."""
    if not 1 <= len(text) <= NAME_MAX_CHARS or text[0] == "-":
        return False
    return all(char in _NAME for char in text)


def is_metric(text):
    """True for a metric name: `[A-Za-z_][A-Za-z0-9_]{0,127}` (safe in Prometheus and SQL)."""
    if not 1 <= len(text) <= 128 or text[0] not in _METRIC_FIRST:
        return False
    return all(char in _METRIC for char in text)


class Topic:
    """One topic template such as `fleet/v1/{tenant}/{device}/ack`."""

    def __init__(self, template):
        self.template = template
        self._levels = template.split("/")

    def name(self, **values):
        """The topic to publish to. Raises KeyError for a missing placeholder, ValueError for a wildcard or slash in one."""
        levels = []
        for level in self._levels:
            if level.startswith("{"):
                value = str(values[level[1:-1]])
                if not value or "/" in value or "+" in value or "#" in value:
                    raise ValueError("not a topic level: " + repr(value))
                levels.append(value)
            else:
                levels.append(level)
        return "/".join(levels)

    def filter(self, **values):
        """The subscription filter: placeholders without a value become `+`."""
        levels = []
        for level in self._levels:
            levels.append(str(values.get(level[1:-1], "+")) if level.startswith("{") else level)
        return "/".join(levels)

    def parse(self, topic):
        """Values of the placeholders in `topic`, or None where the topic is not of this template."""
        levels = topic.split("/")
        if len(levels) != len(self._levels):
            return None
        values = {}
        for expected, level in zip(self._levels, levels):
            if expected.startswith("{"):
                if not level:
                    return None
                values[expected[1:-1]] = level
            elif expected != level:
                return None
        return values


DEVICE = "fleet/v1/{tenant}/{device}/"
TELEMETRY = Topic(DEVICE + "telemetry")
TELEMETRY_METRIC = Topic(DEVICE + "telemetry/{metric}")
LOG = Topic(DEVICE + "log")
EVENT = Topic(DEVICE + "event")
STATUS = Topic(DEVICE + "status")
ACK = Topic(DEVICE + "ack")
SHADOW_DESIRED = Topic(DEVICE + "shadow/desired")
SHADOW_REPORTED = Topic(DEVICE + "shadow/reported")
COMMAND = Topic(DEVICE + "command/{name}")
COMMAND_RESPONSE = Topic(DEVICE + "command/{name}/response")
TRIP = Topic(DEVICE + "trip")
JOB = Topic(DEVICE + "job")
JOB_PROGRESS = Topic(DEVICE + "job/progress")
CREDENTIAL = Topic(DEVICE + "credential")
CREDENTIAL_CONFIRM = Topic(DEVICE + "credential/confirm")
CLAIM = Topic("fleet/v1/-/claim/{claim}")
CLAIM_REPLY = Topic("fleet/v1/-/claim/{claim}/reply")

BUS_SAMPLES = Topic("outrider/v1/samples/{shard}")
BUS_LOGS = Topic("outrider/v1/logs/{shard}")
BUS_EVENTS = Topic("outrider/v1/events/{shard}")
BUS_REJECTED = Topic("outrider/v1/rejected")
BUS_TRIPS = Topic("outrider/v1/trips/{shard}")
ATTENDED = Topic("outrider-attended/{group}/{slot}")
"""Only the slot itself listens here, so the broker can be asked whether the slot is there, whoever else reads the bus."""

RAW_FILTERS = (TELEMETRY.filter() + "/#", LOG.filter(), EVENT.filter())
"""What ingest's one group subscribes to (`telemetry/#` matches `telemetry` too: MQTT 5.0 section 4.7.1.2)."""


def share(group, topic_filter):
    """The shared subscription of a consumer group: `$share/{group}/{filter}`."""
    return "$share/" + group + "/" + topic_filter


def shard_of(device, shards):
    """Shard (0 … shards−1) of a device: CRC-32 of its name modulo the number of shards, the same on every Python."""
    crc = 0xFFFFFFFF
    for byte in device.encode():
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xEDB88320 if crc & 1 else 0)
    return (crc ^ 0xFFFFFFFF) % shards
