"""Finds and starts private Mosquitto and PostgreSQL (with TimescaleDB) servers, for `outrider up` and for tests."""

from outrider.servers.base import Server, ServerError
from outrider.servers.mosquitto import Mosquitto
from outrider.servers.postgres import Postgres
from outrider.servers.timescaledb import TimescaleDB

__all__ = ["Mosquitto", "Postgres", "Server", "ServerError", "TimescaleDB"]
