"""Services that know scopes apart from the registry know the same ones."""

from __future__ import annotations

from outrider_gateway import access
from outrider_registry import principals


def test_the_gateway_gives_a_role_what_the_registry_gives_it() -> None:
    known = frozenset().union(*access.ROLE_SCOPES.values())
    assert known <= principals.SCOPES.keys()
    assert {role: scopes & known for role, scopes in principals.ROLES.items()} == access.ROLE_SCOPES
    assert access.ROLE_SCOPES["admin"] <= principals.PLATFORM
    assert principals.SCOPES.keys() > access.DEVICE_SCOPES
