"""Enrolment as devices see it: a request with a claim, the reply with everything they need."""

from __future__ import annotations

from outrider.access import authority
from outrider.access.keys import KeyRing
from outrider.contract import topics
from outrider.contract.payloads import Claim, ClaimMqtt, ClaimReply
from outrider_registry.context import Registry
from outrider_registry.settings import Settings
from outrider_registry.store import redemption
from outrider_registry.store.redemption import Accepted, Answer, Pending, Refused
from outrider_registry.store.transactions import of_platform

TOPICS = {
    "telemetry": topics.TELEMETRY,
    "log": topics.LOG,
    "event": topics.EVENT,
    "status": topics.STATUS,
    "ack": topics.ACK,
    "shadow/desired": topics.SHADOW_DESIRED,
    "shadow/reported": topics.SHADOW_REPORTED,
    "command/+": topics.COMMAND,
    "credential": topics.CREDENTIAL,
    "credential/confirm": topics.CREDENTIAL_CONFIRM,
    "trip": topics.TRIP,
    "job": topics.JOB,
    "job/progress": topics.JOB_PROGRESS,
}


async def redeem(registry: Registry, claim: str, asked: Claim, address: str = "") -> ClaimReply:
    """What the claim answers; the same again for a retry (`store.redemption.redeem`). The token has been checked.

    Raises Transient: nothing happened, or it happened and a retry gets the answer.
    """
    if problem := problem_of(asked):
        return reply_of(Refused("bad_request", problem), None, registry.keys, registry.settings)
    # Crosses tenants: whose a claim is, is not known before it is looked up.
    async with of_platform(registry.database) as connection:
        answer = await redemption.redeem(
            connection, registry.keys, claim, asked, registry.settings.credential_rotation_days, address
        )
    return reply_of(answer, asked, registry.keys, registry.settings)


def problem_of(asked: Claim) -> str | None:
    """What is wrong with the texts of a request: control characters (a csr has line ends), half characters."""
    for name, value in asked.model_dump(exclude_none=True).items():
        allowed = "\r\n\t" if name == "csr" else ""
        if any((char < " " and char not in allowed) or "\ud800" <= char <= "\udfff" for char in value):
            return f"{name} has characters that are no text."
    return None


def reply_of(answer: Answer, asked: Claim | None, keys: KeyRing, settings: Settings) -> ClaimReply:
    """The answer as it goes to the device, with what tells it whose request this answers."""
    reply = ClaimReply(status="pending", serial=asked.serial if asked else None, nonce=asked.nonce if asked else None)
    if isinstance(answer, Pending):
        reply.detail = "Somebody has to approve this. Ask again with the same request."
        return reply
    if isinstance(answer, Refused):
        reply.status, reply.reason, reply.detail = "refused", answer.reason, answer.detail
        return reply
    reply.status = "accepted"
    reply.device = reply.username = answer.device
    reply.tenant, reply.generation = answer.tenant, answer.generation
    reply.secret, reply.certificate = answer.secret, answer.certificate
    reply.chain = authority.trusted(keys) if answer.certificate else None
    reply.mqtt = ClaimMqtt(url=url_for(answer, settings))
    reply.topics = topics_of(answer.tenant, answer.device)
    return reply


def url_for(answer: Accepted, settings: Settings) -> str:
    """The listener that takes this credential."""
    return (answer.certificate and settings.device_certificate_mqtt_url) or settings.device_mqtt_url


def topics_of(tenant: str, device: str) -> dict[str, str]:
    """The device's topics by what comes after its own prefix."""
    return {name: topic.filter(tenant=tenant, device=device) for name, topic in TOPICS.items()}


def payload_of(reply: ClaimReply) -> bytes:
    """The reply on the wire."""
    return reply.model_dump_json(exclude_none=True).encode()
