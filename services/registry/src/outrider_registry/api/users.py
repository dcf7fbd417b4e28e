"""People of a tenant, and administrators of the platform."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Path, Query, Response
from psycopg.errors import UniqueViolation
from pydantic import BaseModel, Field

from outrider.access.secrets import person_password
from outrider_registry.api.deps import (
    ExpectedVersion,
    PageDep,
    PrincipalDep,
    RegistryDep,
    check_version,
    encode_cursor,
    home_transaction,
    needs,
    reach_transaction,
)
from outrider_registry.api.fields import Body, Items, Time, is_text
from outrider_registry.api.people import Link, account_of, keep_an_administrator, new_link
from outrider_registry.context import Registry
from outrider_registry.errors import Conflict, Forbidden, Invalid
from outrider_registry.principals import VIEW, Principal, Role
from outrider_registry.store import accounts, audit, sessions
from outrider_registry.store.accounts import Account

router = APIRouter(tags=["users"])

Reader = Annotated[Principal, needs("users:read")]
Writer = Annotated[Principal, needs("users:write")]
UserName = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9._@+-]{0,126}$",
        description="Small letters, digits and ._@+-; unique in this installation.",
        examples=["ann@acme.example"],
    ),
]
Name = Annotated[str, Path(max_length=127, examples=["ann@acme.example"])]


class NewUser(Body):
    """Somebody to invite."""

    name: UserName
    role: Role = "viewer"
    platform: bool = Field(False, description="An administrator of the whole platform; the role is admin then.")


class UserChange(Body):
    """What to change; what is left out stays."""

    role: Role | None = None
    disabled: bool | None = Field(None, description="Ends sessions; tokens and the broker login do not work meanwhile.")
    totp: bool | None = Field(None, description="false takes a second factor away that its owner lost.")


class User(BaseModel):
    """An account."""

    name: str
    tenant: str | None = Field(description="null: administrates the platform.")
    role: Role
    totp: bool = Field(description="Has a second factor.")
    password: bool = Field(description="Has set a password.")
    broker_login: bool
    created_at: Time
    seen_at: Time | None = Field(description="Last use of a session that has not ended.")
    disabled_at: Time | None
    version: int


class InvitedUser(User):
    """A new account with its first sign-in."""

    link: Link


class Users(Items):
    """People by name."""

    items: list[User]


class BrokerLogin(BaseModel):
    """A read-only login at the broker. The password is shown this once."""

    username: str
    password: str
    client_id: str
    url: str
    command: str = Field(description="Shows everything the login may see.")


@router.get("/users", summary="List people", response_model=Users)
async def list_users(
    who: Reader,
    registry: RegistryDep,
    page: PageDep,
    q: Annotated[str | None, Query(max_length=127, description="A part of the name.")] = None,
    platform: Annotated[bool, Query(description="Administrators of the platform; for themselves to see.")] = False,
) -> dict[str, Any]:
    """Of the tenant; an administrator of the platform who has chosen none sees everybody."""
    if platform:
        who.require("platform:read")
    if page.after is not None and not (len(page.after) == 1 and is_text(page.after[0])):
        raise Invalid("This cursor is of another list: use `next` of the page before as it is.")
    transaction = home_transaction(registry, who) if platform else reach_transaction(registry, who)
    async with transaction as connection:
        after = page.after[0] if page.after else None
        found = await accounts.listed(connection, after, page.limit + 1, q, platform=platform)
    items = found[: page.limit]
    return {
        "items": [described(account) for account in items],
        "next": encode_cursor([items[-1].name]) if len(found) > page.limit else None,
    }


@router.post("/users", status_code=201, summary="Invite somebody", response_model=InvitedUser)
async def invite(body: NewUser, who: Writer, registry: RegistryDep, response: Response) -> dict[str, Any]:
    """Makes an account and a link that is good once, for three days: it signs in and lets them set a password."""
    tenant = None if body.platform else who.in_tenant()
    role: Role = "admin" if body.platform else body.role
    who.require_above(role, tenant)
    async with home_transaction(registry, who) as connection:
        try:
            await accounts.add(connection, tenant, body.name, role)
        except UniqueViolation:
            raise Conflict(f"There is a user {body.name} already. Choose another name, or change that one.") from None
        account = await account_of(connection, body.name)
        link = await new_link(connection, registry, account)
        await noted(connection, who, "user.create", account, role=role)
    response.headers["location"] = f"/api/v1/users/{body.name}"
    return {**described(account), "link": link}


@router.get("/users/{name}", summary="One person", response_model=User)
async def read(name: Name, who: PrincipalDep, registry: RegistryDep) -> dict[str, Any]:
    """Everybody may see themselves. By name, administrators of the platform reach everybody."""
    if name != who.name:
        who.require("users:read")
    async with home_transaction(registry, who) as connection:
        return described(await account_of(connection, name))


@router.patch("/users/{name}", summary="Change role, disable, enable", response_model=User)
async def change(
    name: Name, body: UserChange, expected: ExpectedVersion, who: Writer, registry: RegistryDep
) -> dict[str, Any]:
    """Nobody gives more than they have; the last administrator stays one."""
    async with home_transaction(registry, who) as connection:
        account = await account_of(connection, name, lock=True)
        who.require_above(account.role, account.tenant)
        check_version(expected, account.version, f"User {name}")
        role = body.role or account.role
        disabled = account.disabled_at is not None if body.disabled is None else body.disabled
        if account.tenant is None and role != "admin":
            raise Invalid("role: an administrator of the platform has the role admin. Delete the account instead.")
        who.require_above(role, account.tenant)
        if role != "admin" or disabled:
            await keep_an_administrator(connection, account)
        changed: dict[str, Any] = {}
        if role != account.role or disabled != (account.disabled_at is not None):
            await accounts.change(connection, account, role, disabled=disabled)
            changed |= {"role": [account.role, role]} if role != account.role else {}
            changed |= {} if disabled == (account.disabled_at is not None) else {"disabled": disabled}
        if disabled:
            await sessions.end_others(connection, account.id)
        if body.totp is True:
            raise Invalid("totp: only its owner can set up a second factor.")
        if body.totp is False and account.has_totp:
            await accounts.end_totp(connection, account.id)
            changed["totp"] = False
        if changed:
            await noted(connection, who, "user.change", account, **changed)
        return described(await account_of(connection, name))


@router.delete("/users/{name}", status_code=204, summary="Remove somebody")
async def remove(name: Name, expected: ExpectedVersion, who: Writer, registry: RegistryDep) -> None:
    """Ends their sessions, tokens and broker login. What they did stays in the audit."""
    async with home_transaction(registry, who) as connection:
        account = await account_of(connection, name, lock=True)
        who.require_above(account.role, account.tenant)
        check_version(expected, account.version, f"User {name}")
        await keep_an_administrator(connection, account)
        await accounts.remove(connection, account)
        await noted(connection, who, "user.delete", account)


@router.post("/users/{name}/link", status_code=201, summary="A new one-time sign-in", response_model=Link)
async def link(name: Name, who: Writer, registry: RegistryDep) -> Link:
    """For somebody who forgot the password. Links made before end; a second factor is still asked for."""
    async with home_transaction(registry, who) as connection:
        account = await account_of(connection, name, lock=True)
        who.require_above(account.role, account.tenant)
        made = await new_link(connection, registry, account)
        await noted(connection, who, "user.link", account)
        return made


@router.post(
    "/users/{name}/broker-login", status_code=201, summary="A read-only login at the broker", response_model=BrokerLogin
)
async def broker_login(name: Name, who: PrincipalDep, registry: RegistryDep) -> BrokerLogin:
    """For Mosquitto's own tools. Asked again, it makes a new password; the old one ends within seconds."""
    async with home_transaction(registry, who) as connection:
        account = await account_of(connection, name, lock=True)
        allow_broker_login(who, account)
        if account.disabled_at is not None:
            raise Forbidden(f"{name} is disabled.")
        key_id = registry.keys.newest
        generation = await accounts.issue_broker_login(connection, account.id, key_id)
        await noted(connection, who, "user.broker-login", account, generation=generation)
    password = person_password(registry.keys, str(account.id), generation, key_id)
    return described_login(registry, account, password)


