"""What a claim answers: it makes one device out of whoever shows it first, and gives that one the same answer again.

Whichever way a request comes (MQTT, HTTPS), `redeem` decides, with the claim's row locked.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from outrider.access import authority
from outrider.access.authority import BadRequest
from outrider.access.keys import KeyRing, UnknownKey
from outrider.contract import topics
from outrider.contract.payloads import Claim as Asked
from outrider_registry.errors import Conflict, Gone, NotFound
from outrider_registry.store import audit, certificates, claims, credentials, devices, shadows
from outrider_registry.store.claims import Claim
from outrider_registry.store.credentials import Secret
from outrider_registry.store.rows import Row, one
from outrider_registry.store.transactions import SET_TENANT

AGAIN = timedelta(minutes=10)
"""How long a decided claim can at least still be asked about, so that the device learns of it."""
APPROVAL_DAYS = 7
"""A device that waits for approval waits so long at least, whatever the claim's end was."""
AUDITED_REFUSALS = 20
"""Refusals of one claim that are audited: somebody who asks for ever must not fill the audit."""
TEMPLATE_FIELDS = ("name", "type", "tier", "tags", "latitude", "longitude", "location", "owner")
SET_AWAITING = """
UPDATE registry.claim SET state = 'awaiting_approval', request = %(request)s, request_digest = %(digest)s, used_by = %(device)s,
       expires_at = greatest(expires_at, now() + %(wait)s)
WHERE id = %(id)s
"""
SET_USED = """
UPDATE registry.claim SET state = 'used', request = %(request)s, request_digest = %(digest)s, used_by = %(device)s,
       generation = %(generation)s, used_at = now(), client_until = greatest(expires_at, now() + %(again)s),
       decided_by = %(by)s, reply_due = %(reply_due)s
WHERE id = %(id)s
"""
SET_REFUSED = """
UPDATE registry.claim SET state = 'refused', decided_by = %(by)s, reply_due = true, client_until = now() + %(again)s
WHERE id = %(id)s
"""
COUNT_REFUSAL = "UPDATE registry.claim SET refusals = refusals + 1 WHERE id = %s"
DUE = "SELECT " + claims.COLUMNS + " FROM registry.claim WHERE reply_due ORDER BY id LIMIT %s"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The device that the claim became, and its credential."""

    tenant: str
    device: str
    generation: int
    secret: str | None
    certificate: str | None


@dataclass(frozen=True, slots=True)
class Pending:
    """Somebody has to approve it first."""


@dataclass(frozen=True, slots=True)
class Refused:
    """No. `reason` is one word for programs, `detail` says what to do."""

    reason: str
    detail: str


Answer = Accepted | Pending | Refused
UNKNOWN = Refused("unknown", "There is no such claim. Ask for a new one.")
ALREADY_USED = Refused("already_used", "This claim was used by another device. Ask for a new one.")
DONE = Refused(
    "already_used", "This claim has done its work: the device has connected with its credential. Ask for a new one."
)
EXPIRED = Refused("expired", "This claim has expired. Ask for a new one.")
REVOKED = Refused("revoked", "This claim was taken back. Ask for a new one.")
DECLINED = Refused("refused", "Somebody looked at this request and said no.")
WRONG_SERIAL = Refused("wrong_serial", "This claim is for a device with another serial number.")
UNIDENTIFIED = Refused(
    "unidentified",
    "Send a serial, a csr, or a nonce (random text, the same in every retry): it tells your retry from another device.",
)
GONE = Refused("gone", "The credential that this claim gave is not valid any more. Ask for a new claim.")
CLOSED = Refused("disabled", "The tenant of this claim is disabled.")
DISABLED = Refused("disabled", "This device is disabled. Ask for it to be enabled first.")


def digest_of(asked: Asked) -> bytes | None:
    """What tells a retry of one device from another device: what only it sends. None where it sends nothing of the kind."""
    if not (asked.serial or asked.csr or asked.nonce):
        return None
    chosen = [asked.device, asked.serial or None, asked.csr or None, asked.nonce or None]
    return hashlib.sha256(json.dumps(chosen, ensure_ascii=False).encode("utf-8", "surrogatepass")).digest()


async def redeem(
    connection: psycopg.AsyncConnection,
    keys: KeyRing,
    claim_id: str,
    asked: Asked,
    rotation_days: float,
    address: str = "",
) -> Answer:
    """What this claim answers this request: the first one makes the device, the same one again gets the same answer.

    Of requests that come at once one wins. The answer stays the same until the device was seen with its credential, or the
    claim's time is over; a request that differs is refused and audited. The transaction begins as one of the platform and
    is one of the claim's tenant afterwards. Whoever calls has checked the token.
    """
    claim = await claims.locked(connection, claim_id)
    if claim is None:
        return UNKNOWN
    await connection.execute(SET_TENANT, (claim.tenant,))
    digest = digest_of(asked)
    answer = await _decide(connection, keys, claim, asked, digest, rotation_days, address)
    if isinstance(answer, Refused) and claim.refusals < AUDITED_REFUSALS:
        await connection.execute(COUNT_REFUSAL, (claim.id,))
        detail = {"reason": answer.reason, "serial": asked.serial, "device": asked.device}
        await audit.append(
            connection, claim.tenant, f"claim:{claim.id}", "claim.refuse", f"claim:{claim.id}", detail, address
        )
    return answer


async def approve(
    connection: psycopg.AsyncConnection, keys: KeyRing, claim_id: str, rotation_days: float, by: str
) -> tuple[Claim, Accepted]:
    """Let the device that waits in. Raises NotFound, Conflict (nobody waits), Gone (its time is over)."""
    claim = await _awaiting(connection, claim_id)
    if claim.used_by is None or claim.request is None:
        raise Conflict("The device that waited was removed. Refuse this claim, or let the device ask with a new one.")
    asked = Asked.model_validate(claim.request)
    answer = await _accept(connection, keys, claim, asked, claim.used_by, claim.request_digest, rotation_days, by)
    if isinstance(answer, Refused):
        raise Conflict(answer.detail)
    return claim, answer


async def refuse(connection: psycopg.AsyncConnection, claim_id: str, by: str) -> Claim:
    """Send the device that waits away. Raises NotFound, Conflict (nobody waits), Gone (its time is over)."""
    claim = await _awaiting(connection, claim_id)
    await connection.execute(SET_REFUSED, {"id": claim.id, "by": by, "again": AGAIN})
    await connection.execute(claims.DELETE_PENDING, ([claim.used_by],))
    return claim


async def due(connection: psycopg.AsyncConnection, keys: KeyRing, limit: int) -> list[tuple[str, Asked | None, Answer]]:
    """(claim, request, answer) of claims that somebody decided and whose device has not been told yet."""
    async with connection.cursor(row_factory=class_row(Claim)) as cursor:
        found = await (await cursor.execute(DUE, (limit,))).fetchall()
    return [
        (
            claim.id,
            Asked.model_validate(claim.request) if claim.request else None,
            await _answer_again(connection, keys, claim) if claim.state == "used" else DECLINED,
        )
        for claim in found
    ]


async def _decide(
    connection: psycopg.AsyncConnection,
    keys: KeyRing,
    claim: Claim,
    asked: Asked,
    digest: bytes | None,
    rotation_days: float,
    address: str,
) -> Answer:
    if claim.closed:
        return CLOSED
    same = digest is not None and digest == claim.request_digest
    if claim.state == "used":
        if not same:
            return ALREADY_USED
        return await _answer_again(connection, keys, claim) if claim.answers else DONE
    if claim.state == "refused":
        return DECLINED if same else ALREADY_USED
    if claim.state == "revoked":
        return REVOKED
    if claim.state == "expired" or claim.over:
        return EXPIRED
    if claim.state == "awaiting_approval":
        return Pending() if same else ALREADY_USED
    if digest is None:
        return UNIDENTIFIED
    if claim.serial is not None and asked.serial != claim.serial:
        return WRONG_SERIAL
    device = await _choose_device(connection, claim, asked)
    if isinstance(device, Refused):
        return device
    if claim.approval:
        existing = await devices.lock(connection, device)
        if existing is None:
            if not await _insert(connection, claim, asked, device, "pending"):
                return _taken_name(device)
        elif not _is_its_own(claim, device):
            return _taken_name(device)
        request = {"request": Jsonb(asked.model_dump(exclude_none=True)), "digest": digest, "device": device}
        await connection.execute(SET_AWAITING, {**request, "id": claim.id, "wait": timedelta(days=APPROVAL_DAYS)})
        detail = {"device": device, "serial": asked.serial}
        await audit.append(
            connection, claim.tenant, f"claim:{claim.id}", "claim.request", f"claim:{claim.id}", detail, address
        )
        return Pending()
    answer = await _accept(connection, keys, claim, asked, device, digest, rotation_days, "")
    if isinstance(answer, Accepted):
        noted: dict[str, object] = {"claim": claim.id, "generation": answer.generation, "serial": asked.serial}
        await audit.append(
            connection, claim.tenant, f"claim:{claim.id}", "device.enrol", f"device:{device}", noted, address
        )
    return answer


async def _choose_device(connection: psycopg.AsyncConnection, claim: Claim, asked: Asked) -> str | Refused:
    """The id this claim gives; the claim's own, the one that is asked for, the request's common name, or a new one."""
    name = None
    if asked.csr:
        try:
            name = authority.device_name(authority.read_request(asked.csr))
        except BadRequest as error:
            return Refused("bad_csr", str(error))
    device = claim.device or asked.device or name or claims.new_id(10, "d-")
    if name not in (None, device):
        return Refused("bad_csr", f"The certificate request is for {name}, and this device is {device}.")
    existing = await devices.lock(connection, device)
    if existing is None:
        return device
    if not _is_its_own(claim, device):
        return _taken_name(device)
    return _no_entry(existing) or device


async def _accept(
    connection: psycopg.AsyncConnection,
    keys: KeyRing,
    claim: Claim,
    asked: Asked,
    device: str,
    digest: bytes | None,
    rotation_days: float,
    by: str,
) -> Accepted | Refused:
    existing = await devices.lock(connection, device)
    if existing is None:
        if not await _insert(connection, claim, asked, device, "active"):
            return _taken_name(device)
    else:
        if not _is_its_own(claim, device):
            return _taken_name(device)  # somebody made it since it was looked for
        if refused := _no_entry(existing):
            return refused
        # Whoever comes with a claim for an existing device comes in the place of what it was: nothing of that stays valid.
        await credentials.revoke(connection, device, None)
        await devices.update(connection, existing | {"status": "active"} | _told(asked))
    await shadows.recompute(connection, [device])
    (row,) = await credentials.lock_all(connection, [device])
    secret = certificate = None
    if asked.csr:
        generation, issued = await certificates.issue(connection, keys, row, authority.read_request(asked.csr))
        certificate = issued.pem
    else:
        new = await credentials.replace_now(connection, keys, row, rotation_days)
        generation, secret = new.generation, new.of(keys)
    await connection.execute(
        SET_USED,
        {
            "id": claim.id,
            "request": Jsonb(asked.model_dump(exclude_none=True)),
            "digest": digest,
            "device": device,
            "generation": generation,
            "again": AGAIN,
            "by": by,
            "reply_due": bool(by),
        },
    )
    return Accepted(claim.tenant, device, generation, secret, certificate)


async def _answer_again(connection: psycopg.AsyncConnection, keys: KeyRing, claim: Claim) -> Answer:
    """What was answered before, derived or read again. The claim is used."""
    if claim.used_by is None or claim.generation is None:
        return Refused("gone", "The device that this claim became was removed. Ask for a new one.")
    row = await one(
        connection,
        "SELECT state, key_id, certificate FROM registry.credential WHERE device = %s AND generation = %s",
        (claim.used_by, claim.generation),
    )
    if row is None or row["state"] in ("revoked", "expired"):
        return GONE
    secret = None
    if row["certificate"] is None:
        try:
            secret = Secret(claim.used_by, claim.generation, row["key_id"], "active").of(keys)
        except UnknownKey:
            return GONE
    return Accepted(claim.tenant, claim.used_by, claim.generation, secret, row["certificate"])


async def _insert(connection: psycopg.AsyncConnection, claim: Claim, asked: Asked, device: str, status: str) -> bool:
    values: Row = {
        "id": device,
        "name": "",
        "type": "",
        "tier": "",
        "tags": [],
        "latitude": None,
        "longitude": None,
        "location": "",
        "owner": "",
        "gateway": None,
        "serial": None,
        "firmware": "",
        "hardware": "",
        "status": status,
        **{name: value for name, value in claim.template.items() if name in TEMPLATE_FIELDS},
    }
    told = _told(asked)
    if asked.type and topics.is_name(asked.type) and not values["type"]:
        values["type"] = asked.type
    return await devices.insert(connection, claim.tenant, values | told)


def _told(asked: Asked) -> Row:
    """What a device says of itself."""
    told = {"serial": asked.serial, "firmware": asked.firmware, "hardware": asked.hardware}
    return {name: value for name, value in told.items() if value}


async def _awaiting(connection: psycopg.AsyncConnection, claim_id: str) -> Claim:
    claim = await claims.locked(connection, claim_id)
    if claim is None:
        raise NotFound(f"There is no claim {claim_id}.")
    if claim.state == "expired" or (claim.over and claim.state == "awaiting_approval"):
        raise Gone("The claim has expired, and the device must ask with a new one.")
    if claim.state != "awaiting_approval":
        raise Conflict(f"Nobody waits for approval of this claim: it is {claim.state}." + claims.about_device(claim))
    return claim


def _is_its_own(claim: Claim, device: str) -> bool:
    """True for the device that the claim is for, or the one that waits for its approval: a token that is not for a certain
    device must not take one over."""
    return device in (claim.device, claim.used_by)


def _no_entry(device: Row) -> Refused | None:
    if device["status"] == "disabled":
        return DISABLED
    if device["gateway"] is not None:
        return Refused(
            "behind_gateway", f"The gateway {device['gateway']} speaks for this device: it needs no credential."
        )
    return None


def _taken_name(device: str) -> Refused:
    return Refused(
        "name_taken", f"There is a device {device} already. Ask for another id, or for a claim for that device."
    )
