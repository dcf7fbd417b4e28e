"""The PostgreSQL edge: a small pool whose sessions carry the replica's name, and the line between retry and reject."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from psycopg import errors as pg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from outrider.runtime import cancelling
from outrider.runtime.errors import Transient

log = logging.getLogger(__name__)

# The input itself cannot be stored; everything else a server says may be different in a minute.
POISON = (pg.DataError, pg.IntegrityError, pg.ProgramLimitExceeded)
# Migrations that have not run, or rights not granted yet: a person or `outrider migrate` mends it meanwhile.
UNPREPARED = (
    pg.UndefinedTable,
    pg.UndefinedFunction,
    pg.UndefinedColumn,
    pg.InvalidSchemaName,
    pg.InsufficientPrivilege,
)


CONNECTION_TIMEOUT_S = 3.0


class Database:
    """A pool of `size` sessions; `application_name` lets a new holder of a slot end the old holder's sessions (rule 12)."""

    def __init__(self, url: str, application_name: str, size: int = 4) -> None:
        self.application_name = application_name[:63]
        self._pool = AsyncConnectionPool(
            url,
            min_size=1,
            max_size=size,
            open=False,
            timeout=CONNECTION_TIMEOUT_S,
            reconnect_timeout=2.0,
            max_lifetime=3600,
            check=AsyncConnectionPool.check_connection,
            kwargs={
                "application_name": self.application_name,
                "autocommit": False,
                "connect_timeout": 5,
                # A dead peer or a runaway statement ends, so that its locks do.
                "options": "-c statement_timeout=60s -c lock_timeout=20s -c idle_in_transaction_session_timeout=60s",
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 3,
                "tcp_user_timeout": 15000,
            },
        )

    async def open(self) -> None:
        """Start the pool; it connects in the background and again whenever the server comes back."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close every session."""
        await self._pool.close(timeout=2)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[psycopg.AsyncConnection]:
        """A connection inside a transaction, committed when the block ends.

        Raises Transient for whatever a retry may mend; errors about the data itself (POISON) pass through.
        """
        try:
            async with self._pool.connection() as connection:
                yield connection
            cancelling.heed()
        except POISON:
            raise
        except UNPREPARED as error:
            raise Transient(f"the database is not prepared ({_first_line(error)}); run `outrider migrate`") from error
        except PoolTimeout as error:
            raise Transient(
                f"no database connection within {CONNECTION_TIMEOUT_S:.0f} s; is PostgreSQL up and max_connections high enough?"
            ) from error
        except psycopg.Error as error:
            raise Transient(f"database: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
