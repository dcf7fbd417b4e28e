"""Keys and tokens: who passes, who does not and why, and how soon a change is heard."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
import pytest_asyncio
from starlette.datastructures import Headers

from outrider.runtime.database import Database as Pool
from outrider.runtime.errors import Transient
from outrider.testing.fixtures import Database, clone_of
from outrider.testing.waiting import eventually
from outrider_gateway.access import Access, Principal, identify
from outrider_gateway.errors import Forbidden, Invalid, NotFound, NotSignedIn, TooMany

pytestmark = [pytest.mark.servers, pytest.mark.asyncio(loop_scope="module")]


class Registry:
    """Rows of the registry, as its API leaves them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.rows("INSERT INTO registry.tenant (name) VALUES ('acme'), ('other')")

    def rows(self, query: str, *arguments: object) -> list[tuple[object, ...]]:
        with psycopg.connect(self.database.admin_url, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), arguments)
            return cursor.fetchall() if cursor.description else []

    def device(self, tenant: str = "acme", gateway: str | None = None) -> str:
        device = f"van-{secrets.token_hex(4)}"
        self.rows("INSERT INTO registry.device (id, tenant, gateway) VALUES (%s, %s, %s)", device, tenant, gateway)
        return device

    def key(self, device: str, state: str = "active", generation: int = 1, grace: str | None = None) -> str:
        secret = secrets.token_urlsafe(32)
        self.rows(
            """INSERT INTO registry.credential (device, generation, tenant, kind, state, key_id, verifier, rotates_at, grace_until)
               SELECT id, %s, tenant, 'secret', %s, 'k1', %s, now() + interval '90 days', now() + %s::interval
               FROM registry.device WHERE id = %s""",
            generation,
            state,
            hashlib.sha256(secret.encode()).digest(),
            grace,
            device,
        )
        return secret

    def token(self, tenant: str | None, *scopes: str, role: str = "operator", ends: str = "1 hour") -> str:
        token, name = "otr_" + secrets.token_urlsafe(32), f"ann-{secrets.token_hex(4)}"
        self.rows("INSERT INTO registry.account (tenant, name, role) VALUES (%s, %s, %s)", tenant, name, role)
        self.rows(
            """INSERT INTO registry.token (account, tenant, name, hash, scopes, expires_at)
               SELECT id, tenant, 'test', %s, %s, now() + %s::interval FROM registry.account WHERE name = %s""",
            hashlib.sha256(token.encode()).digest(),
            list(scopes),
            ends,
            name,
        )
        return token


@pytest.fixture(scope="module")
def registry(migrated: Database) -> Iterator[Registry]:
    with clone_of(migrated) as database:
        yield Registry(database)


@contextlib.asynccontextmanager
async def listening(registry: Registry, cache_s: float = 60.0, failures_max: int = 1000) -> AsyncIterator[Access]:
    url = registry.database.service_urls["gateway"]
    pool = Pool(url, "gateway/test", 4)
    await pool.open()
    access = Access(pool, url, cache_s, failures_max)
    task = asyncio.create_task(access.listen())
    try:
        await eventually(lambda: access.problem() is None)
        yield access
    finally:
        task.cancel()
        await asyncio.wait([task])
        await pool.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def access(registry: Registry) -> AsyncIterator[Access]:
    async with listening(registry) as access:
        yield access


async def refused(access: Access, device: str, secret: str) -> str:
    with pytest.raises(NotSignedIn) as caught:
        await access.of_device(device, secret, "192.0.2.1")
    return caught.value.detail


async def by_token(access: Access, token: str, tenant: str | None = None) -> Principal:
    return await access.of_token(token, tenant, "192.0.2.1")


async def token_refused(access: Access, token: str) -> str:
    with pytest.raises(NotSignedIn) as caught:
        await by_token(access, token)
    return caught.value.detail


async def test_a_device_s_key_may_send_and_read_nothing(registry: Registry, access: Access) -> None:
    device = registry.device()
    who = await access.of_device(device, registry.key(device), "192.0.2.1")
    assert (who.kind, who.tenant, who.device, who.scopes) == ("device", "acme", device, {"telemetry:write"})
    assert await access.sender(who, None) == device
    with pytest.raises(Forbidden, match="telemetry:read"):
        who.require("telemetry:read")
    assert registry.rows("SELECT last_used_at IS NOT NULL FROM registry.credential WHERE device = %s", device) == [
        (True,)
    ]


async def test_wrong_keys_do_not_pass(registry: Registry, access: Access) -> None:
    device, other = registry.device(), registry.device()
    secret = registry.key(device)
    registry.key(other)
    for name, wrong in ((device, secret[:-1]), (other, secret), ("van-nobody", secret), ("", ""), ("Van/7", secret)):
        assert "not its key" in await refused(access, name, wrong)


