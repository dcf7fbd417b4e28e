"""Policies: what cannot work is refused with a sentence, and a tenant sets its own only."""

from __future__ import annotations

import psycopg
import pytest

from outrider.testing.fixtures import Database


@pytest.mark.parametrize(
    ("tenant", "changes", "why"),
    [
        ("a", '{"raw_days": 100}', r"rollup_1m_days \(90\) must be kept at least as long as raw_days \(100\)"),
        (
            "a",
            '{"rollup_5m_days": 0}',
            r"rollup_1h_days \(1825\) must be kept at least as long as rollup_5m_days \(for ever\)",
        ),
        ("a", '{"raw": 1}', "unknown in a policy: raw; known: raw_days"),
        ("a", '{"log_days": -1}', "days are whole numbers"),
        ("*", '{"log_days": null}', "has a value for everything"),
        ("*", '{"rollup_1m_days": 20}', r"must be kept at least as long as raw_days \(30\).*tenant long"),
    ],
)
def test_a_policy_that_cannot_work_is_refused_with_a_sentence(
    database: Database, tenant: str, changes: str, why: str
) -> None:
    database.rows("SELECT lifecycle.set_policy('long', '{\"raw_days\": 30}')")
    before = database.rows("SELECT * FROM lifecycle.policy ORDER BY tenant")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=why):
        database.rows("SELECT lifecycle.set_policy(%s, %s)", tenant, changes)
    assert database.rows("SELECT * FROM lifecycle.policy ORDER BY tenant") == before


def test_a_tenant_sees_and_sets_its_own_policy_only(database: Database) -> None:
    with psycopg.connect(database.admin_url) as connection:
        assert connection.execute("SELECT * FROM lifecycle.tenant_policy()").fetchall() == []
        with pytest.raises(psycopg.errors.RaiseException, match="no tenant"):
            connection.execute("SELECT lifecycle.tenant_set_policy('{}')")
        connection.rollback()
        connection.execute("SET LOCAL outrider.tenant = 'acme'")
        connection.execute("SELECT lifecycle.tenant_set_policy('{\"log_days\": 3}')")
        row = connection.execute(
            "SELECT (effective).log_days, (effective).raw_days, (own).raw_days FROM lifecycle.tenant_policy()"
        )
        assert row.fetchall() == [(3, 7, None)]
