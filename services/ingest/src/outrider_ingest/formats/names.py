"""Makes metric names of what devices call their values, remembering the answers."""

from __future__ import annotations

from outrider.contract.limits import METRIC_MAX_CHARS
from outrider.contract.topics import is_metric

RESERVED = frozenset({"boot", "seq", "ts", "up_ms", "now_ms"})
"""Keys of numbering and time: never the name of a metric, in no format."""

_SEPARATORS = str.maketrans(".-/ ", "____")
_CACHE_MAX_NAMES = 20_000
_CACHE_MAX_CHARS = 2 * METRIC_MAX_CHARS


class MetricNames(dict[str, str]):
    """`names[key]` is the metric of a device's key, or "" where it cannot be one; remembers a bounded number of keys.

    Dots, dashes, slashes and spaces become `_`; a reserved name, other characters and a wrong length give "".
    """

    def __missing__(self, key: str) -> str:
        metric = key.translate(_SEPARATORS)
        if not is_metric(metric) or metric in RESERVED:
            metric = ""
        if len(key) <= _CACHE_MAX_CHARS:
            if len(self) >= _CACHE_MAX_NAMES:
                # Starting over is cheaper than keeping an order of use, and a fleet has far fewer names than this.
                self.clear()
            self[key] = metric
        return metric


METRICS = MetricNames()


def name_problem(key: str) -> str:
    """Why `METRICS[key]` is "", in words."""
    if key.translate(_SEPARATORS) in RESERVED:
        return "this name is reserved for numbering and time"
    if not key:
        return "a metric's name is not empty"
    if len(key) > METRIC_MAX_CHARS:
        return f"a metric's name has at most {METRIC_MAX_CHARS} characters"
    return "a metric's name has A-Z, a-z, 0-9 and _ and does not start with a digit (. - / and space become _)"
