"""Safe retries: a POST with an `Idempotency-Key` is done once for its principal, and its answer is given again for a day."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

import psycopg
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from outrider.access.keys import KeyRing
from outrider.runtime.errors import Transient
from outrider_registry import errors
from outrider_registry.api.answers import of_error, problem_response
from outrider_registry.api.deps import home_transaction
from outrider_registry.context import Registry
from outrider_registry.principals import Principal
from outrider_registry.store import idempotency

log = logging.getLogger(__name__)

KEY_MAX = 200
KEPT_HEADERS = ("content-type", "etag", "location")


class Idempotency:
    """Only what succeeded is kept: a refused request changed nothing and may be sent again as it is.

    Answers are encrypted by a key derived from the master key, since they may hold a new secret.
    """

    def __init__(self, app: ASGIApp, registry: Registry) -> None:
        self._app = app
        self._registry = registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        who: Principal | None = scope.get("state", {}).get("principal") if scope["type"] == "http" else None
        key = Headers(scope=scope).get("idempotency-key") if who and scope["method"] == "POST" else None
        if who is None or key is None:
            await self._app(scope, receive, send)
            return
        try:
            if not 1 <= len(key) <= KEY_MAX or not key.isprintable():
                raise errors.Invalid(f"An Idempotency-Key has 1 to {KEY_MAX} printable characters; take a random UUID.")
            body = await _read(receive)
            if body is None:
                return
            request = hashlib.sha256()
            # With the scopes: somebody who may do less than before is not given what they got then.
            scopes = ",".join(sorted(who.scopes)).encode()
            for part in (scope["path"].encode(), scope["query_string"], (who.tenant or "").encode(), scopes, body):
                request.update(len(part).to_bytes(8, "big") + part)
            kept = await self._begin(who, key, request.digest())
        except (errors.Problem, Transient) as error:
            problem = of_error(error)
            assert problem is not None
            await problem_response(problem)(scope, receive, send)
            return
        if kept is not None:
            await kept(scope, receive, send)
            return
        await self._first(scope, _replayed(body, receive), send, who, key)

    async def _begin(self, who: Principal, key: str, request: bytes) -> Response | None:
        """None where this request is the one to do it, else the answer it had. Raises Conflict, Invalid."""
        async with home_transaction(self._registry, who) as connection:
            kept = await idempotency.begin(connection, _principal(who), key, who.home, request)
        if kept is None:
            return None
        if kept["request"] != request:
            raise errors.Invalid("This Idempotency-Key was used for another request. Take a new key for each request.")
        if kept["status"] is None:
            working = errors.Conflict(
                "The first request with this Idempotency-Key is still being worked on. Try again."
            )
            working.headers["Retry-After"] = "1"
            raise working
        try:
            content = cipher(self._registry.keys).decrypt(kept["body"])
        except InvalidToken:
            raise errors.Conflict(
                "This was done, and its answer cannot be read any more: the master key it was kept with is gone."
            ) from None
        answer = Response(content, kept["status"], kept["headers"])
        answer.headers["idempotency-replayed"] = "true"
        return answer

    async def _first(self, scope: Scope, receive: Receive, send: Send, who: Principal, key: str) -> None:
        start: Message | None = None
        content = bytearray()
        succeeded = False

        async def send_kept(message: Message) -> None:
            """The answer is kept before it is sent: whoever got it gets the same again."""
            nonlocal start, succeeded
            if message["type"] == "http.response.start":
                start = message
                return
            content.extend(message.get("body", b""))
            if message.get("more_body", False) or start is None:
                return
            if 200 <= start["status"] < 300:
                headers = MutableHeaders(scope=start)
                succeeded = await self._keep(who, key, start["status"], headers, bytes(content))
            await send(start)
            await send({"type": "http.response.body", "body": bytes(content)})

        try:
            await self._app(scope, receive, send_kept)
        finally:
            if not succeeded:
                await self._forget(who, key)

    async def _keep(self, who: Principal, key: str, status: int, headers: Headers, content: bytes) -> bool:
        kept: dict[str, Any] = {name: headers[name] for name in KEPT_HEADERS if name in headers}
        encrypted = cipher(self._registry.keys).encrypt(content)
        try:
            async with home_transaction(self._registry, who) as connection:
                await idempotency.keep(connection, _principal(who), key, status, kept, encrypted)
        except (Transient, psycopg.Error) as error:
            # It is done; a retry learns so from the row that stays, or does it again when that is too old.
            log.warning("answer_not_kept", extra={"reason": str(error)})
        return True

    async def _forget(self, who: Principal, key: str) -> None:
        try:
            async with home_transaction(self._registry, who) as connection:
                await idempotency.forget(connection, _principal(who), key)
        except Transient as error:
            log.warning("idempotency_key_not_freed", extra={"reason": str(error)})


def _principal(who: Principal) -> str:
    """Whose keys these are: a token's are its own, since it may do less than its owner."""
    return f"{who.account}/{who.token}" if who.token else str(who.account)


def cipher(keys: KeyRing) -> MultiFernet:
    """Encrypts with the newest master key, decrypts with all."""
    derived = (keys.secret("idempotency", key_id=key_id) + "=" for key_id in keys.ids)
    return MultiFernet([Fernet(key) for key in derived])


async def _read(receive: Receive) -> bytes | None:
    """The whole body; None when the client went away before its end."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
