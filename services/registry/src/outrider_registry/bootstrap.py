"""The first people of a new platform: `python -m outrider_registry.bootstrap`, again at every start if you like.

Reads OUTRIDER_DATABASE_URL and OUTRIDER_MASTER_KEY(_FILE). Makes what is missing of a tenant, an administrator of the
platform and a viewer with a login at the broker, and prints as JSON how each comes in:

    {"tenant": "demo",
     "admin": {"name": "admin", "link": "…", "path": "/sign-in#link=…", "expires_at": "…"},
     "token": "otr_…",
     "viewer": {"name": "viewer", "username": "user:viewer", "client_id": "user:viewer", "password": "…"}}

The link is new each time, and good once. The token is the same each time: it is derived from the newest master key.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from outrider.access.keys import FILE_VARIABLE, KEY_VARIABLE, BadMasterKey, KeyRing
from outrider.access.secrets import person_password
from outrider.runtime.errors import OutriderError
from outrider_registry.api.authentication import digest
from outrider_registry.api.people import link_path
from outrider_registry.principals import PLATFORM, Role
from outrider_registry.store import accounts, audit, sessions, tenants, tokens
from outrider_registry.store.accounts import Account
from outrider_registry.store.transactions import PLATFORM as EVERY_TENANT
from outrider_registry.store.transactions import SET_TENANT

ACTOR = "bootstrap"
LINK_HOURS = 24.0
TOKEN_NAME = "outrider command"
TOKEN_DAYS = 365.0


class NotPossible(OutriderError):
    """The database holds something else under a name that was asked for."""


async def ensure_tenant(connection: psycopg.AsyncConnection, name: str) -> None:
    """Make the tenant if there is none of this name."""
    if await tenants.ensure(connection, name, name.capitalize()):
        await audit.append(connection, name, ACTOR, "tenant.create", f"tenant:{name}")


async def ensure_account(connection: psycopg.AsyncConnection, tenant: str | None, name: str, role: Role) -> Account:
    """The account of this name, made if there is none. Raises NotPossible where it is somewhere else."""
    account = await accounts.by_name(connection, name, lock=True)
    if account is None:
        await accounts.add(connection, tenant, name, role)
        await audit.append(connection, tenant, ACTOR, "user.create", f"user:{name}", {"role": role})
        account = await accounts.by_name(connection, name, lock=True)
        assert account is not None
    if account.tenant != tenant:
        raise NotPossible(
            f"There is an account {name} already, of {account.tenant or 'the platform'}; name another one."
        )
    return account


async def new_link(connection: psycopg.AsyncConnection, account: Account) -> dict[str, str]:
    """A one-time sign-in; links that were not used end."""
    link = secrets.token_urlsafe(32)
    await sessions.end_links(connection, account.id)
    expires_at = await sessions.add_link(connection, digest(link), account.id, LINK_HOURS)
    return {"name": account.name, "link": link, "path": link_path(link), "expires_at": expires_at.isoformat()}


async def command_token(connection: psycopg.AsyncConnection, keys: KeyRing, admin: Account) -> str:
    """The administrator's token for `outrider` on this machine: the same at each start, good for another year."""
    token = "otr_" + keys.secret("cli-token", str(admin.id))
    await tokens.keep(connection, admin.id, TOKEN_NAME, digest(token), PLATFORM, TOKEN_DAYS)
    return token


async def broker_login(connection: psycopg.AsyncConnection, keys: KeyRing, account: Account) -> dict[str, str]:
    """The account's login at the broker, issued if there is none."""
    generation, key_id = account.mqtt_generation, account.mqtt_key_id
    if generation == 0 or key_id is None or key_id not in keys.ids:
        key_id = keys.newest
        generation = await accounts.issue_broker_login(connection, account.id, key_id)
        await audit.append(connection, account.tenant, ACTOR, "user.broker-login", f"user:{account.name}")
    username = f"user:{account.name}"
    password = person_password(keys, str(account.id), generation, key_id)
    return {"name": account.name, "username": username, "client_id": username, "password": password}


async def bootstrap(database_url: str, keys: KeyRing, tenant: str, admin: str, viewer: str | None) -> dict[str, Any]:
    """What the module says, in one transaction. Raises NotPossible and psycopg's errors."""
    async with await psycopg.AsyncConnection.connect(database_url, connect_timeout=10) as connection:
        await connection.execute(SET_TENANT, (EVERY_TENANT,))
        await connection.execute(sql.SQL("SELECT pg_advisory_xact_lock(hashtextextended('outrider bootstrap', 0))"))
        await ensure_tenant(connection, tenant)
        administrator = await ensure_account(connection, None, admin, "admin")
        answer: dict[str, Any] = {
            "tenant": tenant,
            "admin": await new_link(connection, administrator),
            "token": await command_token(connection, keys, administrator),
        }
        if viewer:
            answer["viewer"] = await broker_login(
                connection, keys, await ensure_account(connection, tenant, viewer, "viewer")
            )
    return answer


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints JSON; status 1 with a sentence on standard error when it cannot."""
    import asyncio

    parser = argparse.ArgumentParser(
        prog="python -m outrider_registry.bootstrap",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tenant", default="demo", help="tenant to make")
    parser.add_argument("--admin", default="admin", help="administrator of the platform")
    parser.add_argument("--viewer", help="viewer of the tenant, with a login at the broker")
    options = parser.parse_args(arguments)
    try:
        file = os.environ.get(FILE_VARIABLE)
        keys = KeyRing.load(os.environ.get(KEY_VARIABLE), Path(file) if file else None)
        url = os.environ["OUTRIDER_DATABASE_URL"]
        answer = asyncio.run(bootstrap(url, keys, options.tenant, options.admin, options.viewer))
    except KeyError:
        print("Set OUTRIDER_DATABASE_URL to the database with the registry's role.", file=sys.stderr)
        return 1
    except (BadMasterKey, NotPossible) as error:
        print(error, file=sys.stderr)
        return 1
    except psycopg.Error as error:
        print(f"The database refuses: {error}. Has `outrider migrate` run?", file=sys.stderr)
        return 1
    print(json.dumps(answer, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
