"""Who should be known to the broker, read from the registry's tables: accounts with their roles, in a few queries."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg

from outrider.access import bootstrap, rights
from outrider.access.accounts import Client, Role, State
from outrider.access.keys import KeyRing, UnknownKey, fingerprint
from outrider.access.secrets import claim_token, device_secret, person_password, service_password
from outrider_registry.store.credentials import Secret

log = logging.getLogger(__name__)

# One table each, put together here: joined by the database, right after an import of which it has no statistics yet, 10,000
# devices took it minutes.
DEVICES = "SELECT id, tenant, status = 'active' FROM registry.device"
CHILDREN = "SELECT id, tenant, gateway FROM registry.device WHERE gateway IS NOT NULL AND status = 'active'"
SECRETS = "SELECT device, generation, key_id FROM registry.credential WHERE kind = 'secret' AND state = 'active'"
# A certificate opens a connection until it is over, whatever became of it here: the broker may not know it is revoked.
CERTIFICATES = """
SELECT device, state IN ('active', 'delivered') FROM registry.credential WHERE kind = 'certificate' AND expires_at > now()
"""
# Devices that are gone while a certificate of theirs is not over.
GONE = """
SELECT DISTINCT r.device FROM registry.revoked_certificate r
WHERE r.expires_at > now() AND NOT EXISTS (SELECT FROM registry.device d WHERE d.id = r.device)
"""
CLAIMS = """
SELECT c.id, c.key_id, extract(epoch FROM
       greatest(CASE WHEN c.state IN ('open', 'awaiting_approval') THEN c.expires_at END, c.client_until) - now())::float8
FROM registry.claim c JOIN registry.tenant t ON t.name = c.tenant
WHERE t.disabled_at IS NULL
  AND (c.state IN ('open', 'awaiting_approval') AND now() < c.expires_at OR now() < c.client_until)
"""
PEOPLE = """
SELECT a.id::text, a.name, a.tenant, a.mqtt_generation, a.mqtt_key_id
FROM registry.account a LEFT JOIN registry.tenant t ON t.name = a.tenant
WHERE a.mqtt_generation > 0 AND a.disabled_at IS NULL AND t.disabled_at IS NULL
"""
TENANTS = "SELECT name FROM registry.tenant WHERE disabled_at IS NULL"

CERTIFICATE = "certificate"
"""Fingerprint of an account without a password, whose device has a certificate."""
SHUT_OUT = "none"
"""Fingerprint of one that must not get in, with a certificate that would."""
CLAIM, PERSON = "claim:", "user:"


def is_device(username: str) -> bool:
    """True for a device's name, and for a stranger's; all others have a prefix."""
    return ":" not in username


@dataclass(slots=True)
class Wanted:
    """Accounts and roles that should be there."""

    state: State = field(default_factory=State)
    unknown: set[str] = field(default_factory=set)
    """User names whose master key is not at hand."""
    over_s: float = math.inf
    """In how many seconds the first of the claims is over."""

    def add(self, client: Client) -> None:
        """Take an account in, with the roles that need nothing but their name."""
        self.state.clients[client.username] = client
        for name in client.roles:
            if name not in self.state.roles and not name.startswith(rights.GATEWAY):
                self.state.roles[name] = Role.of(name, rights.role(name))

    def leave_unknown(self, actual: State) -> None:
        """Let those whose password nobody can tell stay as they are."""
        for name in self.unknown & actual.clients.keys():
            client = self.state.clients[name] = actual.clients[name]
            for role in client.roles:
                self.state.roles.setdefault(role, actual.roles[role])

    def forget(self, username: str, error: UnknownKey) -> None:
        """Note that nobody can tell this one's password."""
        self.unknown.add(username)
        log.error("broker_account_unknown", extra={"username": username, "reason": str(error)})


