"""The second factor: time-based codes (RFC 6238) of a derived secret, each good once."""

from __future__ import annotations

import hmac
import io
import time
from uuid import UUID

import pyotp
import segno

from outrider.access.keys import KeyRing
from outrider.access.secrets import totp_secret
from outrider_registry.store.accounts import Account

STEP_S = 30
TOLERANCE_STEPS = 1
ISSUER = "Outrider"


def step_of(keys: KeyRing, account: Account, code: str, now_s: float | None = None) -> int | None:
    """The step that a code belongs to, one before to one after now; None for a wrong code. Whether it was used before is
    for `accounts.use_totp_step` to say. Raises UnknownKey."""
    secret = totp_secret(keys, str(account.id), account.totp_generation, account.totp_key_id)
    totp = pyotp.TOTP(secret, interval=STEP_S)
    now = int((time.time() if now_s is None else now_s) // STEP_S)
    found = None
    for step in range(now - TOLERANCE_STEPS, now + TOLERANCE_STEPS + 1):
        if hmac.compare_digest(totp.generate_otp(step).encode(), code.replace(" ", "").encode()):
            found = step
    return found


def setup(keys: KeyRing, account: UUID, name: str, generation: int, key_id: str) -> dict[str, str]:
    """What an authenticator needs: the secret, its URI, and the URI as a QR code (SVG)."""
    secret = totp_secret(keys, str(account), generation, key_id)
    uri = pyotp.TOTP(secret, interval=STEP_S).provisioning_uri(name=name, issuer_name=ISSUER)
    drawing = io.BytesIO()
    segno.make(uri, error="m").save(drawing, kind="svg", xmldecl=False, scale=4, border=2, dark="#000", light="#fff")
    return {"secret": secret, "uri": uri, "qr": drawing.getvalue().decode()}
