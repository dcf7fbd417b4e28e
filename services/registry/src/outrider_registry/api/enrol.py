"""Enrolment over HTTPS, for devices that cannot publish before they are somebody."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Field

from outrider.access.keys import UnknownKey
from outrider.access.secrets import claim_token
from outrider.contract.payloads import Claim, ClaimReply
from outrider_registry import enrolment
from outrider_registry.api.answers import Answer
from outrider_registry.api.deps import RegistryDep
from outrider_registry.context import Registry
from outrider_registry.errors import NotSignedIn
from outrider_registry.store import attempts, claims
from outrider_registry.store.transactions import of_platform

router = APIRouter(tags=["claims"])

ATTEMPTS = 60
"""Wrong tokens and refusals of one address or claim in 15 minutes; a token cannot be guessed, so this only keeps noise low."""
STATUS = {"accepted": 200, "pending": 202, "refused": 403}


class Enrolment(Claim):
    """A claim with its token, and what the device says of itself."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"claim": "k3v9d2mq7xwa", "token": "qLkTzQ4mE0sN1vYc7uJb9wXr", "serial": "SN-1"}]
        }
    )
    claim: Annotated[str, Field(pattern=r"^[a-z0-9]{6,32}$")]
    token: Annotated[str, Field(min_length=1, max_length=200)]


@router.post(
    "/enrol",
    summary="Become a device",
    response_model=ClaimReply,
    responses={
        202: {"model": ClaimReply, "description": "Somebody has to approve it: ask again with the same request."},
        403: {"model": ClaimReply, "description": "Refused; `reason` and `detail` say why."},
    },
)
async def enrol(registry: RegistryDep, request: Request, body: Enrolment) -> Response:
    """The reply is the one a device gets over MQTT. The same request again gets the same reply, should the first be lost."""
    address: str = request.state.address
    attempt = await attempts.admit(registry.database, f"enrol:{address}", f"claim:{body.claim}", limit=ATTEMPTS)
    if not await _is_right(registry, body.claim, body.token):
        raise NotSignedIn("There is no such claim, or its token is another one.")
    asked = Claim.model_validate(body.model_dump(exclude={"claim", "token"}))
    reply = await enrolment.redeem(registry, body.claim, asked, address)
    if reply.status != "refused":
        # Crosses tenants: attempts belong to none.
        async with of_platform(registry.database) as connection:
            await attempt.forgive(connection)
    return Answer(reply.model_dump(mode="json", exclude_none=True), STATUS[reply.status])


async def _is_right(registry: Registry, claim_id: str, token: str) -> bool:
    """Crosses tenants: whose a claim is, is not known before it is looked up."""
    async with of_platform(registry.database) as connection:
        claim = await claims.get(connection, claim_id)
    try:
        # Derived and compared in any case, so that the time does not tell whether the claim exists.
        expected = claim_token(registry.keys, claim_id, claim.key_id if claim else None)
    except UnknownKey:
        return False
    return hmac.compare_digest(token.encode("utf-8", "surrogatepass"), expected.encode()) and claim is not None
