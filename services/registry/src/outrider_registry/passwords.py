"""Passwords: argon2id, at least 12 characters, and the same time for a name that does not exist."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Callable
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from outrider_registry.errors import Invalid

T = TypeVar("T")

MIN_CHARACTERS = 12
MAX_CHARACTERS = 256
AT_ONCE = 2
"""Hashes computed at once: each takes 64 MiB and a core for some 50 ms (RFC 9106, low memory)."""
_hasher = PasswordHasher(time_cost=3, memory_cost=64 * 1024, parallelism=1)
_nobody: list[str] = []
_gates: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}


def check(password: str, name: str) -> None:
    """Raises Invalid with what to do for a password that is too short, too long, or too easy."""
    normal = _normal(password)
    if len(normal) < MIN_CHARACTERS:
        raise Invalid(
            f"A password needs at least {MIN_CHARACTERS} characters; a few random words are easy to remember."
        )
    if len(normal) > MAX_CHARACTERS:
        raise Invalid(f"A password may have {MAX_CHARACTERS} characters.")
    lowered = normal.lower()
    if len(set(lowered)) < 5 or name.lower() in lowered or "outrider" in lowered:
        raise Invalid("This password is too easy to guess: it repeats itself or holds a name. Take a few random words.")


async def hashed(password: str) -> str:
    """The argon2id hash to store."""
    return await _in_thread(_hasher.hash, _normal(password))


async def verified(password: str, hash_: str | None) -> bool:
    """True if this is the password behind the hash. None, for nobody or no password, takes as long and is False."""
    if hash_ is None:
        if not _nobody:
            _nobody.append(await hashed("nobody has this password"))
        await _in_thread(_verify, _nobody[0], _normal(password))
        return False
    return await _in_thread(_verify, hash_, _normal(password))


def is_outdated(hash_: str) -> bool:
    """True if it was made with other parameters than today's."""
    return _hasher.check_needs_rehash(hash_)


def _verify(hash_: str, password: str) -> bool:
    try:
        return _hasher.verify(hash_, password)
    except (VerificationError, InvalidHashError):
        return False


def _normal(password: str) -> str:
    """One form for a letter that keyboards compose in different ways."""
    return unicodedata.normalize("NFKC", password)


async def _in_thread(function: Callable[..., T], *arguments: str) -> T:
    loop = asyncio.get_running_loop()
    if loop not in _gates:
        _gates.clear()  # of a loop that has ended: tests have many
        _gates[loop] = asyncio.Semaphore(AT_ONCE)
    async with _gates[loop]:
        return await asyncio.to_thread(function, *arguments)
