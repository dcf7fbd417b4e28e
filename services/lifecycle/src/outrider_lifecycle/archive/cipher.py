"""Encryption of the archive with age: anybody may write to it who has the public keys, only the secret one reads it."""

from __future__ import annotations

import os
from pathlib import Path

import pyrage

from outrider.runtime.errors import OutriderError

PREFIX = "AGE-SECRET-KEY-"


class BadKeys(OutriderError):
    """The archive's keys cannot be used; the message says which file to mend."""


class Unreadable(OutriderError):
    """A file of the archive cannot be decrypted with the keys there are."""


class Cipher:
    """Encrypts to all recipients; reads what one of the identities can open. Without recipients nothing is encrypted."""

    def __init__(self, recipients: list[str], identities: list[pyrage.x25519.Identity]) -> None:
        self.recipients = recipients
        self._recipients = [pyrage.x25519.Recipient.from_str(recipient) for recipient in recipients]
        self._identities = identities

    @property
    def can_read(self) -> bool:
        """True if there is a secret key, or no encryption."""
        return bool(self._identities) or not self._recipients

    def seal(self, data: bytes) -> bytes:
        """Encrypted to all recipients."""
        sealed: bytes = pyrage.encrypt(data, self._recipients) if self._recipients else data
        return sealed

    def open(self, data: bytes, *, encrypted: bool) -> bytes:
        """The content of a file. Raises Unreadable."""
        if not encrypted:
            return data
        if not self._identities:
            raise Unreadable(
                "no secret key is here: set OUTRIDER_ARCHIVE_IDENTITY_FILE to the file that has it, and restart lifecycle"
            )
        try:
            opened: bytes = pyrage.decrypt(data, self._identities)
            return opened
        except pyrage.DecryptError as error:
            raise Unreadable(
                f"{error}: none of the secret keys in OUTRIDER_ARCHIVE_IDENTITY_FILE opens it; add the one it was written for"
            ) from error


def load(recipients_file: Path | None, identity_file: Path | None, *, encrypted: bool) -> Cipher:
    """The keys in these files. An identity file that does not exist is made, unless recipients are given.

    Raises BadKeys.
    """
    if not encrypted:
        return Cipher([], [])
    recipients = _lines(recipients_file) if recipients_file else []
    if identity_file is not None and not identity_file.exists() and not recipients:
        _make(identity_file)
    found = _lines(identity_file) if identity_file is not None and (identity_file.exists() or not recipients) else []
    try:
        identities = [pyrage.x25519.Identity.from_str(line) for line in found]
    except pyrage.IdentityError as error:
        raise BadKeys(f"{identity_file}: {error}. A line there is {PREFIX}1…, as age-keygen writes it.") from error
    recipients = list(dict.fromkeys([*recipients, *(str(identity.to_public()) for identity in identities)]))
    if not recipients:
        raise BadKeys(
            "There is no key to encrypt the archive to: set OUTRIDER_ARCHIVE_IDENTITY_FILE (made at the first start) or "
            "OUTRIDER_ARCHIVE_RECIPIENTS_FILE, or OUTRIDER_ARCHIVE_ENCRYPTION=none."
        )
    try:
        return Cipher(recipients, identities)
    except pyrage.RecipientError as error:
        raise BadKeys(f"{recipients_file}: {error}. A line there is a public key, age1….") from error


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except OSError as error:
        raise BadKeys(f"{path} cannot be read: {error.strerror}.") from error
    return [line for line in lines if line and not line.startswith("#")]


def _make(path: Path) -> None:
    identity = pyrage.x25519.Identity.generate()
    text = (
        "# The archive's secret key. Without it nobody can read the archive: keep a copy apart from it.\n"
        f"# public key: {identity.to_public()}\n{identity}\n"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)  # never into a file that somebody else made
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        try:
            os.link(fresh, path)  # the first one wins: two replicas must not encrypt to two keys
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    except OSError as error:
        raise BadKeys(f"{path} cannot be made: {error.strerror}.") from error
