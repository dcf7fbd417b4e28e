"""The audit: append-only, a chain per tenant, and verifying names the first line that was changed."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from outrider.testing.fixtures import Database
from outrider_registry.context import Registry
from outrider_registry.store import audit
from outrider_registry.store.transactions import of_platform, of_tenant
from outrider_registry.testing import Api


async def fill(registry: Registry, lines: int, tenant: str = "acme") -> None:
    async with of_tenant(registry.database, tenant) as connection:
        for number in range(lines):
            await audit.append(connection, tenant, "user:ann", "device.create", f"device:van-{number}", {"n": number})


async def test_a_whole_chain_is_valid_and_filters_find_lines(api: Api) -> None:
    await fill(api.registry, 5)
    found = (await api.operator.get("audit/verify")).json()
    assert found["valid"]
    assert (found["checked"], found["first_bad"]) == (found["head"]["number"], None)
    by_object = (await api.operator.get("audit", params={"object": "device:van-3"})).json()["items"]
    assert [line["detail"] for line in by_object] == [{"n": 3}]
    by_family = (await api.operator.get("audit", params={"action": "device.", "actor": "user:ann"})).json()["items"]
    assert [line["object"] for line in by_family] == [f"device:van-{n}" for n in (4, 3, 2, 1, 0)]
    assert (await api.operator.get("audit", params={"action": "device"})).json()["items"] == []
    assert (await api.viewer.get("audit")).status_code == 403


@pytest.mark.parametrize(
    ("tampering", "first_bad"),
    [
        ("UPDATE registry.audit SET actor = 'user:bob' WHERE number = 3", 3),
        ("UPDATE registry.audit SET detail = '{\"n\": 99}' WHERE number = 4", 4),
        ("UPDATE registry.audit SET at = at + interval '1 microsecond' WHERE number = 1", 1),
        ("DELETE FROM registry.audit WHERE number = 2", 2),
        ("DELETE FROM registry.audit WHERE number > 4", 5),
        ("DELETE FROM registry.audit WHERE number <= 3", 1),
        ("UPDATE registry.audit SET number = number + 100 WHERE number = 6", 6),
        # A line that is rewritten with a hash of its own: the next one still carries the old hash.
        (
            "UPDATE registry.audit SET actor = 'user:bob', "
            "hash = registry.audit_hash(previous, tenant, number, at, 'user:bob', action, object, detail, address) "
            "WHERE number = 3",
            4,
        ),
    ],
)
async def test_what_was_changed_cut_or_removed_is_named(
    registry: Registry, database: Database, tampering: str, first_bad: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "PAGE", 2)  # over several pages
    await fill(registry, 6)
    with psycopg.connect(database.admin_url) as connection:
        connection.execute("ALTER TABLE registry.audit DISABLE TRIGGER append_only")
        connection.execute(tampering.encode())
    async with of_tenant(registry.database, "acme") as tenant:
        assert (await audit.verify(tenant, "acme")).first_bad == first_bad


async def test_a_chain_rewritten_as_a_whole_is_found_by_a_head_kept_elsewhere(api: Api, database: Database) -> None:
    await fill(api.registry, 3)
    head = (await api.admin.get("audit/verify")).json()["head"]
    assert (await api.admin.get("audit/verify", params=head)).json()["valid"]
    with psycopg.connect(database.admin_url) as connection:
        connection.execute("ALTER TABLE registry.audit DISABLE TRIGGER append_only")
        connection.execute("DELETE FROM registry.audit WHERE tenant = 'acme'")
        connection.execute("DELETE FROM registry.audit_head WHERE tenant = 'acme'")
    await fill(api.registry, 3)
    assert (await api.admin.get("audit/verify")).json()["valid"]
    found = (await api.admin.get("audit/verify", params=head)).json()
    assert (found["valid"], found["first_bad"]) == (False, head["number"])
    assert (await api.admin.get("audit/verify", params={"number": 1})).status_code == 422


async def test_the_registrys_role_can_only_append(registry: Registry, database: Database) -> None:
    await fill(registry, 1)
    with psycopg.connect(database.service_urls["registry"], autocommit=True) as connection:
        connection.execute("SELECT set_config('outrider.tenant', '*', false)")
        for statement in (
            "UPDATE registry.audit SET actor = 'nobody'",
            "DELETE FROM registry.audit",
            "TRUNCATE registry.audit",
            "UPDATE registry.audit_head SET number = 0",
            "INSERT INTO registry.audit SELECT * FROM registry.audit",
            "ALTER TABLE registry.audit DISABLE TRIGGER append_only",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())
    with (
        psycopg.connect(database.admin_url, autocommit=True) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"),
    ):
        connection.execute("DELETE FROM registry.audit")


async def test_many_writers_at_once_leave_one_chain(registry: Registry) -> None:
    await asyncio.gather(*(fill(registry, 5) for _ in range(8)))
    async with of_tenant(registry.database, "acme") as connection:
        found = await audit.verify(connection, "acme")
    assert (found.checked, found.number, found.first_bad) == (40, 40, None)


async def test_the_platform_has_a_chain_of_its_own_that_tenants_do_not_see(api: Api) -> None:
    async with of_platform(api.registry.database) as connection:
        await audit.append(connection, None, "user:root", "tenant.create", "tenant:third")
    platform = await api.sign_in(None, "root", "admin")
    lines = (await platform.get("audit")).json()["items"]
    assert [line["object"] for line in lines] == ["tenant:third"]
    assert (await platform.get("audit/verify")).json()["checked"] == 1
    assert "tenant:third" not in (await api.admin.get("audit")).text
    async with of_tenant(api.registry.database, "acme") as connection:
        assert await audit.listed(connection, audit.PLATFORM, before=None, limit=10) == []
