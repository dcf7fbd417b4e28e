"""Row-level security fails closed (fault 42): whatever the code forgets, a transaction without a tenant sees nothing."""

from __future__ import annotations

import psycopg
import pytest

from outrider.testing.fixtures import Database
from outrider_registry.context import Registry
from outrider_registry.store.transactions import of_platform, of_tenant
from outrider_registry.testing import Api

TABLES = """
SELECT c.oid::regclass::text, c.relrowsecurity, c.relforcerowsecurity FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'registry' AND c.relkind = 'r' ORDER BY 1
"""
WITHOUT_TENANT = {
    "registry.attempt": "holds names and addresses of failed sign-ins only, which have no tenant",
    "registry.past_generation": "holds numbers, which functions read that run as their owner",
}
NOT_FORCED = {"registry.audit_head": "written by its owner in audit_append, for every tenant"}
LEAK = """
CREATE FUNCTION pg_temp.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
$$ BEGIN RAISE NOTICE 'leaked %', $1; RETURN true; END $$
"""


def readable(database: Database) -> list[str]:
    """Tables and views that the registry's role may read."""
    return [
        str(name)
        for (name,) in database.rows(
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname IN ('registry', 'telemetry', 'logs', 'rejected') AND c.relkind IN ('r', 'v', 'p') "
            "AND has_table_privilege('outrider_registry', c.oid, 'SELECT')"
        )
    ]


async def fill(api: Api) -> None:
    """Something of both tenants, and of the platform."""
    for client in (api.admin, api.other):
        await client.post(f"users/{client.name}/link")
        await client.post("tokens", json={"name": "x", "scopes": ["devices:read"]}, headers={"idempotency-key": "k"})
    for tenant in ("acme", "other"):
        async with of_tenant(api.registry.database, tenant) as connection:
            await connection.execute(
                "INSERT INTO registry.device (id, tenant) VALUES (%s, %s)", (f"van-{tenant}", tenant)
            )


def test_every_table_is_behind_forced_row_level_security(database: Database) -> None:
    found = database.rows(TABLES)
    assert len(found) > 20
    for table, enabled, forced in found:
        assert enabled or table in WITHOUT_TENANT, table
        assert forced or table in WITHOUT_TENANT or table in NOT_FORCED, table


async def test_without_a_tenant_no_row_of_any_table_or_view_is_seen(api: Api, database: Database) -> None:
    await fill(api)
    tables = readable(database)
    assert {"registry.device", "registry.account", "registry.audit"} <= set(tables)
    with psycopg.connect(database.service_urls["registry"]) as connection:
        for table in sorted(set(tables) - set(WITHOUT_TENANT)):
            rows = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
            assert rows == (0,), table
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            connection.execute("INSERT INTO registry.device (id, tenant) VALUES ('van-9', 'acme')")
        connection.rollback()
        assert connection.execute("UPDATE registry.device SET name = 'mine'").rowcount == 0
        assert connection.execute("DELETE FROM registry.account").rowcount == 0
    assert database.value("SELECT count(*) FROM registry.device WHERE name = 'mine'") == 0


async def test_a_tenants_transaction_neither_sees_nor_writes_another_tenant(api: Api, database: Database) -> None:
    await fill(api)
    async with of_tenant(api.registry.database, "acme") as connection:
        for table, column in (("tenant", "name"), ("account", "tenant"), ("device", "tenant"), ("audit", "tenant")):
            rows = await (
                await connection.execute(f"SELECT DISTINCT {column} FROM registry.{table}".encode())
            ).fetchall()
            assert rows == [("acme",)], table
        changed = await connection.execute("UPDATE registry.device SET name = 'mine' WHERE tenant = 'other'")
        assert changed.rowcount == 0
    for statement in (
        "INSERT INTO registry.device (id, tenant) VALUES ('van-9', 'other')",
        "UPDATE registry.device SET tenant = 'other'",
        "SELECT registry.audit_append('other', 'a', 'b', 'c', '{}', '')",
    ):
        with psycopg.connect(database.service_urls["registry"]) as connection_:
            connection_.execute("SELECT set_config('outrider.tenant', 'acme', true)")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection_.execute(statement.encode())


async def test_a_pooled_connection_forgets_the_tenant_of_the_transaction_before(
    registry: Registry, database: Database
) -> None:
    async with of_platform(registry.database) as connection:
        await connection.execute("INSERT INTO registry.tenant (name) VALUES ('acme')")
    named, bare = set(), set()
    for number in range(30):
        if number % 3 == 0:  # the pool has two sessions and gives them in turn
            async with of_tenant(registry.database, "acme") as connection:
                named.add(connection.info.backend_pid)
                assert await (await connection.execute("SELECT count(*) FROM registry.tenant")).fetchone() == (1,)
        else:
            async with registry.database.transaction() as connection:
                bare.add(connection.info.backend_pid)
                assert await (await connection.execute("SELECT count(*) FROM registry.tenant")).fetchone() == (0,)
                setting = await connection.execute("SELECT current_setting('outrider.tenant', true)")
                assert await setting.fetchone() in [("",), (None,)]
    assert named & bare, "the pool gave a session again"


async def test_a_transaction_that_fails_leaves_no_tenant_behind(registry: Registry) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        async with of_platform(registry.database) as connection:
            await connection.execute("INSERT INTO registry.tenant (name) VALUES ('No Name')")
    async with registry.database.transaction() as connection:
        assert await (await connection.execute("SELECT count(*) FROM registry.tenant")).fetchone() == (0,)


@pytest.mark.parametrize("name", ["*", "", "Acme", "a/b", "acme'; --", "a" * 64])
async def test_what_is_no_tenants_name_opens_no_transaction(registry: Registry, name: str) -> None:
    with pytest.raises(ValueError, match="not a tenant"):
        async with of_tenant(registry.database, name):
            pass


async def test_a_function_in_a_query_sees_no_rows_that_the_policy_hides(api: Api, database: Database) -> None:
    """A cheap function is run before a view's own conditions, unless the view is a security barrier."""
    await fill(api)
    database.rows(
        "INSERT INTO rejected.message (tenant, device, stream, reason, detail, topic, payload, digest, service, received_at) "
        "SELECT t, 'van-' || t, 'telemetry', 'not_json', '', 'fleet/v1/' || t || '/van-' || t || '/telemetry', '{', '', "
        "'ingest', now() FROM unnest(ARRAY['acme', 'other']) t"
    )
    with psycopg.connect(database.service_urls["registry"]) as connection:
        notices: list[str] = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        connection.execute(LEAK)
        connection.execute("SELECT set_config('outrider.tenant', 'acme', true)")
        for query in (
            "SELECT id FROM registry.device WHERE pg_temp.leak(id)",
            "SELECT topic FROM rejected.tenant_message WHERE pg_temp.leak(topic)",
        ):
            connection.execute(query.encode()).fetchall()
    assert sorted(notices) == ["leaked fleet/v1/acme/van-acme/telemetry", "leaked van-acme"]


async def test_a_tenant_cannot_become_the_platform_by_its_header(api: Api) -> None:
    for value in ("*", "", "-", "other", "acme,other", "ACME"):
        answer = await api.admin.get("users", headers={"outrider-tenant": value})
        assert answer.status_code == 404, value
    platform = await api.sign_in(None, "root", "admin")
    for value in ("*", "", "-", "acme,other"):
        assert (await platform.get("users", headers={"outrider-tenant": value})).status_code == 404, value
