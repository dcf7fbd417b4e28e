"""Who asks, and what they may do: roles are sets of scopes, a token has some of its owner's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from outrider_registry.errors import Forbidden

Role = Literal["viewer", "operator", "admin"]

READ = frozenset(
    {"devices:read", "telemetry:read", "config:read", "commands:read", "rejected:read", "charts:read", "charts:write"}
)
OPERATE = READ | {
    "devices:write",
    "credentials:write",
    "config:write",
    "commands:write",
    "rejected:write",
    "audit:read",
}
ADMINISTRATE = OPERATE | {"users:read", "users:write", "tenant:write", "stop:write"}
PLATFORM = ADMINISTRATE | {"platform:read", "platform:write"}
ROLES: dict[Role, frozenset[str]] = {"viewer": READ, "operator": OPERATE | {"stop:write"}, "admin": ADMINISTRATE}
SCOPES = PLATFORM
"""Every scope there is."""


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
