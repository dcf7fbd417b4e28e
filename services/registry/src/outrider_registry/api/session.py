"""Signing in and out, own password and second factor."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from psycopg.errors import ForeignKeyViolation
from pydantic import BaseModel, Field

from outrider_registry import passwords, second_factor
from outrider_registry.api.authentication import COOKIE, session_cookie
from outrider_registry.api.deps import PrincipalDep, RegistryDep, home_transaction
from outrider_registry.api.sign_in import (
    begin_session,
    check_code,
    check_password,
    consume_link,
    describe,
    home_of,
    is_https,
    note_failure,
    own_account,
    own_session,
    refuse_disabled,
    who_has_name,
    whose_link,
)
from outrider_registry.errors import Conflict, Forbidden, Invalid, NotFound, NotSignedIn
from outrider_registry.store import accounts, attempts, audit, sessions

router = APIRouter(tags=["session"])

Password = Annotated[str, Field(min_length=1, max_length=1000, examples=["correct horse battery staple"])]
Code = Annotated[str, Field(min_length=6, max_length=10, description="Of the authenticator app.", examples=["123456"])]


class SignIn(BaseModel):
    """Name and password, and a code where a second factor is set."""

    name: Annotated[str, Field(min_length=1, max_length=127, examples=["ann@acme.example"])]
    password: Password
    code: Code | None = None


class SignInByLink(BaseModel):
    """A one-time link's secret part."""

    link: Annotated[str, Field(min_length=1, max_length=200)]
    code: Code | None = None


class SessionChange(BaseModel):
    """What a platform administrator looks at."""

    acting_in: Annotated[
        str | None, Field(max_length=63, description="A tenant; null: the platform.", examples=["acme"])
    ]


class PasswordChange(BaseModel):
    """Another password."""

    current: Annotated[str | None, Field(max_length=1000, description="Not needed after a one-time link.")] = None
    new: Annotated[str, Field(max_length=1000, description="At least 12 characters.")]


class TotpConfirmation(BaseModel):
    """A code of the authenticator that has just been set up."""

    code: Code


class TotpEnd(BaseModel):
    """The password, so that an unattended browser is not enough."""

    password: Password


class SessionAnswer(BaseModel):
    """Who is signed in, and what they may do."""

    name: str
    role: str
    tenant: str | None = Field(description="The tenant acted in; null: none chosen (platform).")
    home: str | None = Field(description="The tenant of the account; null: it administrates the platform.")
    platform: bool
    scopes: list[str]
    csrf: str | None = Field(description="For the header X-CSRF-Token; null where a token asks.")
    totp: bool = Field(description="A second factor is set.")
    must_set_password: bool = Field(description="There is no password yet.")
    url: str = Field(description="Where people reach the console.")
    version: str = Field(description="Of Outrider.")


class TotpSetup(BaseModel):
    """What to type or scan into an authenticator app, then confirm."""

    secret: str
    uri: str
    qr: str = Field(description="SVG.")


@router.post("/session", summary="Sign in", response_model=SessionAnswer)
async def sign_in(body: SignIn, request: Request, response: Response, registry: RegistryDep) -> dict[str, Any]:
    """Sets the session's cookie. 401 with `needs_code: true` asks for the second factor's code."""
    address = request.state.address
    attempt = await attempts.admit(
        registry.database, f"name:{body.name}", f"address:{address}", limit=registry.settings.sign_in_attempts
    )
    account = await who_has_name(registry, body.name)
    # Hashed in any case, so that the time does not tell whether the name exists.
    right = await passwords.verified(body.password, account.password_hash if account else None)
    if account is None or not right:
        await note_failure(registry, account, address, "password")
        raise NotSignedIn("Name or password is wrong.")
    refuse_disabled(account)
    await check_code(registry, account, body.code, attempt, address)
    if account.password_hash and passwords.is_outdated(account.password_hash):
        rehashed = await passwords.hashed(body.password)
        async with home_of(registry, account) as connection:
            await accounts.rehash(connection, account, rehashed)
    return await begin_session(registry, account, address, response, attempt, by_link=False)


@router.post("/session/link", summary="Sign in with a one-time link", response_model=SessionAnswer)
async def sign_in_by_link(
    body: SignInByLink, request: Request, response: Response, registry: RegistryDep
) -> dict[str, Any]:
    """The link is good once. A second factor, where one is set, is asked for all the same."""
    address = request.state.address
    attempt = await attempts.admit(registry.database, f"address:{address}", limit=registry.settings.sign_in_attempts)
    account = await whose_link(registry, body.link)
    refuse_disabled(account)
    await check_code(registry, account, body.code, attempt, address)
    await consume_link(registry, account, body.link)
    return await begin_session(registry, account, address, response, attempt, by_link=True)


