"""Finds and starts private Mosquitto and PostgreSQL servers, for `outrider up` and for tests."""

from outrider.servers.base import Server, ServerError
from outrider.servers.mosquitto import Mosquitto
from outrider.servers.postgres import Postgres

__all__ = ["Mosquitto", "Postgres", "Server", "ServerError"]
