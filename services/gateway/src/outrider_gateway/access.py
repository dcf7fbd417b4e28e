"""Who a request is from: a device with its key, or a program with an API token of the registry.

Keys are compared inside the database, with the SHA-256 the registry keeps; the master key is never here. What was found is
remembered for half an hour and forgotten when the registry tells of a change (NOTIFY `outrider_registry`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

from fastapi import Depends, Request
from prometheus_client import Counter
from starlette.datastructures import Headers

from outrider.contract import topics
from outrider.runtime.database import Database
from outrider_gateway.errors import Forbidden, Invalid, NotFound, NotSignedIn, TooMany
from outrider_gateway.known import Failures, Known, listen
from outrider_gateway.store import keys

CHECKS = Counter(
    "outrider_gateway_key_checks", "Keys and tokens looked at, by kind and where the answer was", ["kind", "answer"]
)

DEVICE_SCOPES = frozenset({"telemetry:write"})
"""What a device's key is good for."""
DEVICE_HEADER = "outrider-device"
TENANT_HEADER = "outrider-tenant"
_READ = frozenset({"telemetry:read", "trips:read", "devices:read"})
_WRITE = _READ | {"telemetry:write"}
ROLE_SCOPES: dict[str, frozenset[str]] = {"viewer": _READ, "operator": _WRITE, "admin": _WRITE}
"""Of what the registry's roles may do, what there is here: a token never has more than its owner's role."""
UNKNOWN_TOKEN = "This token is not known here, has expired or was ended. Make a new one: `outrider token create`."
WRONG_KEY = (
    "There is no such device, or this is not its key. The user name is the device's id, the password its secret "
    "(`outrider device create`, `outrider device rotate`)."
)
HOW = (
    "Send a device's key (`curl -u DEVICE:SECRET`) or a token (`Authorization: Bearer …`, with the header "
    "`Outrider-Device` when it sends for a device)."
)


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever is behind a request."""

    kind: Literal["token", "device"]
    tenant: str
    """The tenant acted in; all queries are about it alone."""
    device: str | None
    """The device whose key it is; None for a token."""
    scopes: frozenset[str]
    name: str
    """Of the device, or of the token's owner."""
    address: str = ""
    holder: str | None = None
    """The token's id."""

    @property
    def actor(self) -> str:
        """As the audit names it."""
        return f"device:{self.device}" if self.kind == "device" else f"token:{self.name}/{self.holder}"

    def require(self, scope: str) -> None:
        """Raises Forbidden with the scope that is missing."""
        if scope not in self.scopes:
            who = "A device's key" if self.kind == "device" else "This token"
            raise Forbidden(f"{who} lacks the scope {scope}. Use a token that has it: `outrider token create`.")


