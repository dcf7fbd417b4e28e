"""Functions that run with their owner's rights do what they say, whoever calls them."""

from __future__ import annotations

import psycopg
import pytest

from outrider.testing.fixtures import Database

pytestmark = pytest.mark.servers

OURS = """
n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'public')
AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
"""


@pytest.fixture(scope="module")
def url(migrated: Database) -> str:
    """Of the template: nothing is committed here."""
    return migrated.service_urls["writer-logs"]


def test_a_type_of_the_callers_own_is_not_taken_for_a_real_one(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TEMP TABLE called (by_whom pg_catalog.text)")
        connection.execute(
            "CREATE FUNCTION pg_temp.spy(pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS "
            "'BEGIN INSERT INTO pg_temp.called VALUES (current_user); RETURN true; END'"
        )
        connection.execute("CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (pg_temp.spy(VALUE))")
        connection.execute("SELECT runtime.ensure_partitions('logs.line', ARRAY[current_date])")
        assert connection.execute("SELECT DISTINCT by_whom FROM pg_temp.called").fetchall() == []
        connection.rollback()


def test_no_name_of_the_callers_own_comes_before_a_real_one(migrated: Database) -> None:
    open_ = migrated.rows(
        "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
        f"WHERE (p.prosecdef OR p.proconfig::text ~ 'search_path=') AND {OURS} AND NOT EXISTS "
        "(SELECT FROM unnest(p.proconfig) c WHERE c ~ '^search_path=.*, pg_temp$') ORDER BY 1"
    )
    assert open_ == []


def test_nobody_calls_them_without_being_named(migrated: Database) -> None:
    public = migrated.rows(
        "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
        f"WHERE p.prosecdef AND {OURS} AND p.prorettype <> 'trigger'::regtype "
        "AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0) ORDER BY 1"
    )
    assert public == []


def test_an_eraser_that_is_not_ours_is_not_called(migrated: Database) -> None:
    with (
        psycopg.connect(migrated.service_urls["ingest"], autocommit=True) as ingest,
        psycopg.connect(migrated.service_urls["lifecycle"], autocommit=True) as lifecycle,
    ):
        ingest.execute(
            "CREATE FUNCTION pg_temp.erase_device(text, text) RETURNS jsonb SECURITY DEFINER LANGUAGE sql AS "
            "$$ SELECT jsonb_build_object('never', 1) $$"
        )
        found = [name for (name,) in lifecycle.execute("SELECT lifecycle.erasers('device')").fetchall()]
    assert "telemetry" in found
    assert [name for name in found if name.startswith("pg_")] == []


def test_views_for_one_tenant_let_no_function_look_past_them(migrated: Database) -> None:
    views = migrated.rows(
        "SELECT c.oid::regclass::text, coalesce(c.reloptions::text ~ 'security_barrier=(true|on)', false) "
        "OR 'security_barrier' = ANY (c.reloptions) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relkind = 'v' AND c.relname ~ '^tenant_' ORDER BY 1"
    )
    assert ("trips.tenant_position", True) in views
    assert [name for name, barrier in views if not barrier] == []


def test_partitions_are_read_through_their_table_only(migrated: Database) -> None:
    """Rights on a partition pass by whatever guards its table."""
    found = migrated.rows(
        "SELECT c.oid::regclass::text, r.rolname FROM pg_class c, aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee "
        "WHERE c.relispartition AND a.grantee <> c.relowner "
        "AND NOT (c.relnamespace = 'lifecycle'::regnamespace AND r.rolname = 'outrider_lifecycle') ORDER BY 1, 2"
    )
    assert found == []
