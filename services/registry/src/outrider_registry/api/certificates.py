"""The certificate authority: what devices and brokers need of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from cryptography import x509
from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from outrider.access import authority
from outrider.access.authority import BadRequest
from outrider_registry.api.deps import RegistryDep, needs
from outrider_registry.api.fields import Body, Time
from outrider_registry.context import Registry
from outrider_registry.errors import Invalid
from outrider_registry.principals import Principal
from outrider_registry.store import audit, certificates
from outrider_registry.store.transactions import of_platform

router = APIRouter(tags=["certificates"])

PEM_TYPE = "application/x-pem-file"
PEM: dict[int | str, dict[str, Any]] = {
    200: {"content": {PEM_TYPE: {"schema": {"type": "string"}}}, "description": "PEM."}
}
Host = Annotated[str, Field(min_length=1, max_length=253)]


class ServerCertificateRequest(Body):
    """For which server."""

    hosts: list[Host] = Field(
        min_length=1, max_length=authority.HOSTS_MAX, description="Names and addresses it is reached under."
    )


class ServerCertificate(BaseModel):
    """What a broker needs for TLS."""

    certificate: str = Field(description="PEM.")
    key: str = Field(description="Its private key, PEM; kept nowhere else.")
    chain: str = Field(description="PEM of the authorities: `cafile`.")
    crl: str = Field(description="Revocation lists, PEM: `crlfile`.")
    expires_at: Time


@router.get("/authority/ca.crt", summary="The authority's certificate", response_class=Response, responses=PEM)
async def get_authority(registry: RegistryDep) -> Response:
    """What devices trust, to check that the broker is the right one. Public."""
    return Response(authority.trusted(registry.keys), media_type=PEM_TYPE)


@router.get("/authority/crl.pem", summary="Revoked certificates", response_class=Response, responses=PEM)
async def get_revocation_lists(registry: RegistryDep) -> Response:
    """What brokers refuse. Public."""
    return Response(authority.revocation_lists(registry.keys, await all_revoked(registry)), media_type=PEM_TYPE)


@router.post("/authority/server-certificate", status_code=201, summary="Make a server certificate")
async def issue_server_certificate(
    registry: RegistryDep, who: Annotated[Principal, needs("platform:write")], body: ServerCertificateRequest
) -> ServerCertificate:
    """A key and a certificate for a year, for a broker under these names."""
    try:
        certificate, key = authority.for_servers(registry.keys).issue_server(body.hosts)
    except BadRequest as error:
        raise Invalid(str(error)) from None
    # Crosses tenants: servers belong to the platform.
    async with of_platform(registry.database) as connection:
        revoked = await certificates.revoked(connection)
        await audit.append(
            connection, None, who.actor, "certificate.issue", "server", {"hosts": body.hosts}, who.address
        )
    return ServerCertificate(
        certificate=certificate,
        key=key,
        chain=authority.trusted(registry.keys),
        crl=authority.revocation_lists(registry.keys, revoked, datetime.now(UTC)),
        expires_at=x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc,
    )


async def all_revoked(registry: Registry) -> list[tuple[str, datetime]]:
    """Crosses tenants: the list holds serial numbers and times, nothing of whose they are."""
    async with of_platform(registry.database) as connection:
        return await certificates.revoked(connection)
