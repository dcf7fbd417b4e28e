"""The broker's first accounts: the file of its dynamic-security plugin with the services in it and nobody else.

Devices, people and claims come later, from the registry (`dynsec` is a cache of PostgreSQL). The services must be able
to sign in before, or nothing could put the others there.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from outrider.access import rights, seed
from outrider.access.keys import FILE_VARIABLE, KEY_VARIABLE, KeyRing, fingerprint
from outrider.access.rights import Acl, role_document
from outrider.access.secrets import service_password
from outrider.runtime.errors import OutriderError

Version = tuple[int, int, int]

ENCODED_SINCE: Version = (2, 1, 0)
"""Since then the plugin writes `encoded_password`, which older ones cannot read; all read the three older fields."""
ITERATIONS = 1000
"""Secrets are 32 random bytes, so a costly hash protects nothing, and it would run on the broker's only thread."""
SALT_BYTES = 12
"""Mosquitto 2.0 takes salts of this length only."""
HASH_BYTES = 64
SERVICE_PREFIX = "svc:"
DEFAULT_ACCESS = {"publishClientSend": False, "publishClientReceive": False, "subscribe": False, "unsubscribe": False}


@dataclass(frozen=True)
class Account:
    """An account that is in the file from the start, with a role of its own name; `client_id` None: any.

    `fingerprint` tells the registry that its password is the right one (`keys.fingerprint`).
    """

    username: str
    password: str
    acls: tuple[Acl, ...]
    client_id: str | None = None
    fingerprint: str = ""


def username_of(service: str) -> str:
    """The broker's user name of a service, which is also its role's name."""
    return f"{SERVICE_PREFIX}{service}"


def services() -> list[str]:
    """Every service that gets an account: the platform's own, and what else is installed."""
    return sorted({*rights.SERVICES, *(entry.name for entry in entry_points(group="outrider.services"))})


def service_accounts(keys: KeyRing) -> list[Account]:
    """The accounts of all services, each with its derived password and its own rights."""
    return [
        Account(
            username_of(service),
            service_password(keys, service),
            rights.service_role(service),
            fingerprint=service_fingerprint(keys, service),
        )
        for service in services()
    ]


def service_fingerprint(keys: KeyRing, service: str) -> str:
    """What tells a service's password from another one."""
    return fingerprint(service_password(keys, service), 1, keys.ids[-1])


def bootstrap_document(keys: KeyRing, version: Version, extra_accounts: Iterable[Account] = ()) -> dict[str, Any]:
    """dynamic-security.json for a broker of this version: everything denied but to the services."""
    accounts = [*service_accounts(keys), *extra_accounts]
    return {
        "defaultACLAccess": dict(DEFAULT_ACCESS),
        "clients": [_client(account, version) for account in accounts],
        "groups": [],
        "roles": [role_document(account.username, account.acls) for account in accounts],
    }


def ensure(path: Path, keys: KeyRing, version: Version, extra_accounts: Iterable[Account] = ()) -> bool:
    """Makes sure that the services can sign in once the broker reads this file; True if it had to be written.

    A file that is missing, empty, cut off, or not the platform's (Mosquitto's own with `democlient`) is replaced. In one
    of ours only what is wrong is mended: service accounts (those of services that are gone go), their rights, default
    accesses. Everybody else stays, but for accounts whose password this version cannot read: the registry makes them
    again. Only while the broker does not run: it reads the file once.
    """
    extra = list(extra_accounts)
    wanted = [*service_accounts(keys), *extra]
    document, _ = seed.read(str(path))
    if document is None:
        seed.write(str(path), json.dumps(bootstrap_document(keys, version, extra)))
        return True
    mended = _mended(document, wanted, version)
    if mended == document:
        return False
    seed.write(str(path), json.dumps(mended))
    return True


def write_seed(path: Path, keys: KeyRing, version: Version, extra_accounts: Iterable[Account] = ()) -> None:
    """What `outrider.access.seed` puts in the place of a lost file while no keys are at hand."""
    seed.write(str(path), json.dumps(bootstrap_document(keys, version, extra_accounts)))


def hash_password(password: str, salt: bytes | None = None) -> dict[str, Any]:
    """The plugin's three fields of a password, as every version reads them: PBKDF2 (RFC 8018) with SHA-512."""
    salt = os.urandom(SALT_BYTES) if salt is None else salt
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS, HASH_BYTES)
    return {
        "password": base64.b64encode(digest).decode(),
        "salt": base64.b64encode(salt).decode(),
        "iterations": ITERATIONS,
    }


