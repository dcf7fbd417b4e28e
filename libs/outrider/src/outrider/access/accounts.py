"""Accounts and roles of the broker's dynamic-security plugin as plain values, and what turns one state into another. Pure.

A password cannot be read back, so an account carries a fingerprint of it (`keys.fingerprint`) in its text name: a broker
that is as it should be is recognised without setting one password again, which would disconnect everybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from outrider.access.rights import Acl, acl_documents

Command = dict[str, Any]
"""A command of the plugin, as it takes it on `$CONTROL/dynamic-security/v1`."""
Rule = tuple[str, str, int, bool]
"""Type, topic, priority and whether it allows."""

ACCESSES = ("publishClientSend", "publishClientReceive", "subscribe", "unsubscribe")


@dataclass(frozen=True, slots=True)
class Client:
    """An account. `client_id` None: any; `password` None: it cannot sign in with one (it has a certificate), or, in what
    was read from the broker, not known."""

    username: str
    fingerprint: str = ""
    client_id: str | None = None
    roles: frozenset[str] = frozenset()
    disabled: bool = False
    password: str | None = field(default=None, repr=False, compare=False)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Client:
        """An account as `listClients` tells it."""
        return cls(
            username=document["username"],
            fingerprint=document.get("textname", ""),
            client_id=document.get("clientid"),
            roles=frozenset(role["rolename"] for role in document.get("roles", ())),
            disabled=bool(document.get("disabled", False)),
        )


@dataclass(frozen=True, slots=True)
class Role:
    """A role with its rules; `wildcards` False (Mosquitto 2.1 has such) refuses every subscription with one."""

    name: str
    rules: frozenset[Rule] = frozenset()
    wildcards: bool = True

    @classmethod
    def of(cls, name: str, acls: Iterable[Acl]) -> Role:
        """A role with these rights."""
        return cls(name, _rules(entry for acl in acls for entry in acl_documents(acl)))

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Role:
        """A role as `listRoles` tells it."""
        return cls(
            document["rolename"], _rules(document.get("acls", ())), bool(document.get("allowwildcardsubs", True))
        )

    @property
    def acls(self) -> list[dict[str, Any]]:
        """Its rules as the plugin takes them."""
        return [
            {"acltype": kind, "topic": topic, "priority": priority, "allow": allow}
            for kind, topic, priority, allow in sorted(self.rules)
        ]


@dataclass(slots=True)
class State:
    """Everything the plugin holds: accounts, roles, groups (there should be none), default accesses that allow."""

    clients: dict[str, Client] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)
    allowed_by_default: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, clients: Iterable[Client], roles: Iterable[Role]) -> State:
        """A state with these and no group, everything else denied."""
        return cls({client.username: client for client in clients}, {role.name: role for role in roles})


def plan(desired: State, actual: State) -> list[Command]:
    """What makes `actual` be `desired`; empty when it is. Whoever has no place any more is thrown out first.

    A role is edited only when its rights changed, an account only where something of it did: both disconnect. A role is
    removed last, when nobody holds it: Mosquitto 2.0 dies of one that is removed from under its holders.
    """
    return [
        *_defaults(actual),
        *(
            {"command": "deleteClient", "username": name}
            for name in sorted(actual.clients.keys() - desired.clients.keys())
        ),
        *({"command": "deleteGroup", "groupname": name} for name in sorted(actual.groups)),
        *(command for role in desired.roles.values() for command in change_role(role, actual.roles.get(role.name))),
        *(
            command
            for client in desired.clients.values()
            for command in change(client, actual.clients.get(client.username))
        ),
        *({"command": "deleteRole", "rolename": name} for name in sorted(actual.roles.keys() - desired.roles.keys())),
    ]


def _defaults(actual: State) -> Iterator[Command]:
    if actual.allowed_by_default:
        yield deny_by_default()


def deny_by_default() -> Command:
    """Denies what no rule allows. Harmless to repeat: nobody is disconnected, and the broker writes its file."""
    return {
        "command": "setDefaultACLAccess",
        "acls": [{"acltype": access, "allow": False} for access in ACCESSES],
    }


def change_role(role: Role, actual: Role | None) -> Iterator[Command]:
    """What makes this role be there with its rights."""
    if actual is None:
        yield {"command": "createRole", "rolename": role.name, "acls": role.acls}
    elif actual != role:
        yield {
            "command": "modifyRole",
            "rolename": role.name,
            "acls": role.acls,
            **({"allowwildcardsubs": True} if not actual.wildcards else {}),
        }


def change(client: Client, actual: Client | None) -> Iterator[Command]:
    """What makes this account be there as it should."""
    if actual is not None and client.password is None and actual.fingerprint != client.fingerprint:
        # A password can be replaced but not taken away.
        yield {"command": "deleteClient", "username": client.username}
        actual = None
    if actual is None:
        yield {
            "command": "createClient",
            "username": client.username,
            "textname": client.fingerprint,
            "roles": [{"rolename": name} for name in sorted(client.roles)],
            **({"clientid": client.client_id} if client.client_id else {}),
            **({"password": client.password} if client.password is not None else {}),
        }
        if client.disabled:
            yield {"command": "disableClient", "username": client.username}
        return
    if client.disabled and not actual.disabled:
        yield {"command": "disableClient", "username": client.username}
    changed: Command = {}
    if client.client_id != actual.client_id:
        changed["clientid"] = client.client_id or ""
    if client.roles != actual.roles:
        changed["roles"] = [{"rolename": name} for name in sorted(client.roles)]
    if client.fingerprint != actual.fingerprint:
        changed["textname"] = client.fingerprint
        changed["password"] = client.password
    if changed:
        yield {"command": "modifyClient", "username": client.username, **changed}
    if actual.disabled and not client.disabled:
        yield {"command": "enableClient", "username": client.username}


def apply(state: State, command: Command) -> None:
    """What a command that the broker carried out did to this state. Raises KeyError for one that `plan` does not give."""
    _EFFECTS[command["command"]](state, command)


def _create_client(state: State, command: Command) -> None:
    state.clients[command["username"]] = Client.parse(command)


def _modify_client(state: State, command: Command) -> None:
    client = state.clients[command["username"]]
    changes: dict[str, Any] = {}
    if "clientid" in command:
        changes["client_id"] = command["clientid"] or None
    if "roles" in command:
        changes["roles"] = frozenset(role["rolename"] for role in command["roles"])
    if "textname" in command:
        changes["fingerprint"] = command["textname"]
    state.clients[client.username] = replace(client, **changes)


def _disable(state: State, command: Command) -> None:
    state.clients[command["username"]] = replace(state.clients[command["username"]], disabled=True)


def _enable(state: State, command: Command) -> None:
    state.clients[command["username"]] = replace(state.clients[command["username"]], disabled=False)


def _put_role(state: State, command: Command) -> None:
    state.roles[command["rolename"]] = Role.parse(command)


def _delete_role(state: State, command: Command) -> None:
    name = command["rolename"]
    del state.roles[name]
    for client in [client for client in state.clients.values() if name in client.roles]:
        state.clients[client.username] = replace(client, roles=client.roles - {name})


_EFFECTS = {
    "setDefaultACLAccess": lambda state, command: state.allowed_by_default.clear(),
    "deleteClient": lambda state, command: state.clients.pop(command["username"]),
    "deleteGroup": lambda state, command: state.groups.remove(command["groupname"]),
    "createRole": _put_role,
    "modifyRole": _put_role,
    "deleteRole": _delete_role,
    "createClient": _create_client,
    "modifyClient": _modify_client,
    "disableClient": _disable,
    "enableClient": _enable,
}


def _rules(documents: Iterable[Mapping[str, Any]]) -> frozenset[Rule]:
    return frozenset(
        (entry["acltype"], entry["topic"], int(entry.get("priority", 0)), bool(entry.get("allow", False)))
        for entry in documents
    )
