"""`outrider tenant`, `outrider user` and `outrider token`: who may use the platform, and as what."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from outrider_cli.registry.client import Api, command, show, show_one, when

tenants = typer.Typer(no_args_is_help=True, help="Tenants: who owns devices. For administrators of the platform.")
users = typer.Typer(no_args_is_help=True, help="People of a tenant, and administrators of the platform.")
tokens = typer.Typer(
    no_args_is_help=True, help="API tokens for programs; each has some of its owner's scopes and an end."
)

Name = Annotated[str, typer.Argument(metavar="NAME")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@command(tenants, "list")
def list_tenants(api: Api) -> None:
    """List tenants."""
    columns = {
        "tenant": lambda row: row["name"],
        "title": lambda row: row["title"],
        "created": lambda row: when(row["created_at"]),
        "disabled": lambda row: when(row["disabled_at"]),
    }
    show(api, list(api.pages("/tenants")), columns)


@command(tenants, "create")
def create_tenant(api: Api, name: Name, title: Annotated[str, typer.Option(help="For people.")] = "") -> None:
    """Make a tenant."""
    show_one(api, api.post("/tenants", {"name": name, "title": title}))


@command(tenants, "disable")
def disable_tenant(api: Api, name: Name) -> None:
    """Throw all its devices and people out. Nothing is erased."""
    show_one(api, api.edit(f"/tenants/{name}", {"disabled": True}))


@command(tenants, "enable")
def enable_tenant(api: Api, name: Name) -> None:
    """Let them in again."""
    show_one(api, api.edit(f"/tenants/{name}", {"disabled": False}))


@command(tenants, "delete")
def delete_tenant(api: Api, name: Name, yes: Yes = False) -> None:
    """Delete a tenant that has no devices and no people."""
    if not yes:
        typer.confirm(f"Delete tenant {name}?", abort=True)
    api.delete(f"/tenants/{name}")
    typer.echo(f"{name} deleted")


@command(users, "list")
def list_users(api: Api) -> None:
    """List people."""
    columns = {
        "user": lambda row: row["name"],
        "role": lambda row: row["role"],
        "tenant": lambda row: row["tenant"] or "(platform)",
        "second factor": lambda row: "yes" if row.get("totp") else "no",
        "disabled": lambda row: when(row.get("disabled_at")),
    }
    show(api, list(api.pages("/users")), columns)


@command(users, "create")
def create_user(
    api: Api,
    name: Name,
    role: Annotated[str, typer.Option(help="viewer, operator or admin.")] = "viewer",
    platform: Annotated[bool, typer.Option("--platform", help="An administrator of the whole platform.")] = False,
) -> None:
    """Register a person and print a link that is good once: it lets them set a password."""
    body: dict[str, Any] = {"name": name, "role": "admin" if platform else role}
    if platform:
        body["platform"] = True
    _print_link(api, api.post("/users", body))


@command(users, "edit")
def edit_user(api: Api, name: Name, role: Annotated[str, typer.Option(help="viewer, operator or admin.")]) -> None:
    """Give a person another role."""
    show_one(api, api.edit(f"/users/{name}", {"role": role}))


@command(users, "link")
def link(api: Api, name: Name) -> None:
    """Print a new link that is good once, for somebody who forgot the password."""
    _print_link(api, api.post(f"/users/{name}/link"))


@command(users, "broker-login")
def broker_login(
    api: Api, name: Name, end: Annotated[bool, typer.Option("--end", help="Take it away instead.")] = False
) -> None:
    """Give a person a read-only login at the broker, or a new password for it; shown once."""
    if end:
        api.delete(f"/users/{name}/broker-login")
        typer.echo(f"{name} has no login at the broker any more")
        return
    login = api.post(f"/users/{name}/broker-login")
    if api.as_json:
        show_one(api, login)
        return
    typer.echo(f"user name  {login['username']}\npassword   {login['password']}\n\n  {login['command']}")


@command(users, "disable")
def disable_user(api: Api, name: Name) -> None:
    """End a person's sessions, tokens and broker login, and refuse new ones."""
    show_one(api, api.edit(f"/users/{name}", {"disabled": True}))


@command(users, "enable")
def enable_user(api: Api, name: Name) -> None:
    """Let a person in again."""
    show_one(api, api.edit(f"/users/{name}", {"disabled": False}))


@command(users, "delete")
def delete_user(api: Api, name: Name, yes: Yes = False) -> None:
    """Delete a person. What they did stays in the audit."""
    if not yes:
        typer.confirm(f"Delete user {name}?", abort=True)
    api.delete(f"/users/{name}")
    typer.echo(f"{name} deleted")


@command(tokens, "list")
def list_tokens(api: Api) -> None:
    """List tokens; the tokens themselves are not stored and cannot be shown."""
    columns = {
        "id": lambda row: row["id"],
        "name": lambda row: row["name"],
        "scopes": lambda row: " ".join(row["scopes"]),
        "good until": lambda row: when(row["expires_at"]),
        "last used": lambda row: when(row["last_used_at"]),
        "revoked": lambda row: when(row.get("revoked_at")),
    }
    show(api, list(api.pages("/tokens")), columns)


@command(tokens, "create")
def create_token(
    api: Api,
    name: Annotated[str, typer.Option(help="What it is for.")],
    scope: Annotated[list[str], typer.Option(help="Such as devices:read; repeatable.")],
    days: Annotated[int, typer.Option(min=1, max=365, help="How long it is good.")] = 90,
) -> None:
    """Make a token and print it, once."""
    made = api.post("/tokens", {"name": name, "scopes": scope, "days": days})
    if api.as_json:
        show_one(api, made)
        return
    typer.echo(made["token"])
    typer.echo(
        f"good until {when(made['expires_at'])}; use it as OUTRIDER_TOKEN or `Authorization: Bearer …`", err=True
    )


@command(tokens, "revoke")
def revoke_token(api: Api, token_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """End a token at once."""
    api.delete(f"/tokens/{token_id}")
    typer.echo(f"{token_id}: revoked")


def _print_link(api: Api, answer: dict[str, Any]) -> None:
    if api.as_json:
        show_one(api, answer)
        return
    link = answer.get("link")
    found = link if isinstance(link, dict) else answer
    typer.echo(f"Open this once, until {when(found['expires_at'])}, and set a password:\n\n  {found['url']}")
