"""Secrets of devices: issue, rotate, revoke. A secret is shown once; it can be derived again, but is not handed out again."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from outrider.access.authority import BadRequest, read_request, trusted
from outrider_registry import enrolment
from outrider_registry.api.deps import RegistryDep, audited, needs, tenant_transaction
from outrider_registry.api.fields import Body, Name, Time
from outrider_registry.context import Registry
from outrider_registry.errors import Invalid
from outrider_registry.principals import Principal
from outrider_registry.store import certificates, credentials
from outrider_registry.store.credentials import Secret
from outrider_registry.store.redemption import Accepted

router = APIRouter(tags=["credentials"])

Reader = Annotated[Principal, needs("devices:read")]
Writer = Annotated[Principal, needs("credentials:write")]
State = Literal["delivered", "active", "replaced", "revoked", "expired"]
Kind = Literal["secret", "certificate"]


class Credential(BaseModel):
    """A credential that a device has or had, without its secret."""

    generation: int
    kind: Kind
    state: State = Field(
        description="active: the broker takes it. delivered: sent to the device, which has not confirmed it yet. "
        "A certificate that was replaced is good until it expires."
    )
    key_id: str = Field(description="The master key it comes from.")
    serial: str | None = Field(description="Of a certificate, hex.")
    issued_at: Time
    rotates_at: Time = Field(description="When it gets a successor; a certificate should be renewed then.")
    grace_until: Time | None = Field(description="While a successor is not confirmed: until when this one works.")
    delivered_at: Time | None = Field(description="When it was sent to the device last.")
    confirmed_at: Time | None
    last_used_at: Time | None = Field(description="When the device last connected while this was active.")
    expires_at: Time | None = Field(description="End of a certificate.")


class Credentials(BaseModel):
    """All of a device, the newest first."""

    items: list[Credential]


class Mqtt(BaseModel):
    """Where the device connects."""

    url: str


class NewSecret(BaseModel):
    """A secret for a device."""

    device: str
    generation: int
    state: Literal["active", "delivered"]
    key_id: str
    username: str
    secret: str | None = Field(description="Shown once; null while it is on its way to the device.")
    mqtt: Mqtt
    topics: dict[str, str] = Field(description="The device's topics.")


class Rotate(Body):
    """How."""

    now: bool = Field(
        False,
        description="The old secret stops at once and the new one is in the answer, to be put on the device by hand. "
        "Otherwise the device gets it over its own connection, and the old one works until it confirms.",
    )


class Revoke(Body):
    """What."""

    generation: int | None = Field(None, ge=1, le=2**31 - 1, description="null: everything the device has.")


class RevokedCredential(BaseModel):
    """One that is not valid any more."""

    generation: int
    kind: Kind


class Revoked(BaseModel):
    """What was revoked."""

    revoked: list[RevokedCredential]


class CertificateRequest(Body):
    """A request (PKCS #10) of the device's own key."""

    csr: str = Field(min_length=1, max_length=16_384, description="PEM; its common name is the device's id, or empty.")


class NewCertificate(BaseModel):
    """A certificate for a device."""

    device: str
    generation: int
    certificate: str = Field(description="PEM.")
    chain: str = Field(description="PEM of the authorities.")
    serial: str
    expires_at: Time
    mqtt: Mqtt


@router.get("/devices/{id}/credentials", summary="List a device's credentials")
async def list_credentials(registry: RegistryDep, who: Reader, id: Name) -> Credentials:  # noqa: A002
    """Every generation with its state; never a secret."""
    async with tenant_transaction(registry, who) as connection:
        rows = await credentials.list_of(connection, id)
    return Credentials(items=[Credential(**row) for row in rows])


@router.post("/devices/{id}/credentials", status_code=201, summary="Issue a device's first secret")
async def issue_secret(registry: RegistryDep, who: Writer, id: Name) -> NewSecret:  # noqa: A002
    """409 where it has one: rotate that."""
    async with tenant_transaction(registry, who) as connection:
        secret = await credentials.issue(connection, registry.keys, id, registry.settings.credential_rotation_days)
        await audited(connection, who, "credential.issue", f"device:{id}", generation=secret.generation)
    return _shown(registry, who, secret)


@router.post("/devices/{id}/credentials/rotate", summary="Rotate a device's secret")
async def rotate_secret(
    registry: RegistryDep,
    who: Writer,
    id: Name,  # noqa: A002
    body: Rotate | None = None,
) -> NewSecret:
    """A new secret: sent to the device and valid once it confirms; or, with `now`, valid at once and shown here."""
    now = body is not None and body.now
    settings = registry.settings
    async with tenant_transaction(registry, who) as connection:
        if now:
            device = await credentials.lock(connection, id)
            secret = await credentials.replace_now(connection, registry.keys, device, settings.credential_rotation_days)
        else:
            secret = await credentials.rotate(
                connection, registry.keys, id, settings.credential_rotation_days, settings.credential_grace_days
            )
        await audited(connection, who, "credential.rotate", f"device:{id}", generation=secret.generation, now=now)
    return _shown(registry, who, secret)


@router.post("/devices/{id}/credentials/revoke", summary="Revoke a device's credentials")
async def revoke_credentials(
    registry: RegistryDep,
    who: Writer,
    id: Name,  # noqa: A002
    body: Revoke | None = None,
) -> Revoked:
    """Not valid any more, at once. A device without a valid credential is thrown out, and needs a new one or a claim."""
    async with tenant_transaction(registry, who) as connection:
        revoked = await credentials.revoke(connection, id, body.generation if body else None)
        if revoked:
            generations = [one["generation"] for one in revoked]
            await audited(connection, who, "credential.revoke", f"device:{id}", generations=generations)
    return Revoked(revoked=[RevokedCredential(**one) for one in revoked])


@router.post("/devices/{id}/certificate", status_code=201, summary="Sign a device's certificate request")
async def issue_certificate(
    registry: RegistryDep,
    who: Writer,
    id: Name,  # noqa: A002
    body: CertificateRequest,
) -> NewCertificate:
    """A client certificate for a year; the one before stays good until it ends. Renew in the same way."""
    try:
        request = read_request(body.csr)
    except BadRequest as error:
        raise Invalid(str(error)) from None
    async with tenant_transaction(registry, who) as connection:
        device = await credentials.lock(connection, id)
        generation, issued = await certificates.issue(connection, registry.keys, device, request)
        await audited(connection, who, "certificate.issue", f"device:{id}", generation=generation, serial=issued.serial)
    accepted = Accepted(who.in_tenant(), id, generation, None, issued.pem)
    return NewCertificate(
        device=id,
        generation=generation,
        certificate=issued.pem,
        chain=trusted(registry.keys),
        serial=issued.serial,
        expires_at=issued.expires_at,
        mqtt=Mqtt(url=enrolment.url_for(accepted, registry.settings)),
    )


def _shown(registry: Registry, who: Principal, secret: Secret) -> NewSecret:
    shown: dict[str, Any] = {"device": secret.device, "generation": secret.generation, "key_id": secret.key_id}
    return NewSecret(
        **shown,
        state=secret.state,
        username=secret.device,
        secret=secret.of(registry.keys) if secret.state == "active" else None,
        mqtt=Mqtt(url=registry.settings.device_mqtt_url),
        topics=enrolment.topics_of(who.in_tenant(), secret.device),
    )
