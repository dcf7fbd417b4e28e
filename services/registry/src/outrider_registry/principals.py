"""Who asks, and what they may do: roles are sets of scopes, a token has some of its owner's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from outrider_registry.errors import Forbidden

Role = Literal["viewer", "operator", "admin"]

VIEW = frozenset(
    {
        "devices:read",
        "telemetry:read",
        "trips:read",
        "config:read",
        "commands:read",
        "rejected:read",
        "charts:read",
        "charts:write",
        "tokens:read",
        "tokens:write",
    }
)
OPERATE = VIEW | {
    "devices:write",
    "telemetry:write",
    "credentials:write",
    "config:write",
    "commands:write",
    "rejected:write",
    "stop:write",
    "audit:read",
    "trips:write",
}
ADMINISTRATE = OPERATE | {
    "users:read",
    "users:write",
    "tenant:write",
    "erasures:read",
    "erasures:write",
    "retention:write",
}
PLATFORM = ADMINISTRATE | {"platform:read", "platform:write"}
ROLES: dict[Role, frozenset[str]] = {"viewer": VIEW, "operator": OPERATE, "admin": ADMINISTRATE}
SCOPES: dict[str, str] = {
    "devices:read": "see devices, their credentials' dates and claims",
    "devices:write": "register, change, disable and delete devices; the metric catalogue",
    "telemetry:read": "see values, positions, logs and events",
    "telemetry:write": "send telemetry, logs and events for devices, over HTTP",
    "trips:read": "see trips",
    "credentials:write": "issue, rotate and revoke secrets and certificates; open and decide claims",
    "config:read": "see configurations and desired state",
    "config:write": "change them",
    "commands:read": "see commands and their results",
    "commands:write": "send and cancel commands",
    "rejected:read": "see rejected messages",
    "rejected:write": "replay and delete them",
    "charts:read": "see saved charts",
    "charts:write": "save own charts",
    "stop:write": "begin and end an emergency stop",
    "trips:write": "merge and split trips, change the rules that make them",
    "audit:read": "read and verify the audit",
    "tokens:read": "see own tokens",
    "tokens:write": "make and end own tokens",
    "users:read": "see the people of the tenant and their tokens",
    "users:write": "invite, change and remove people; end their tokens",
    "tenant:write": "change the tenant's title",
    "erasures:read": "see erasures and their reports",
    "erasures:write": "erase devices and people from every store, for good",
    "retention:write": "change how long what is kept; have the archive verified and restored",
    "platform:read": "see all tenants and the platform's own audit",
    "platform:write": "make, disable and delete tenants; stop everything",
}
"""Every scope there is, and what it lets one do."""


@dataclass(frozen=True)
class Principal:
    """Whoever is behind a request. `tenant` is None for a platform administrator who has not chosen one."""

    account: UUID
    name: str
    tenant: str | None
    """The tenant acted in."""
    home: str | None
    """The tenant the account belongs to; None: it administrates the platform."""
    role: Role
    scopes: frozenset[str]
    token: UUID | None = None
    """The API token used; None for a session of the console."""
    address: str = ""

    @property
    def is_platform(self) -> bool:
        """True for administrators of the whole platform."""
        return self.home is None

    @property
    def actor(self) -> str:
        """As the audit names it."""
        return f"token:{self.name}/{self.token}" if self.token else f"user:{self.name}"

    def require(self, scope: str) -> None:
        """Raises Forbidden with the scope that is missing."""
        if scope not in self.scopes:
            who = "This token" if self.token else f"The role {self.role}"
            raise Forbidden(f"{who} lacks the scope {scope}. Ask an administrator for a role or token that has it.")

    def require_above(self, role: Role, home: str | None) -> None:
        """Raises Forbidden unless this principal has all that an account of this role has: nobody gives what they lack,
        and nobody manages somebody who may do more."""
        if beyond := sorted(scopes_of(role, home) - self.scopes):
            what = "an administrator of the platform" if home is None else f"an account with the role {role}"
            raise Forbidden(f"Only somebody who may do as much can manage {what}; you lack: {', '.join(beyond)}.")

    def in_tenant(self) -> str:
        """The tenant to work in. Raises Forbidden where a platform administrator has not named one."""
        if self.tenant is None:
            raise Forbidden(
                "Name the tenant to work in: header Outrider-Tenant, `--tenant` in the CLI, or choose one in the console."
            )
        return self.tenant


def scopes_of(role: Role, home: str | None) -> frozenset[str]:
    """All scopes of an account."""
    return PLATFORM if home is None else ROLES[role]


def narrowed(wanted: Iterable[str], allowed: frozenset[str]) -> frozenset[str]:
    """The wanted scopes. Raises Forbidden for one that its owner has not."""
    asked = frozenset(wanted)
    if beyond := sorted(asked - allowed):
        raise Forbidden(
            f"A token cannot have more than its owner: {', '.join(beyond)}. Allowed: {', '.join(sorted(allowed))}."
        )
    return asked