@router.get("/session", summary="Who is signed in", response_model=SessionAnswer)
async def read(request: Request, who: PrincipalDep, registry: RegistryDep) -> dict[str, Any]:
    """Also for tokens: it says whose, and with which scopes."""
    async with home_transaction(registry, who) as connection:
        account = await own_account(connection, who)
    cookie = None if who.token else session_cookie(request.headers)
    return describe(registry, account, who.tenant, sorted(who.scopes), cookie)


@router.patch("/session", summary="Choose the tenant to look at", response_model=SessionAnswer)
async def change(body: SessionChange, request: Request, who: PrincipalDep, registry: RegistryDep) -> dict[str, Any]:
    """For administrators of the platform."""
    if not who.is_platform:
        raise Forbidden("Only administrators of the platform choose a tenant; you work in your own.")
    hash_ = own_session(request)
    try:
        async with home_transaction(registry, who) as connection:
            await sessions.act_in(connection, hash_, body.acting_in)
            account = await own_account(connection, who)
    except ForeignKeyViolation:
        raise NotFound(f"There is no tenant {body.acting_in!r}.") from None
    return describe(registry, account, body.acting_in, sorted(who.scopes), session_cookie(request.headers))


@router.delete("/session", status_code=204, summary="Sign out")
async def sign_out(request: Request, response: Response, who: PrincipalDep, registry: RegistryDep) -> None:
    """Ends this session."""
    hash_ = own_session(request)
    async with home_transaction(registry, who) as connection:
        await sessions.end(connection, hash_)
        await audit.append(connection, who.home, who.actor, "session.end", f"user:{who.name}", {}, who.address)
    response.delete_cookie(COOKIE, path="/", secure=is_https(registry), httponly=True, samesite="strict")


@router.post("/session/password", status_code=204, summary="Set the own password")
async def set_password(body: PasswordChange, request: Request, who: PrincipalDep, registry: RegistryDep) -> None:
    """Ends all other sessions of the account."""
    hash_ = own_session(request)
    async with home_transaction(registry, who) as connection:
        account = await own_account(connection, who)
        free = await sessions.is_by_link(connection, hash_)
    if not free:
        await check_password(registry, account, body.current, who.address)
    passwords.check(body.new, who.name)
    hashed = await passwords.hashed(body.new)
    async with home_transaction(registry, who) as connection:
        await accounts.set_password(connection, account.id, hashed)
        await sessions.password_was_set(connection, hash_)
        ended = await sessions.end_others(connection, account.id, hash_)
        detail = {"sessions_ended": ended}
        await audit.append(connection, who.home, who.actor, "password.set", f"user:{who.name}", detail, who.address)


@router.post("/session/totp", summary="Set up a second factor", response_model=TotpSetup)
async def begin_totp(request: Request, who: PrincipalDep, registry: RegistryDep) -> dict[str, str]:
    """Nothing changes until it is confirmed with a code; asking again makes a new secret."""
    own_session(request)
    key_id = registry.keys.newest
    async with home_transaction(registry, who) as connection:
        generation = await accounts.begin_totp(connection, who.account, key_id)
    if generation is None:
        raise Conflict("There is a second factor already. Remove it first, then set up another.")
    return second_factor.setup(registry.keys, who.account, who.name, generation, key_id)


@router.post("/session/totp/confirm", status_code=204, summary="Confirm the second factor")
async def confirm_totp(body: TotpConfirmation, request: Request, who: PrincipalDep, registry: RegistryDep) -> None:
    """From now on signing in takes a code."""
    own_session(request)
    attempt = await attempts.admit(registry.database, f"totp:{who.account}", limit=registry.settings.sign_in_attempts)
    async with home_transaction(registry, who) as connection:
        account = await own_account(connection, who, lock=True)
        if account.has_totp or account.totp_generation == 0:
            raise Conflict("There is nothing to confirm. Set up a second factor first: POST /api/v1/session/totp.")
        step = second_factor.step_of(registry.keys, account, body.code)
        if step is None or not await accounts.use_totp_step(connection, account.id, step):
            raise Invalid("This code is wrong or too old. Check the clock of your device, and try the next one.")
        await accounts.confirm_totp(connection, account.id)
        await sessions.end_others(connection, account.id, own_session(request))
        await audit.append(connection, who.home, who.actor, "totp.set", f"user:{who.name}", {}, who.address)
    async with home_transaction(registry, who) as connection:
        await attempt.forgive(connection)


@router.delete("/session/totp", status_code=204, summary="Remove the second factor")
async def end_totp(body: TotpEnd, request: Request, who: PrincipalDep, registry: RegistryDep) -> None:
    """Signing in takes no code any more."""
    own_session(request)
    async with home_transaction(registry, who) as connection:
        account = await own_account(connection, who)
    await check_password(registry, account, body.password, who.address)
    async with home_transaction(registry, who) as connection:
        await accounts.end_totp(connection, account.id)
        await audit.append(connection, who.home, who.actor, "totp.end", f"user:{who.name}", {}, who.address)