def password_matches(client: Mapping[str, Any], password: str) -> bool:
    """True if this account of the file takes this password, in either version's form."""
    try:
        encoded = client.get("encoded_password")
        if encoded is not None:
            _, kind, iterations, salt, digest = str(encoded).split("$")
            if kind != "7":
                return False
        else:
            iterations, salt, digest = client["iterations"], client["salt"], client["password"]
        expected = base64.b64decode(digest, validate=True)
        found = hashlib.pbkdf2_hmac(
            "sha512", password.encode(), base64.b64decode(salt, validate=True), int(iterations), len(expected)
        )
    except (KeyError, ValueError, TypeError):
        return False
    return hmac.compare_digest(found, expected)


def _client(account: Account, version: Version) -> dict[str, Any]:
    client: dict[str, Any] = {"username": account.username}
    if account.client_id is not None:
        client["clientid"] = account.client_id
    if account.fingerprint:
        client["textname"] = account.fingerprint
    client["roles"] = [{"rolename": account.username}]
    return client | hash_password(account.password)


def _mended(document: dict[str, Any], wanted: Sequence[Account], version: Version) -> dict[str, Any]:
    known = {client["username"]: client for client in document["clients"] if "username" in client}
    roles = {role["rolename"]: role for role in document["roles"] if "rolename" in role}
    clients = [
        client for name, client in known.items() if not name.startswith(SERVICE_PREFIX) and _readable(client, version)
    ]
    for account in wanted:
        client = known.get(account.username)
        good = client is not None and _is_good(client, account, version)
        clients.append(client if client is not None and good else _client(account, version))
    kept_roles = [role for name, role in roles.items() if not name.startswith(SERVICE_PREFIX)]
    for account in wanted:
        role, right = roles.get(account.username), role_document(account.username, account.acls)
        kept_roles.append(role if role is not None and _same_rights(role, right) else right)
    mended = {**document, "defaultACLAccess": dict(DEFAULT_ACCESS), "clients": clients, "roles": kept_roles}
    return mended if _content(mended) != _content(document) else document


def _is_good(client: dict[str, Any], account: Account, version: Version) -> bool:
    return (
        _readable(client, version)
        and not client.get("disabled")
        and client.get("clientid") == account.client_id
        and client.get("textname", "") == account.fingerprint
        and [role.get("rolename") for role in client.get("roles", [])] == [account.username]
        and password_matches(client, account.password)
    )


def _readable(client: dict[str, Any], version: Version) -> bool:
    return version >= ENCODED_SINCE or "encoded_password" not in client


def _same_rights(role: dict[str, Any], right: dict[str, Any]) -> bool:
    return _rules(role) == _rules(right)


def _rules(role: dict[str, Any]) -> set[tuple[Any, ...]]:
    return {
        (acl.get("acltype"), acl.get("topic"), acl.get("priority", 0), acl.get("allow", False))
        for acl in role.get("acls", [])
    }


def _content(document: dict[str, Any]) -> tuple[Any, ...]:
    """What matters of a document, whatever its order: the plugin sorts it in its own way."""

    def by(items: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
        return sorted(items, key=lambda item: str(item.get(name)))

    access = document.get("defaultACLAccess")
    return access, by(document["clients"], "username"), by(document["roles"], "rolename")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line, for a start script of a broker that is not the embedded one; returns the exit code."""
    # only here: the servers' modules need this one
    from outrider.servers import ServerError
    from outrider.servers.mosquitto_program import find, parse_version, version_of

    parser = argparse.ArgumentParser(prog="outrider broker bootstrap", description=__doc__)
    parser.add_argument("--file", type=Path, required=True, help="the broker's dynamic-security.json")
    parser.add_argument("--master-key-file", type=Path, help=f"else {KEY_VARIABLE} or {FILE_VARIABLE}")
    parser.add_argument("--mosquitto", help="the broker's version (2.1, 2.0) or its program; else the installed one")
    given = parser.parse_args(arguments)
    named = os.environ.get(FILE_VARIABLE)
    file = given.master_key_file or (Path(named) if named else None)
    try:
        keys = KeyRing.load(None if given.master_key_file else os.environ.get(KEY_VARIABLE), file)
        if given.mosquitto is None:
            version = find().version
        elif given.mosquitto[:1].isdigit():
            version = parse_version(f"version {given.mosquitto}.0")
        else:
            version = version_of([given.mosquitto])
        written = ensure(given.file, keys, version)
    except (OutriderError, ServerError, OSError, ValueError) as error:
        print(f"The broker's accounts could not be checked: {error}", file=sys.stderr)
        return 1
    print(f"{given.file}: {'the service accounts were put right' if written else 'as it should be'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
