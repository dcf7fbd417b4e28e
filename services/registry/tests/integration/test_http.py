"""The HTTP server in the service's loop: free ports, HTTPS, proxies, a graceful end."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fastapi import FastAPI, Request

from outrider.testing.fixtures import Database
from outrider.testing.waiting import eventually
from outrider_registry import housekeeping
from outrider_registry.http import HttpServer
from outrider_registry.settings import Settings
from outrider_registry.testing import Api


@asynccontextmanager
async def serving(app: Any, **settings: Any) -> AsyncIterator[HttpServer]:
    """A server on a free port, until the block ends."""
    server = HttpServer(Settings(registry_http_port=0, **settings))
    server.app = app
    assert server.problem() is not None
    task = asyncio.create_task(server.run())
    await eventually(lambda: server.problem() is None)
    try:
        yield server
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def own_certificate(folder: Path) -> dict[str, Path]:
    """A certificate for 127.0.0.1 that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    paths = {"registry_tls_certificate": folder / "server.crt", "registry_tls_key": folder / "server.key"}
    paths["registry_tls_certificate"].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths["registry_tls_key"].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


async def test_the_api_and_the_console_answer_on_a_free_port(api: Api) -> None:
    async with serving(api.app) as server, httpx.AsyncClient(base_url=server.url) as client:
        assert server.url == f"http://127.0.0.1:{server.port}"
        assert (await client.get("/api/v1/session")).status_code == 401
        session = await client.get("/api/v1/session", headers=api.token.headers)
        assert session.json()["name"] == "ada"
        assert "server" not in session.headers
        page = await client.get("/")
        assert page.headers["content-type"].startswith("text/html")
        assert (await client.get("/api/v1/openapi.json")).json()["info"]["title"] == "Outrider"


async def test_https_with_its_own_certificate(api: Api, tmp_path: Path) -> None:
    paths = own_certificate(tmp_path)
    context = ssl.create_default_context(cafile=str(paths["registry_tls_certificate"]))
    async with serving(api.app, **paths) as server, httpx.AsyncClient(base_url=server.url, verify=context) as client:
        assert server.url.startswith("https://")
        assert (await client.get("/api/v1/session")).status_code == 401


def test_settings_that_cannot_work_end_the_start_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="OUTRIDER_REGISTRY_TLS_KEY"):
        HttpServer(Settings(registry_http_port=0, registry_tls_certificate=tmp_path / "server.crt"))
    taken = HttpServer(Settings(registry_http_port=0))
    with pytest.raises(SystemExit, match="OUTRIDER_REGISTRY_HTTP_PORT"):
        HttpServer(Settings(registry_http_port=taken.port))
    taken.close()


async def test_forwarded_addresses_are_believed_of_configured_proxies_only() -> None:
    app = FastAPI()

    @app.get("/")
    async def who(request: Request) -> str:
        assert request.client is not None
        return f"{request.url.scheme} {request.client.host}"

    forwarded = {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https"}
    for proxies, expected in (
        ("", "http 127.0.0.1"),
        ("10.0.0.0/8", "http 127.0.0.1"),
        ("127.0.0.1", "https 203.0.113.9"),
    ):
        async with serving(app, registry_trusted_proxies=proxies) as server, httpx.AsyncClient() as client:
            assert (await client.get(server.url, headers=forwarded)).json() == expected, proxies


async def test_requests_in_hand_are_finished_when_the_service_stops() -> None:
    app = FastAPI()
    arrived, go = asyncio.Event(), asyncio.Event()

    @app.get("/")
    async def slow() -> str:
        arrived.set()
        await go.wait()
        return "done"

    server = HttpServer(Settings(registry_http_port=0))
    server.app = app
    task = asyncio.create_task(server.run())
    await eventually(lambda: server.problem() is None)
    async with httpx.AsyncClient() as client:
        asked = asyncio.create_task(client.get(server.url))
        await arrived.wait()
        task.cancel()
        go.set()
        assert (await asked).json() == "done"
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_has_expired_is_deleted(api: Api, database: Database) -> None:
    await api.admin.post("users/vera/link")
    await api.operator.post("tokens", json={"name": "x", "scopes": ["devices:read"]}, headers={"idempotency-key": "k"})
    await api.nobody.post("session", json={"name": "vera", "password": "wrong"})
    nothing = dict.fromkeys(housekeeping.EXPIRED, 0)
    assert await housekeeping.tidy(api.registry) == nothing
    for table, column in (
        ("session", "expires_at"),
        ("sign_in_link", "expires_at"),
        ("token", "expires_at"),
        ("attempt", "at"),
        ("idempotency", "created_at"),
    ):
        database.rows(f"UPDATE registry.{table} SET {column} = {column} - interval '1 year 91 days'")
    deleted = await housekeeping.tidy(api.registry)
    assert deleted == {"sessions": 5, "links": 1, "tokens": 2, "attempts": 2, "answers": 1}
    assert await housekeeping.tidy(api.registry) == nothing
