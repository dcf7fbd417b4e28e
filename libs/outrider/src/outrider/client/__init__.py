"""A client of the gateway's query API: needs httpx (`pip install 'outrider[client]'`).

with Client("http://127.0.0.1:8081", token) as fleet:
    table = fleet.telemetry("van-7", ["speed_kmh"], start="-6h", step="5m", aggregate=["mean", "max"])
    for ts, (mean, highest) in table.rows():
        ...
"""

from outrider.client.client import Client, GatewayError, Moment
from outrider.client.model import (
    Column,
    Latest,
    Ranking,
    Segment,
    Table,
    Trip,
    TripDetail,
    TripFigures,
    Value,
)

__all__ = [
    "Client",
    "Column",
    "GatewayError",
    "Latest",
    "Moment",
    "Ranking",
    "Segment",
    "Table",
    "Trip",
    "TripDetail",
    "TripFigures",
    "Value",
]