@pytest.mark.parametrize("state", ["replaced", "revoked", "expired"])
async def test_keys_that_are_over_do_not_pass(registry: Registry, access: Access, state: str) -> None:
    device = registry.device()
    assert "not its key" in await refused(access, device, registry.key(device, state))


async def test_the_old_key_passes_for_its_grace_and_the_new_one_at_once(registry: Registry, access: Access) -> None:
    device = registry.device()
    old, new = registry.key(device, grace="1 hour"), registry.key(device, "delivered", 2)
    for secret in (old, new):
        assert (await access.of_device(device, secret, "")).device == device
    late = registry.device()
    assert "not its key" in await refused(access, late, registry.key(late, grace="-1 second"))


async def test_disabled_ones_are_told_so_only_with_the_right_key(registry: Registry, access: Access) -> None:
    device, pending = registry.device(), registry.device()
    secret, other = registry.key(device), registry.key(pending)
    registry.rows("UPDATE registry.device SET status = 'disabled' WHERE id = %s", device)
    registry.rows("UPDATE registry.device SET status = 'pending' WHERE id = %s", pending)
    assert "disabled" in await refused(access, device, secret)
    assert "not its key" in await refused(access, device, "x" * 43)
    assert "waits for approval" in await refused(access, pending, other)


async def test_a_change_is_heard_at_once(registry: Registry, access: Access) -> None:
    device = registry.device()
    secret = registry.key(device)

    async def passes() -> bool:
        with contextlib.suppress(NotSignedIn):
            return (await access.of_device(device, secret, "")).device == device
        return False

    async def until(wanted: bool) -> None:
        async with asyncio.timeout(5):
            while await passes() != wanted:
                await asyncio.sleep(0.01)

    assert await passes()
    registry.rows("UPDATE registry.device SET status = 'disabled' WHERE id = %s", device)
    await until(False)
    registry.rows("UPDATE registry.device SET status = 'active' WHERE id = %s", device)
    await until(True)
    registry.rows("UPDATE registry.tenant SET disabled_at = now() WHERE name = 'acme'")
    await until(False)
    registry.rows("UPDATE registry.tenant SET disabled_at = NULL WHERE name = 'acme'")
    await until(True)
    registry.rows("UPDATE registry.credential SET state = 'revoked' WHERE device = %s", device)
    await until(False)


async def test_a_known_key_costs_no_question(registry: Registry) -> None:
    device = registry.device()
    secret = registry.key(device)
    async with listening(registry) as access:
        first = await access.of_device(device, secret, "")
        await access._database.close()  # whoever asks now gets no answer
        assert await access.of_device(device, secret, "") == first
        with pytest.raises(Transient):
            await access.of_device(device, secret + "x", "")


async def test_who_hears_nothing_knows_nothing(registry: Registry) -> None:
    device = registry.device()
    secret = registry.key(device)
    async with listening(registry) as access:
        await access.of_device(device, secret, "")
        assert access.known.get(("device", hashlib.sha256(secret.encode()).digest(), device))
        registry.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' OR query = 'SELECT 1'"
        )
        await eventually(
            lambda: access.known.get(("device", hashlib.sha256(secret.encode()).digest(), device)) is None,
            interval_s=0.01,
        )
        await access.of_device(device, secret, "")  # still answered, from the database


async def test_tokens(registry: Registry, access: Access) -> None:
    token = registry.token("acme", "telemetry:read", "telemetry:write", "users:write")
    who = await by_token(access, token)
    assert (who.kind, who.tenant, who.device) == ("token", "acme", None)
    assert who.scopes == {"telemetry:read", "telemetry:write"}
    with pytest.raises(NotFound):
        await by_token(access, token, "other")
    assert (await by_token(access, token, "acme")).tenant == "acme"
    hashed = hashlib.sha256(token.encode()).digest()
    assert registry.rows("SELECT last_used_at IS NOT NULL FROM registry.token WHERE hash = %s", hashed) == [(True,)]


async def test_a_token_has_no_more_than_its_owner_s_role(registry: Registry, access: Access) -> None:
    token = registry.token("acme", "telemetry:read", "telemetry:write", role="viewer")
    with pytest.raises(Forbidden, match="telemetry:write"):
        (await by_token(access, token)).require("telemetry:write")


