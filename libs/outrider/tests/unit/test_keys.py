"""Master keys and what is derived from them."""

from __future__ import annotations

import base64
import stat
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.access.keys import BadMasterKey, KeyRing, UnknownKey, ensure_file, matches, new_line, verifier

ONE, TWO = bytes(range(32)), bytes(range(32, 64))
NAMES = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=3)


def line(key_id: str, key: bytes) -> str:
    return f"{key_id}:{base64.b64encode(key).decode()}"


def test_derive_is_the_hmac_that_other_implementations_compute() -> None:
    # printf 'outrider\0v1\0mqtt\0van-7\0001' | openssl dgst -sha256 -mac HMAC -macopt hexkey:000102…1f
    expected = "245cccac79874ee24db13d3a72ff34e27b4b5378e9f650154a819d6059206d59"
    assert KeyRing({"k1": ONE}).derive("mqtt", "van-7", 1).hex() == expected


def test_secret_is_43_characters_of_base64url_and_the_same_every_time() -> None:
    keys = KeyRing({"k1": ONE})
    secret = keys.secret("mqtt", "van-7", 1)
    assert len(secret) == 43
    assert secret == KeyRing({"k1": ONE}).secret("mqtt", "van-7", 1)
    assert base64.urlsafe_b64decode(secret + "=") == keys.derive("mqtt", "van-7", 1)


def test_purpose_names_and_key_each_change_the_secret() -> None:
    keys = KeyRing({"k2": TWO, "k1": ONE})
    secrets = [
        keys.secret("mqtt", "van-7", 1),
        keys.secret("mqtt", "van-7", 1, key_id="k1"),
        keys.secret("mqtt", "van-7", 2),
        keys.secret("mqtt", "van-71"),
        keys.secret("mqtt", "van-8", 1),
        keys.secret("claim", "van-7", 1),
    ]
    assert all(a != b for a, b in combinations(secrets, 2))


@given(NAMES, NAMES)
def test_other_names_never_give_the_same_secret(some: list[str], others: list[str]) -> None:
    keys = KeyRing({"k1": ONE})
    assert (keys.derive("p", *some) == keys.derive("p", *others)) == (some == others)


def test_a_name_with_nul_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        KeyRing({"k1": ONE}).derive("mqtt", "van\x007")


def test_the_newest_key_stands_first() -> None:
    keys = KeyRing.parse(f"# comment\n\n{line('k2', TWO)}\n{line('k1', ONE)}\n", "here")
    assert keys.newest == "k2"
    assert keys.ids == ["k2", "k1"]
    assert keys.derive("x") == KeyRing({"k2": TWO}).derive("x")


def test_an_unknown_key_id_is_named() -> None:
    with pytest.raises(UnknownKey, match=r"'k9'.*k1"):
        KeyRing({"k1": ONE}).derive("mqtt", key_id="k9")


@pytest.mark.parametrize(
    "text",
    ["", "k1", "k1:", "k1:not base64!", f"k1:{base64.b64encode(b'short').decode()}", f"K 1:{base64.b64encode(ONE).decode()}",
     f"{line('k1', ONE)}\n{line('k1', TWO)}"],
)  # fmt: skip
def test_parse_refuses_what_is_no_key_without_showing_it(text: str) -> None:
    with pytest.raises(BadMasterKey) as raised:
        KeyRing.parse(text, "the file")
    assert "outrider key new" in str(raised.value) or "key id" in str(raised.value)
    assert base64.b64encode(ONE).decode() not in str(raised.value)


def test_load_prefers_the_environment_and_has_no_default(tmp_path: Path) -> None:
    file = tmp_path / "master.key"
    file.write_text(line("k1", ONE))
    assert KeyRing.load(f"{line('k3', TWO)},{line('k1', ONE)}", file).ids == ["k3", "k1"]
    assert KeyRing.load(None, file).ids == ["k1"]
    with pytest.raises(BadMasterKey, match="OUTRIDER_MASTER_KEY"):
        KeyRing.load(None, None)
    with pytest.raises(BadMasterKey, match="absent"):
        KeyRing.load(None, tmp_path / "absent")


def test_ensure_file_makes_one_key_once_for_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "master.key"
    first = ensure_file(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert ensure_file(file).derive("x") == first.derive("x")
    assert KeyRing.parse(new_line(), "new").derive("x") != first.derive("x")


def test_no_key_is_in_the_repr() -> None:
    assert repr(KeyRing({"k1": ONE})) == "KeyRing(k1)"


def test_verifier_matches_its_secret_only() -> None:
    assert matches("secret", verifier("secret"))
    assert not matches("secreT", verifier("secret"))
