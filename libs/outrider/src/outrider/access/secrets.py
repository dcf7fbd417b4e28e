"""Every secret of the platform by name, derived from the master key: one place that says which purpose derives what."""

from __future__ import annotations

import base64

from outrider.access.keys import KeyRing


def device_secret(keys: KeyRing, device: str, generation: int, key_id: str | None = None) -> str:
    """A device's MQTT password: 43 characters of base64url. Raises UnknownKey."""
    return keys.secret("mqtt", device, generation, key_id=key_id)


def claim_token(keys: KeyRing, claim: str, key_id: str | None = None) -> str:
    """The token of an enrolment claim, which is also the MQTT password of `claim:{claim}`. Raises UnknownKey."""
    return keys.secret("claim", claim, key_id=key_id)


def service_password(keys: KeyRing, service: str) -> str:
    """The broker password of `svc:{service}`, by the oldest key: adding a new master key leaves services connected."""
    return keys.secret("service", service, key_id=keys.ids[-1])


def person_password(keys: KeyRing, account: str, generation: int, key_id: str | None = None) -> str:
    """The broker password of a person's login `user:{name}`, by account id, so that a new account of an old name has its own.

    Raises UnknownKey.
    """
    return keys.secret("person", account, generation, key_id=key_id)


def totp_secret(keys: KeyRing, account: str, generation: int, key_id: str | None = None) -> str:
    """A second factor's secret (RFC 6238), 20 bytes as base32. Raises UnknownKey."""
    return base64.b32encode(keys.derive("totp", account, generation, key_id=key_id)[:20]).decode()