class Reader:
    """Reads what should be there, for a broker of one version."""

    def __init__(self, keys: KeyRing, knows_user_patterns: bool) -> None:
        self._keys = keys
        self._patterns = knows_user_patterns

    async def devices(self, connection: psycopg.AsyncConnection, names: Sequence[str] | None) -> Wanted:
        """These devices (None: all). In a transaction of the platform."""
        arguments = () if names is None else (list(names),)

        async def rows(query: str, column: str, joint: str) -> list[tuple[Any, ...]]:
            some = "" if names is None else f" {joint} {column} = ANY(%s)"
            return await (await connection.execute((query + some).encode(), arguments)).fetchall()

        enabled = {name for (name,) in await (await connection.execute(TENANTS)).fetchall()}
        found = {row[0]: row for row in await rows(DEVICES, "id", "WHERE")}
        secrets = {device: (generation, key_id) for device, generation, key_id in await rows(SECRETS, "device", "AND")}
        certificates: dict[str, bool] = {}
        for device, valid in await rows(CERTIFICATES, "device", "AND"):
            certificates[device] = valid or certificates.get(device, False)
        children: dict[str, list[tuple[str, str]]] = {}
        for child, tenant, gateway in await rows(CHILDREN, "gateway", "AND"):
            if gateway in found and found[gateway][1] == tenant:
                children.setdefault(gateway, []).append((tenant, child))

        wanted = Wanted()
        for device, tenant, active in found.values():
            try:
                secret = secrets.get(device)
                client = self._device(device, tenant, active and tenant in enabled, secret, certificates.get(device))
            except UnknownKey as error:
                wanted.forget(device, error)
                continue
            if client is None:
                continue
            if device in children and rights.DENIED not in client.roles:
                role = rights.GATEWAY + device
                client = replace(client, roles=client.roles | {role})
                wanted.state.roles[role] = Role.of(role, rights.gateway_role(children[device]))
            wanted.add(client)
        for (device,) in await rows(GONE, "r.device", "AND"):
            wanted.add(self._shut_out(device))
        return wanted

    def _device(
        self, device: str, tenant: str, enabled: bool, secret: tuple[int, str] | None, certificate: bool | None
    ) -> Client | None:
        """`secret`: generation and key id; `certificate`: None without one that is not over, else whether it is valid."""
        if enabled and secret is not None:
            generation, key_id = secret
            password = device_secret(self._keys, device, generation, key_id)
            return self._client(device, tenant, fingerprint(password, generation, key_id), password)
        if enabled and certificate:
            return self._client(device, tenant, CERTIFICATE, None)
        return self._shut_out(device) if certificate is not None else None

    def _client(self, device: str, tenant: str, mark: str, password: str | None) -> Client:
        if self._patterns:
            return Client(device, mark, device, frozenset({rights.TENANT + tenant}), password=password)
        # Every account makes every command of Mosquitto 2.0 slower. The devices' listener forces the client id anyway.
        return Client(device, mark, None, frozenset({rights.DEVICE}), password=password)

    def _shut_out(self, device: str) -> Client:
        return Client(device, SHUT_OUT, None, frozenset({rights.DENIED}), disabled=True)

    async def named(self, connection: psycopg.AsyncConnection) -> Wanted:
        """All claims and people. In a transaction of the platform."""
        wanted = Wanted()
        for claim, key_id, over_s in await (await connection.execute(CLAIMS)).fetchall():
            name = CLAIM + claim
            wanted.over_s = min(wanted.over_s, over_s)
            try:
                token = claim_token(self._keys, claim, key_id)
            except UnknownKey as error:
                wanted.forget(name, error)
                continue
            wanted.add(Client(name, fingerprint(token, 1, key_id), name, frozenset({name}), password=token))
        for account, person, tenant, generation, key_id in await (await connection.execute(PEOPLE)).fetchall():
            name = PERSON + person
            try:
                password = person_password(self._keys, account, generation, key_id)
            except UnknownKey as error:
                wanted.forget(name, error)
                continue
            role = rights.VIEWER + (tenant or rights.EVERY_TENANT)
            mark = fingerprint(password, generation, key_id or self._keys.newest)
            wanted.add(Client(name, mark, name, frozenset({role}), password=password))
        return wanted

    async def roles(self, connection: psycopg.AsyncConnection) -> list[Role]:
        """The roles that devices need. In a transaction of the platform."""
        names = [rights.DENIED]
        if self._patterns:
            names += [rights.TENANT + name for (name,) in await (await connection.execute(TENANTS)).fetchall()]
        else:
            names.append(rights.DEVICE)
        return [Role.of(name, rights.role(name)) for name in names]

    def services(self) -> Wanted:
        """The services' accounts, as the bootstrap puts them there."""
        wanted = Wanted()
        for service in bootstrap.services():
            name = bootstrap.username_of(service)
            mark = bootstrap.service_fingerprint(self._keys, service)
            password = service_password(self._keys, service)
            wanted.state.roles[name] = Role.of(name, rights.service_role(service))
            wanted.add(Client(name, mark, None, frozenset({name}), password=password))
        return wanted


def ahead(wanted: State, actual: State, names: Iterable[str], keys: KeyRing) -> list[Secret]:
    """Secrets of these devices that the broker has, of a later generation than it should; only ones that were given out here:
    their fingerprints need the master key."""
    found = []
    for name in names:
        client, own = actual.clients.get(name), wanted.clients.get(name)
        known = _generation(client) if client is not None else None
        if client is None or known is None or known[0] <= ((_generation(own) if own else None) or (0, ""))[0]:
            continue
        secret = Secret(name, *known, "active")
        with suppress(UnknownKey):
            if fingerprint(secret.of(keys), *known) == client.fingerprint:
                found.append(secret)
    return found


def _generation(client: Client) -> tuple[int, str] | None:
    """Generation and key id of an account's password; None where its fingerprint is no password's."""
    number, _, rest = client.fingerprint.partition(".")
    key_id, _, digest = rest.partition(".")
    return (int(number), key_id) if number.isdecimal() and len(number) < 10 and key_id and digest else None


def merged(parts: Iterable[Wanted], roles: Iterable[Role]) -> Wanted:
    """Several in one."""
    whole = Wanted()
    for part in parts:
        whole.state.clients |= part.state.clients
        whole.state.roles |= part.state.roles
        whole.unknown |= part.unknown
        whole.over_s = min(whole.over_s, part.over_s)
    for role in roles:
        whole.state.roles[role.name] = role
    return whole
