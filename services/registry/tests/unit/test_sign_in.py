"""Passwords, codes, cookies, addresses, cursors: without a database."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any
from uuid import UUID

import pyotp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from outrider.access.keys import KeyRing, UnknownKey
from outrider.access.secrets import totp_secret
from outrider_registry import passwords, second_factor
from outrider_registry.api.authentication import address_of, csrf_of, digest, session_cookie
from outrider_registry.api.deps import decode_cursor, encode_cursor
from outrider_registry.errors import Invalid
from outrider_registry.store.accounts import Account
from outrider_registry.testing import KEYS

NOW = 1_800_000_000.0
ACCOUNT = Account(
    id=UUID(int=7),
    tenant="acme",
    name="ann",
    role="viewer",
    password_hash=None,
    totp_generation=1,
    totp_key_id="k1",
    totp_confirmed_at=None,
    totp_last_step=0,
    mqtt_generation=0,
    mqtt_key_id=None,
    mqtt_issued=0,
    created_at=datetime.datetime.now(datetime.UTC),
    password_changed_at=None,
    disabled_at=None,
    version=1,
    seen_at=None,
    tenant_disabled=False,
)


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("", "at least 12"),
        ("elevenchars", "at least 12"),
        ("aaaaaaaaaaaaaaaa", "too easy"),
        ("abababababab", "too easy"),
        ("Ann is my name here", "too easy"),
        ("My Outrider password", "too easy"),
        ("x1y2" * 65, "may have 256"),
    ],
)
def test_weak_passwords_are_refused_with_what_to_do(password: str, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        passwords.check(password, "ann")


@pytest.mark.parametrize("password", ["four quiet green tractors", "Größe zwölf Äpfel", "p9$kQ2!zL0vx"])
def test_good_passwords_are_taken(password: str) -> None:
    passwords.check(password, "ann")


async def test_a_password_is_the_same_however_its_letters_are_composed() -> None:
    hash_ = await passwords.hashed("Größe zwölf Äpfel")
    assert hash_.startswith("$argon2id$v=19$m=65536,t=3,p=1$")
    assert await passwords.verified("Gro\u0308ße zwo\u0308lf A\u0308pfel", hash_)
    assert not await passwords.verified("größe zwölf Äpfel", hash_)
    assert not passwords.is_outdated(hash_)


async def test_nobody_has_a_password_and_a_broken_hash_takes_none() -> None:
    assert not await passwords.verified("nobody has this password", None)
    assert not await passwords.verified("anything at all", "not a hash")


@pytest.mark.parametrize(("offset", "good"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_a_code_is_taken_one_step_early_or_late(offset: int, good: bool) -> None:
    totp = pyotp.TOTP(totp_secret(KEYS, str(ACCOUNT.id), 1, "k1"))
    at = int(NOW) + offset * second_factor.STEP_S
    step = second_factor.step_of(KEYS, ACCOUNT, totp.at(at), NOW)
    assert step == (at // second_factor.STEP_S if good else None)


@given(st.text(max_size=12))
def test_any_other_text_is_no_code(text: str) -> None:
    totp = pyotp.TOTP(totp_secret(KEYS, str(ACCOUNT.id), 1, "k1"))
    right = {totp.at(int(NOW) + offset * 30) for offset in (-1, 0, 1)}
    found = second_factor.step_of(KEYS, ACCOUNT, text, NOW)
    assert (found is not None) == (text.replace(" ", "") in right)


def test_a_second_factor_belongs_to_its_account_generation_and_key() -> None:
    newer = KeyRing(
        {"k2": b"another master key of thirty-two bytes", "k1": b"a test's own master key, 32 bytes and more"}
    )
    code = pyotp.TOTP(totp_secret(KEYS, str(ACCOUNT.id), 1, "k1")).at(int(NOW))
    assert second_factor.step_of(newer, ACCOUNT, code, NOW) is not None, "a new first key changes nothing"
    for other in (
        dataclasses.replace(ACCOUNT, id=UUID(int=8)),
        dataclasses.replace(ACCOUNT, totp_generation=2),
        dataclasses.replace(ACCOUNT, totp_key_id="k2"),
    ):
        assert second_factor.step_of(newer, other, code, NOW) is None
    with pytest.raises(UnknownKey):
        second_factor.step_of(KEYS, dataclasses.replace(ACCOUNT, totp_key_id="k2"), code, NOW)


def test_a_csrf_token_says_nothing_of_the_cookie_and_belongs_to_one() -> None:
    first, second = csrf_of("cookie one"), csrf_of("cookie two")
    assert first != second
    assert len(first) == 43
    assert first.encode() != digest("cookie one")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", None),
        ("outrider_session=abc", "abc"),
        ("theme=dark; outrider_session=abc; other=1", "abc"),
        ("outrider_session=", None),
        ("=;;=\x00", None),
    ],
)
def test_the_cookie_is_found_among_others(header: str, expected: str | None) -> None:
    assert session_cookie(Headers({"cookie": header})) == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::1"),
        ("a-socket", "a-socket"),
    ],
)
def test_of_ipv6_the_network_is_counted(host: str, expected: str) -> None:
    assert address_of({"type": "http", "client": (host, 1)}) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3), max_leaves=8
)


@given(st.lists(JSON, max_size=4))
def test_a_cursor_gives_back_what_was_put_in(key: list[Any]) -> None:
    assert decode_cursor(encode_cursor(key)) == key


@given(st.text(max_size=1000) | st.builds(lambda n: encode_cursor([0])[:-1] + "A" * n, st.integers(0, 900)))
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    try:
        key = decode_cursor(text)
    except Invalid:
        return
    assert isinstance(key, list)


def test_a_cursor_of_many_brackets_is_refused() -> None:
    deep = encode_cursor([])[:2] + "W1tb" * 240
    with pytest.raises(Invalid):
        decode_cursor(deep)
