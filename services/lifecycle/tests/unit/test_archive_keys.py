"""The archive's keys: made once, added to, never guessed; and addresses that cannot be."""

from __future__ import annotations

import os
from pathlib import Path

import pyrage
import pytest

from outrider_lifecycle.archive import cipher
from outrider_lifecycle.archive.files import BadArchive, Files


def test_a_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "archive.age"
    first = cipher.load(None, path, encrypted=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert cipher.load(None, path, encrypted=True).open(first.seal(b"rows"), encrypted=True) == b"rows"
    assert b"rows" not in first.seal(b"rows")


def test_a_second_recipient_reads_what_is_written_from_then_on(tmp_path: Path) -> None:
    path = tmp_path / "archive.age"
    old = cipher.load(None, path, encrypted=True).seal(b"old")
    other = pyrage.x25519.Identity.generate()
    (tmp_path / "recipients").write_text(f"# the safe's\n{other.to_public()}\n")
    both = cipher.load(tmp_path / "recipients", path, encrypted=True)
    new = both.seal(b"new")
    assert pyrage.decrypt(new, [other]) == b"new"
    assert both.open(new, encrypted=True) == b"new"
    assert both.open(old, encrypted=True) == b"old"
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(old, [other])


def test_public_keys_alone_write_what_nobody_here_reads(tmp_path: Path) -> None:
    other = pyrage.x25519.Identity.generate()
    (tmp_path / "recipients").write_text(str(other.to_public()))
    keys = cipher.load(tmp_path / "recipients", tmp_path / "none", encrypted=True)
    assert not keys.can_read
    assert not (tmp_path / "none").exists(), "no key is made where recipients are given"
    with pytest.raises(cipher.Unreadable, match="OUTRIDER_ARCHIVE_IDENTITY_FILE"):
        keys.open(keys.seal(b"rows"), encrypted=True)


@pytest.mark.parametrize("text", ["", "# nothing\n", "AGE-SECRET-KEY-1NOT", "age1tooshort"])
def test_keys_that_are_none_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(cipher.BadKeys, match=r"keys|no key"):
        cipher.load(None, tmp_path / "keys", encrypted=True)


def test_plain_files_are_for_those_who_ask_for_them() -> None:
    keys = cipher.load(None, None, encrypted=False)
    assert keys.open(keys.seal(b"rows"), encrypted=False) == b"rows"
    with pytest.raises(cipher.BadKeys):
        cipher.load(None, None, encrypted=True)


@pytest.mark.parametrize("url", ["", "/var/archive", "file://host/x", "s3:///x", "ftp://host/x"])
def test_addresses_that_cannot_be_are_refused(url: str) -> None:
    with pytest.raises(BadArchive, match="s3://bucket/prefix"):
        Files(url)


def test_the_archives_folder_is_its_owners_unless_somebody_gave_it_a_mode(tmp_path: Path) -> None:
    Files(f"file://{tmp_path}/own/archive").write("v1/tenant=acme/x.parquet", b"rows")
    assert (tmp_path / "own" / "archive").stat().st_mode & 0o777 == 0o700
    (tmp_path / "shared").mkdir(mode=0o750)
    Files(f"file://{tmp_path}/shared").write("v1/x.parquet", b"rows")
    assert (tmp_path / "shared").stat().st_mode & 0o777 == 0o750


def test_a_key_is_never_written_into_a_file_that_somebody_put_there(tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    watched.touch(mode=0o666)
    (tmp_path / f".archive.age.{os.getpid()}").symlink_to(watched)
    cipher.load(None, tmp_path / "archive.age", encrypted=True)
    assert watched.read_bytes() == b""
    assert not (tmp_path / "archive.age").is_symlink()
