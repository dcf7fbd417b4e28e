"""Who asks: an API token, or the console's session cookie with a CSRF token on what changes something."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from outrider.runtime.errors import Transient
from outrider_registry import errors
from outrider_registry.api.answers import of_error, problem_response
from outrider_registry.context import Registry
from outrider_registry.principals import Principal, scopes_of
from outrider_registry.store import sessions, tokens
from outrider_registry.store.sessions import Found
from outrider_registry.store.transactions import of_platform

COOKIE = "outrider_session"
CSRF_HEADER = "x-csrf-token"
TENANT_HEADER = "outrider-tenant"
SIGN_IN_PATHS = frozenset({"/api/v1/session", "/api/v1/session/link"})
"""A POST here begins a session; one that there may be plays no part."""
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Authentication:
    """Puts `principal` into the request's state, or `refused`: the problem that whoever needs a principal then raises.

    So routes without sign-in work with an old cookie too. A request that changes something and comes from another
    site, or with a cookie and no CSRF token, is refused here.
    """

    def __init__(self, app: ASGIApp, registry: Registry) -> None:
        self._app = app
        self._registry = registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or not scope["path"].startswith("/api/"):
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["principal"] = None
        state["address"] = address_of(scope)
        try:
            await self._identify(scope, Headers(scope=scope))
        except (errors.Problem, Transient) as error:
            problem = of_error(error)
            assert problem is not None
            await problem_response(problem)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _identify(self, scope: Scope, headers: Headers) -> None:
        unsafe = scope["method"] not in SAFE
        if unsafe and headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
            raise errors.Forbidden("This request came from a page of another site.")
        state = scope["state"]
        scheme, _, credential = headers.get("authorization", "").partition(" ")
        cookie = session_cookie(headers)
        if scheme.lower() == "bearer":
            found = await who_has_token(self._registry, credential.strip())
            if found is None:
                state["refused"] = errors.NotSignedIn(
                    "This token is not known here, has expired or was ended. Make a new one: `outrider token create`."
                )
        elif cookie and not (scope["method"] == "POST" and scope["path"] in SIGN_IN_PATHS):
            found = await who_has_session(self._registry, cookie)
            if found is None:
                state["refused"] = errors.NotSignedIn("The session has ended. Sign in again.")
            elif unsafe and not hmac.compare_digest(headers.get(CSRF_HEADER, "").encode(), csrf_of(cookie).encode()):
                raise errors.Forbidden("Send the header X-CSRF-Token with `csrf` of GET /api/v1/session.")
            else:
                state["session"] = found.session
        else:
            return
        if found is None:
            return
        try:
            state["principal"] = await self._principal(found, headers.get(TENANT_HEADER), state["address"])
        except errors.Problem as refused:
            state["refused"] = refused

    async def _principal(self, found: Found, wanted: str | None, address: str) -> Principal:
        if found.refused:
            raise errors.NotSignedIn(found.refused)
        tenant = found.tenant or found.acting_in
        if wanted is not None and wanted != found.tenant:
            if found.tenant is not None or not await tenant_exists(self._registry, wanted):
                raise errors.NotFound(f"There is no tenant {wanted[:63]!r} that you may work in.")
            tenant = wanted
        scopes = scopes_of(found.role, found.tenant)
        return Principal(
            account=found.account,
            name=found.name,
            tenant=tenant,
            home=found.tenant,
            role=found.role,
            scopes=scopes if found.scopes is None else scopes & found.scopes,
            token=found.token,
            address=address,
        )


async def who_has_token(registry: Registry, token: str) -> Found | None:
    """Crosses tenants: whose a token is, is not known before it is looked up."""
    async with of_platform(registry.database) as connection:
        return await tokens.find(connection, digest(token))


async def who_has_session(registry: Registry, cookie: str) -> Found | None:
    """Crosses tenants: whose a session is, is not known before it is looked up."""
    async with of_platform(registry.database) as connection:
        return await sessions.find(connection, digest(cookie))


async def tenant_exists(registry: Registry, tenant: str) -> bool:
    """Crosses tenants, for administrators of the platform."""
    async with of_platform(registry.database) as connection:
        cursor = await connection.execute("SELECT 1 FROM registry.tenant WHERE name = %s", (tenant,))
        return await cursor.fetchone() is not None


def digest(secret: str) -> bytes:
    """What is stored of a random secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def csrf_of(cookie: str) -> str:
    """The CSRF token of a session: known to pages that can read an answer, never sent by the browser itself."""
    return base64.urlsafe_b64encode(hmac.digest(cookie.encode(), b"outrider csrf", hashlib.sha256)).decode().rstrip("=")


def session_cookie(headers: Headers) -> str | None:
    """The session's cookie of a request."""
    try:
        cookies = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return None
    return cookies[COOKIE].value or None if COOKIE in cookies else None


def address_of(scope: Scope) -> str:
    """Where a request comes from; of IPv6 the /64, since whoever has one address there has all."""
    host = (scope.get("client") or ("",))[0]
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