async def test_tokens_that_are_over_do_not_pass(registry: Registry, access: Access) -> None:
    assert "not known" in await token_refused(access, "otr_nonsense")
    assert "not known" in await token_refused(access, registry.token("acme", "telemetry:read", ends="-1 second"))
    token = registry.token("acme", "telemetry:read")
    await by_token(access, token)
    hashed = hashlib.sha256(token.encode()).digest()
    registry.rows("UPDATE registry.token SET revoked_at = now() WHERE hash = %s", hashed)
    await eventually(lambda: access.known.get(("token", hashed)) is None)
    assert "not known" in await token_refused(access, token)
    disabled = registry.token("acme", "telemetry:read")
    await by_token(access, disabled)
    hashed = hashlib.sha256(disabled.encode()).digest()
    registry.rows(
        "UPDATE registry.account SET disabled_at = now() WHERE id = (SELECT account FROM registry.token WHERE hash = %s)",
        hashed,
    )
    await eventually(lambda: access.known.get(("token", hashed)) is None)
    assert "account of this token is disabled" in await token_refused(access, disabled)


async def test_a_token_is_known_no_longer_than_it_lasts(registry: Registry, access: Access) -> None:
    token = registry.token("acme", "telemetry:read", ends="500 milliseconds")
    hashed = hashlib.sha256(token.encode()).digest()
    async with asyncio.timeout(5):
        while access.known.get(("token", hashed)) is None:  # its making is heard late, and then it is forgotten again
            await by_token(access, token)
        while access.known.get(("token", hashed)) is not None:
            await asyncio.sleep(0.01)
    assert "not known" in await token_refused(access, token)


async def test_the_platform_names_its_tenant(registry: Registry, access: Access) -> None:
    token = registry.token(None, "telemetry:read", role="admin")
    with pytest.raises(Forbidden, match="Outrider-Tenant"):
        await by_token(access, token)
    assert (await by_token(access, token, "other")).tenant == "other"
    for nobody in ("nobody", "", "a/b"):
        with pytest.raises((NotFound, Forbidden)):
            await by_token(access, token, nobody)


async def test_for_whom_one_may_send(registry: Registry, access: Access) -> None:
    device, foreign = registry.device(), registry.device("other")
    child, stranger = registry.device(gateway=device), registry.device()
    disabled = registry.device()
    registry.rows("UPDATE registry.device SET status = 'disabled' WHERE id = %s", disabled)
    key = await access.of_device(device, registry.key(device), "")
    token = await by_token(access, registry.token("acme", "telemetry:write"))
    assert await access.sender(key, child) == child
    assert await access.sender(token, child) == child
    assert await access.sender(token, stranger) == stranger
    with pytest.raises(Invalid, match="Outrider-Device"):
        await access.sender(token, None)
    for who, name in ((key, stranger), (key, foreign), (token, foreign), (token, "nobody"), (token, "a/+/#")):
        with pytest.raises(NotFound):
            await access.sender(who, name)
    with pytest.raises(Forbidden, match="disabled"):
        await access.sender(token, disabled)


async def test_guessing_is_slowed_down_and_known_keys_pass(registry: Registry) -> None:
    device = registry.device()
    secret = registry.key(device)
    async with listening(registry, failures_max=3) as access:
        await access.of_device(device, secret, "192.0.2.7")
        for n in range(3):
            await refused(access, device, f"guess {n}")
        for _ in range(2):
            await refused(access, device, "guess 1")  # known to be wrong: not looked at, not counted
        await access.of_device(device, secret, "192.0.2.7")
        registry_before = access.failures.wait_s("192.0.2.1")
        assert 290 < registry_before <= 300
        with pytest.raises(TooMany) as caught:
            await access.of_device(device, "guess 4", "192.0.2.1")
        assert caught.value.headers["Retry-After"] == str(access.failures.wait_s("192.0.2.1"))
        assert (await access.of_device(device, secret, "192.0.2.1")).device == device
        assert "not its key" in await refused_at(access, "192.0.2.9", device, "guess 5")


async def refused_at(access: Access, address: str, device: str, secret: str) -> str:
    with pytest.raises(NotSignedIn) as caught:
        await access.of_device(device, secret, address)
    return caught.value.detail


@pytest.mark.parametrize("header", [None, "", "Basic", "Basic !!!", "Basic dmFu", "Bearer", "Digest x", "Basic \u00ff"])
async def test_headers_that_are_none(access: Access, header: str | None) -> None:
    with pytest.raises(NotSignedIn) as caught:
        await identify(access, Headers({"authorization": header} if header is not None else {}), "")
    assert caught.value.headers["WWW-Authenticate"].startswith("Basic ")


async def test_its_role_sees_no_secret_and_no_other_table(registry: Registry) -> None:
    with psycopg.connect(registry.database.service_urls["gateway"], autocommit=True) as connection:
        connection.execute("SET outrider.tenant = '*'")
        for table in ("registry.token", "registry.credential", "registry.account", "registry.device"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT * FROM {table}".encode())