class Access:
    """Checks keys and tokens, with a memory. Raises NotSignedIn, Forbidden, TooMany; Transient while the database is away."""

    def __init__(self, database: Database, database_url: str, cache_s: float, failures_max: int) -> None:
        self._database = database
        self._database_url = database_url
        self.known = Known(cache_s)
        self.failures = Failures(failures_max)

    async def listen(self) -> None:
        """Hear of changes until cancelled; while it cannot, nothing is remembered."""
        await listen(self._database_url, self._database.application_name, self.known)

    def problem(self) -> str | None:
        """Why changes of the registry are not heard; None while they are."""
        return self.known.problem

    async def of_token(self, token: str, tenant: str | None, address: str) -> Principal:
        """Who has this token. `tenant`: the one to act in, which administrators of the platform must name."""
        hashed = digest(token)
        found: keys.Token = await self._check("token", (hashed,), address, lambda db: keys.token(db, hashed))
        if found.refused is not None:
            raise NotSignedIn(found.refused or UNKNOWN_TOKEN)
        acts_in = tenant or found.tenant
        if acts_in is None:
            raise Forbidden("Name the tenant to work in: header Outrider-Tenant.")
        if acts_in != found.tenant and (found.tenant is not None or not await self._tenant_exists(acts_in)):
            raise NotFound(f"There is no tenant {acts_in[:63]!r} that you may work in.")
        allowed = ROLE_SCOPES.get(found.role, frozenset())
        return Principal("token", acts_in, None, allowed & frozenset(found.scopes), found.name, address, found.holder)

    async def of_device(self, device: str, secret: str, address: str) -> Principal:
        """The device with this id and secret."""
        hashed = digest(secret)
        if not topics.is_name(device):
            raise NotSignedIn(WRONG_KEY)
        found: keys.Key = await self._check(
            "device", (hashed, device), address, lambda db: keys.key(db, device, hashed)
        )
        if found.refused is not None:
            raise NotSignedIn(found.refused or WRONG_KEY)
        assert found.tenant is not None
        return Principal("device", found.tenant, device, DEVICE_SCOPES, device, address)

    async def sender(self, who: Principal, wanted: str | None) -> str:
        """The device that this principal sends for: itself, one behind it, or for a token the one it names.

        Raises Invalid where a token names none, NotFound for a device of others, Forbidden for a disabled one.
        """
        device = wanted or who.device
        if device is None:
            raise Invalid("Name the device this is from: header Outrider-Device.")
        if device == who.device:
            return device
        missing = NotFound(f"There is no device {device[:63]!r} that you may send for.")
        if not topics.is_name(device):
            raise missing
        found: keys.Device | None = self.known.get(("of", device))
        if found is None:
            changes = self.known.changes
            found = await keys.device(self._database, device)
            self.known.put(("of", device), found, found.tenant, device, changes=changes, good=found.tenant is not None)
        if found.tenant != who.tenant or (who.device is not None and found.gateway != who.device):
            raise missing
        if found.refused:
            raise Forbidden(found.refused)
        return device

    async def _tenant_exists(self, tenant: str) -> bool:
        exists: bool | None = self.known.get(("tenant", tenant)) if topics.is_name(tenant) else False
        if exists is None:
            changes = self.known.changes
            exists = await keys.tenant_exists(self._database, tenant)
            self.known.put(("tenant", tenant), exists, tenant, None, changes=changes, good=exists)
        return exists

    async def _check(
        self, kind: str, key: tuple[Any, ...], address: str, ask: Callable[[Database], Awaitable[Any]]
    ) -> Any:
        # The memory is found by the SHA-256 of what was sent, so no secret is compared here letter by letter.
        found = self.known.get((kind, *key))
        if found is not None:
            CHECKS.labels(kind, "known" if found.refused is None else "known_wrong").inc()
            return found
        wait_s = self.failures.wait_s(address)
        if wait_s:
            CHECKS.labels(kind, "limited").inc()
            raise TooMany(
                f"Too many wrong keys came from your address; the next is looked at in {wait_s} s.",
                wait_s,
                limit={"name": "failed_keys", "max": self.failures.max},
            )
        changes = self.known.changes
        found = await ask(self._database)
        good = found.refused is None
        self.known.put(
            (kind, *key), found, found.tenant, found.holder, changes=changes, good=good, valid_s=found.valid_s
        )
        if not good:
            self.failures.note(address, key)
        CHECKS.labels(kind, "looked_up" if good else "wrong").inc()
        return found


def digest(secret: str) -> bytes:
    """What the registry keeps of a secret or token."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def basic(credential: str) -> tuple[str, str] | None:
    """User name and password of `Authorization: Basic …`; None for what is none."""
    try:
        text = base64.b64decode(credential.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    name, colon, password = text.partition(":")
    return (name, password) if colon else None


def address_of(request: Request) -> str:
    """Where a request comes from; of IPv6 the /64, since whoever has one address there has all."""
    return _address((request.scope.get("client") or ("",))[0])


@lru_cache(maxsize=10_000)
def _address(host: str) -> str:
    try:
        address = ipaddress.ip_address(host.split("%", 1)[0])
    except ValueError:
        return host[:100]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        if not address.is_loopback:
            return str(ipaddress.ip_network((int(address), 64), strict=False))
    return str(address)


async def principal(request: Request) -> Principal:
    """Who asks, by the header Authorization. Raises NotSignedIn, TooMany, Forbidden, NotFound."""
    access: Access = request.app.state.gateway.access
    return await identify(access, request.headers, address_of(request))


async def identify(access: Access, headers: Headers, address: str) -> Principal:
    """Who has these headers. Raises NotSignedIn, TooMany, Forbidden, NotFound."""
    scheme, _, credential = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return await access.of_token(credential.strip(), headers.get(TENANT_HEADER), address)
    if scheme.lower() == "basic":
        pair = basic(credential)
        if pair is None:
            raise NotSignedIn(f"The header Authorization is no Basic one. {HOW}")
        return await access.of_device(*pair, address)
    raise NotSignedIn(HOW)


PrincipalDep = Annotated[Principal, Depends(principal)]


def needs(scope: str) -> Any:
    """A dependency that gives the Principal, or refuses one without this scope: `Annotated[Principal, needs("…")]`."""

    async def allowed(who: PrincipalDep) -> Principal:
        who.require(scope)
        return who

    return Depends(allowed)
