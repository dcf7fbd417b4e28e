"""How many samples are committed: cheaply from the writer's metrics while it runs, by counting rows at the end."""

from __future__ import annotations

import re
import urllib.request

import psycopg

COMMITTED = re.compile(r"^outrider_writer_timeseries_samples_total (\S+)$", re.MULTILINE)
COUNTS = {
    "rows": "SELECT count(*) FROM telemetry.sample",
    "messages_counted": "SELECT coalesce(sum(upper(r) - lower(r)), 0)::bigint FROM telemetry.sequence, unnest(stored) r",
    "rejections": "SELECT count(*) FROM rejected.message",
}


def committed(port: int) -> int:
    """Samples that the writer behind this HTTP port has committed since it started."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        return read_committed(response.read().decode())


def read_committed(text: str) -> int:
    """The figure in the text of `/metrics`. Raises ValueError where it is missing."""
    found = COMMITTED.search(text)
    if found is None:
        raise ValueError("the writer's metrics do not say how many samples it committed")
    return int(float(found[1]))


def count(url: str) -> dict[str, int]:
    """Samples in the ledger (`rows`), messages its accounting knows as stored, messages kept as rejected."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = {}
        for name, query in COUNTS.items():
            row = connection.execute(query.encode()).fetchone()
            assert row is not None
            found[name] = int(row[0])
        return found
