"""Roles, scopes, and who may manage whom."""

from __future__ import annotations

from typing import get_args
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider_registry.errors import Forbidden
from outrider_registry.principals import PLATFORM, ROLES, SCOPES, Principal, Role, narrowed, scopes_of


def principal(scopes: frozenset[str], home: str | None = "acme", token: UUID | None = None) -> Principal:
    return Principal(UUID(int=1), "ann", home, home, "admin", scopes, token)


def test_each_role_may_do_all_that_the_one_below_may() -> None:
    assert ROLES["viewer"] < ROLES["operator"] < ROLES["admin"] < PLATFORM
    assert set(SCOPES) == PLATFORM
    assert set(ROLES) == set(get_args(Role))


def test_a_viewer_changes_nothing_but_what_is_their_own() -> None:
    assert {scope for scope in ROLES["viewer"] if scope.endswith(":write")} == {"charts:write", "tokens:write"}


def test_who_lacks_a_scope_is_told_which() -> None:
    who = principal(ROLES["viewer"])
    who.require("devices:read")
    with pytest.raises(Forbidden, match="role admin lacks the scope devices:write"):
        who.require("devices:write")
    with pytest.raises(Forbidden, match="This token lacks"):
        principal(frozenset(), token=UUID(int=2)).require("devices:read")


def test_the_platform_names_a_tenant_before_it_works_in_one() -> None:
    with pytest.raises(Forbidden, match="Outrider-Tenant"):
        principal(PLATFORM, home=None).in_tenant()
    assert principal(PLATFORM).in_tenant() == "acme"


def test_the_audit_tells_a_token_from_its_owner() -> None:
    assert principal(PLATFORM).actor == "user:ann"
    assert principal(PLATFORM, token=UUID(int=2)).actor == f"token:ann/{UUID(int=2)}"


@given(st.sets(st.sampled_from(sorted(PLATFORM))), st.sets(st.sampled_from(sorted(PLATFORM))))
def test_a_token_never_has_more_than_its_owner(wanted: set[str], allowed: set[str]) -> None:
    if wanted <= allowed:
        assert narrowed(wanted, frozenset(allowed)) == wanted
    else:
        with pytest.raises(Forbidden):
            narrowed(wanted, frozenset(allowed))


@given(
    st.frozensets(st.sampled_from(sorted(PLATFORM))),
    st.sampled_from(get_args(Role)),
    st.sampled_from([None, "acme"]),
)
def test_nobody_manages_somebody_who_may_do_more(scopes: frozenset[str], role: Role, home: str | None) -> None:
    who = principal(scopes)
    if scopes_of(role, home) <= scopes:
        who.require_above(role, home)
    else:
        with pytest.raises(Forbidden, match="you lack"):
            who.require_above(role, home)