@router.delete("/users/{name}/broker-login", status_code=204, summary="End the login at the broker")
async def end_broker_login(name: Name, who: PrincipalDep, registry: RegistryDep) -> None:
    """Whoever is connected with it is thrown out within seconds."""
    async with home_transaction(registry, who) as connection:
        account = await account_of(connection, name, lock=True)
        allow_broker_login(who, account)
        if await accounts.end_broker_login(connection, account.id):
            await noted(connection, who, "user.broker-login-end", account)


def allow_broker_login(who: Principal, account: Account) -> None:
    """Everybody may have their own; administrators give one to others. It shows what a viewer may see and outlives the
    token that made it, so a token needs all of a viewer's scopes. Raises Forbidden."""
    for scope in sorted(VIEW):
        who.require(scope)
    if account.id != who.account:
        who.require("users:write")
        who.require_above(account.role, account.tenant)


def described(account: Account) -> dict[str, Any]:
    """The account as the API shows it."""
    return {
        "name": account.name,
        "tenant": account.tenant,
        "role": account.role,
        "totp": account.has_totp,
        "password": account.password_hash is not None,
        "broker_login": account.mqtt_generation > 0,
        "created_at": account.created_at,
        "seen_at": account.seen_at,
        "disabled_at": account.disabled_at,
        "version": account.version,
    }


def described_login(registry: Registry, account: Account, password: str) -> BrokerLogin:
    """A login with the command that uses it."""
    username = f"user:{account.name}"
    url = urlsplit(registry.settings.device_mqtt_url)
    secure = url.scheme == "mqtts"
    port = url.port or (8883 if secure else 1883)
    tls = " --tls-use-os-certs" if secure else ""
    command = (
        f"mosquitto_sub -h {url.hostname} -p {port}{tls} -i {username} -u {username} -P {password} -t 'fleet/#' -v"
    )
    return BrokerLogin(
        username=username,
        password=password,
        client_id=username,
        url=registry.settings.device_mqtt_url,
        command=command,
    )


async def noted(connection: Any, who: Principal, action: str, account: Account, **detail: Any) -> None:
    """In the audit of the tenant that the account belongs to."""
    await audit.append(connection, account.tenant, who.actor, action, f"user:{account.name}", detail, who.address)
