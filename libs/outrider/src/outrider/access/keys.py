"""Secrets derived from a master key: nothing secret is stored, and every secret can be made again.

A master key file holds one `id:base64` line per key, the newest first; older ones stay for what was derived from them.
A secret is HMAC-SHA256(master key, purpose and names) (RFC 2104), so what one purpose leaks says nothing of another.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from outrider.runtime.errors import OutriderError

KEY_BYTES = 32
KEY_VARIABLE = "OUTRIDER_MASTER_KEY"
FILE_VARIABLE = "OUTRIDER_MASTER_KEY_FILE"
_ID = re.compile(r"[a-z0-9]{1,16}")


class BadMasterKey(OutriderError):
    """The master key cannot be used; the text says which line of what, and how to make one."""


class UnknownKey(OutriderError):
    """A secret was derived from a master key that is not in the key file any more; add its line again."""


class KeyRing:
    """The master keys by id, the newest first. Never printed: its repr shows ids only."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """Raises BadMasterKey for none, for an id that is not `[a-z0-9]{1,16}` and for a key of fewer than 32 bytes."""
        if not keys:
            raise BadMasterKey(f"There is no master key. Make one with: {how_to_make()}")
        for key_id, key in keys.items():
            if not _ID.fullmatch(key_id):
                raise BadMasterKey(f"{key_id[:40]!r} is no key id: 1 to 16 of a-z and 0-9")
            if len(key) < KEY_BYTES:
                raise BadMasterKey(
                    f"Key {key_id} has {len(key)} bytes; it needs {KEY_BYTES}. Make one with: {how_to_make()}"
                )
        self._keys = dict(keys)

    @property
    def newest(self) -> str:
        """Id of the key that new secrets are derived from."""
        return next(iter(self._keys))

    @property
    def ids(self) -> list[str]:
        """All key ids, the newest first."""
        return list(self._keys)

    def derive(self, purpose: str, *names: str | int, key_id: str | None = None) -> bytes:
        """32 bytes for a purpose (`mqtt`, `claim`, `totp` …) and names. Raises UnknownKey."""
        key = self._keys.get(key_id or self.newest)
        if key is None:
            raise UnknownKey(f"master key {key_id!r} is not in the key file; there are: {', '.join(self._keys)}")
        parts = ["outrider", "v1", purpose, *map(str, names)]
        if any("\0" in part for part in parts):
            raise ValueError("a name holds a NUL character")
        return hmac.digest(key, "\0".join(parts).encode(), hashlib.sha256)

    def secret(self, purpose: str, *names: str | int, key_id: str | None = None) -> str:
        """The same as 43 characters of base64url, for passwords."""
        return base64.urlsafe_b64encode(self.derive(purpose, *names, key_id=key_id)).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str, source: str) -> Self:
        """Keys of `id:base64` lines; empty lines and `#` comments are skipped. Raises BadMasterKey."""
        keys: dict[str, bytes] = {}
        for number, line in enumerate(text.splitlines(), 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            key_id, colon, encoded = line.partition(":")
            try:
                key = base64.b64decode(encoded, validate=True)
            except binascii.Error:
                key = b""
            if not colon or len(key) < KEY_BYTES or key_id in keys:
                # Never shows the line: it may be a key with a typing error.
                raise BadMasterKey(
                    f"{source}, line {number}: no `id:base64` of {KEY_BYTES} bytes with an id of its own. "
                    f"Make one with: {how_to_make()}"
                )
            keys[key_id] = key
        return cls(keys)

    @classmethod
    def load(cls, key: str | None, file: Path | None) -> Self:
        """Keys of the environment's variable, else of the file. Raises BadMasterKey; there is no default."""
        if key:
            return cls.parse(key.replace(",", "\n"), KEY_VARIABLE)
        if file is None:
            raise BadMasterKey(f"{KEY_VARIABLE} or {FILE_VARIABLE} must be set. Make a key with: {how_to_make()}")
        try:
            return cls.parse(file.read_text(), str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise BadMasterKey(f"{FILE_VARIABLE}={file}: {error}. Make one with: {how_to_make()}") from None

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self._keys)})"


def new_line(key_id: str = "k1") -> str:
    """A new random master key as a line of the key file."""
    return f"{key_id}:{base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}\n"


def ensure_file(path: Path) -> KeyRing:
    """The keys of this file, which is made with a new random key if there is none (readable by its owner only)."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return KeyRing.load(None, path)
    with open(descriptor, "w") as file:
        file.write(new_line())
        file.flush()
        os.fsync(descriptor)
    return KeyRing.load(None, path)


def verifier(secret: str | bytes) -> bytes:
    """SHA-256 of a secret of 32 random bytes: enough to recognise it, useless to find it."""
    return hashlib.sha256(secret.encode() if isinstance(secret, str) else secret).digest()


def fingerprint(secret: str, generation: int, key_id: str) -> str:
    """A short text to tell whether a password that cannot be read back is this one: `generation.key id.digest`."""
    return f"{generation}.{key_id}.{verifier(secret).hex()[:12]}"


def matches(secret: str, expected: bytes) -> bool:
    """True if this is the secret behind a verifier; takes the same time either way."""
    return hmac.compare_digest(verifier(secret), expected)


def how_to_make() -> str:
    """The command that prints a new key line."""
    return "outrider key new > master.key"
