"""Finds and starts private Mosquitto, PostgreSQL (with TimescaleDB) and Valkey servers, for `outrider up` and for tests."""

from outrider.servers.base import Server, ServerError
from outrider.servers.mosquitto import Mosquitto
from outrider.servers.postgres import Postgres
from outrider.servers.timescaledb import TimescaleDB
from outrider.servers.valkey import Valkey

__all__ = ["Mosquitto", "Postgres", "Server", "ServerError", "TimescaleDB", "Valkey"]
