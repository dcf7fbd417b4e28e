"""No question shows another tenant's data, none is answered without its scope, and whoever reads positions is in the audit."""

from __future__ import annotations

import secrets
import uuid
from typing import Any

import httpx
import psycopg
import pytest
from fastapi.routing import APIRoute

from outrider.testing.fixtures import Database
from outrider_gateway.api import PREFIX, fleet, latest, telemetry, trips

from .conftest import Asker
from .test_trips_and_fleet import HOUR, NOW, add_trip

SECRET = 424242.25
QUESTIONS = [
    (PREFIX + route.path)
    for module in (telemetry, latest, trips, fleet)
    for route in module.router.routes
    if isinstance(route, APIRoute)
]


def path_of(template: str, device: str, trip: str) -> str:
    return template.removeprefix(PREFIX + "/").replace(
        "{id}", trip if template.startswith(f"{PREFIX}/trips/") else device
    )


def params_of(template: str, metric: str) -> dict[str, Any]:
    over: dict[str, Any] = {"from": NOW - HOUR, "to": NOW + 48 * HOUR}
    if "latest" in template or template.endswith("trips/{id}"):
        return {}
    return over | ({"metric": metric} if "telemetry" in template else {"by": "device"} if "fleet" in template else {})


@pytest.fixture
def foreign(asker: Asker) -> tuple[str, str, str]:
    """A device, a trip and a metric of tenant `other`."""
    mark = secrets.token_hex(3)
    device, metric = asker.device(f"other-{mark}", tenant="other"), f"secret_{mark}"
    asker.store(device, metric, [(NOW + 1, SECRET)], tenant="other")
    asker.store(device, "lat", [(NOW + 1, SECRET)], tenant="other")
    return device, add_trip(asker, device, NOW, tenant="other", km=SECRET), metric


def test_every_question_is_in_the_table() -> None:
    assert len(QUESTIONS) == 8


@pytest.mark.parametrize("template", QUESTIONS)
async def test_another_tenant_sees_nothing(asker: Asker, foreign: tuple[str, str, str], template: str) -> None:
    device, trip, metric = foreign
    path, params = path_of(template, device, trip), params_of(template, metric)
    own = await asker.other.get(path, params=params)
    assert own.status_code == 200, own.text
    assert str(SECRET) in own.text
    answer = await asker.acme.get(path, params=params)
    assert str(SECRET) not in answer.text
    if "{id}" in template:
        assert answer.status_code == 404
        nobody = await asker.acme.get(path_of(template, "no-such", str(uuid.uuid4())), params=params)
        assert nobody.status_code == 404  # what is not there looks the same
    elif "telemetry" in template:
        assert answer.status_code == 400
    else:
        assert device not in answer.text


@pytest.mark.parametrize("template", [one for one in QUESTIONS if "{id}" not in one])
async def test_naming_another_tenants_device_gives_nothing(
    asker: Asker, foreign: tuple[str, str, str], template: str
) -> None:
    device, trip, metric = foreign
    asker.store(asker.device("van-of-acme"), metric, [(NOW, 1.0)])
    answer = await asker.acme.get(
        path_of(template, device, trip), params=params_of(template, metric) | {"device": device}
    )
    assert answer.status_code == 200
    assert str(SECRET) not in answer.text


@pytest.mark.parametrize("template", QUESTIONS)
async def test_without_its_scope_or_a_token_nothing_is_answered(
    asker: Asker, foreign: tuple[str, str, str], template: str
) -> None:
    path = path_of(template, foreign[0], foreign[1])
    params = params_of(template, foreign[2])
    scope = "telemetry:read" if "trips" in template else "trips:read"  # the one it does not need
    lacking = await asker.client("other", scope)
    answer = await lacking.get(path, params=params)
    assert answer.status_code == 403
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(asker.app), base_url="http://gateway.test/api/v1/"
    ) as nobody:
        assert (await nobody.get(path, params=params)).status_code == 401


async def test_reading_positions_is_in_the_audit_once_an_hour(asker: Asker, foreign: tuple[str, str, str]) -> None:
    device, trip, metric = foreign

    def noted(object_: str) -> int:
        return int(
            asker.database.value(
                "SELECT count(*) FROM registry.audit WHERE action = 'position.read' AND object = %s AND actor LIKE 'token:%%'",
                object_,
            )
        )

    await asker.other.get(f"devices/{device}/telemetry", params={"metric": metric, "from": NOW, "to": NOW + HOUR})
    await asker.other.get(f"devices/{device}/latest", params={"metric": metric})
    assert noted(f"device:{device}") == 0
    await asker.other.get(f"devices/{device}/telemetry", params={"metric": "lat", "from": NOW, "to": NOW + HOUR})
    assert noted(f"device:{device}") == 1
    await asker.other.get(f"devices/{device}/latest")
    await asker.other.get(f"trips/{trip}")
    asker.gateway.queries._noted.clear()  # as another replica, or this one after a restart
    await asker.other.get(f"devices/{device}/trips")
    assert noted(f"device:{device}") == 1
    before = noted("tenant:other")
    fresh = await asker.client("other")
    await fresh.get("fleet/telemetry", params={"metric": "lat", "from": NOW, "to": NOW + HOUR})
    assert noted("tenant:other") == before + 1


async def test_a_device_key_asks_no_questions(asker: Asker, foreign: tuple[str, str, str]) -> None:
    answer = await asker.acme.get(f"devices/{foreign[0]}/latest", headers={"authorization": "Basic dmFuLTc6c2VjcmV0"})
    assert answer.status_code == 401


OVER = "ARRAY['raw'], ARRAY['2020-01-01']::timestamptz[], ARRAY['2030-01-01']::timestamptz[]"
FUNCTIONS = {
    "gateway.tenant_devices(NULL, NULL, NULL)": 1,
    "gateway.tenant_series(NULL, NULL)": 2,
    "gateway.tenant_metrics()": 2,
    "gateway.tenant_samples({ids}, '{{}}', '{{}}', '2020-01-01', '2030-01-01', 9)": 2,
    f"gateway.tenant_buckets({{ids}}, {OVER}, NULL, true)": 2,
    f"gateway.tenant_fleet({{ids}}, {OVER}, NULL, true, true, ARRAY[0.5])": 1,
    "gateway.tenant_latest(NULL, NULL)": 2,
    "trips.tenant_trip": 1,
}


def test_the_databases_functions_show_one_tenant_each(database: Database) -> None:
    """Even where the code above them were wrong: as the gateway's role, asked for the ids of somebody else."""
    ids = database.value(
        "WITH t AS (INSERT INTO registry.tenant (name) VALUES ('acme'), ('other')), "
        "d AS (INSERT INTO registry.device (id, tenant) VALUES ('other-1', 'other')), "
        "v AS (INSERT INTO trips.vehicle (tenant, device) VALUES ('other', 'other-1') RETURNING id), "
        "p AS (INSERT INTO trips.trip (id, vehicle, tenant, device, state, micro, edited, start_at, end_at, duration_s, "
        "start_reason, confidence, evidence, detail) SELECT gen_random_uuid(), id, 'other', 'other-1', 'final', false, false, "
        "now(), now(), 1, 'speed', 1, 'speed', '{}' FROM v), "
        "s AS (INSERT INTO telemetry.series (tenant, device, metric, kind) VALUES ('other', 'other-1', 'a', 'number'), "
        "('other', 'other-1', 'b', 'number') RETURNING id), "
        "x AS (INSERT INTO telemetry.sample SELECT id, '2020-06-01', 1 FROM s) SELECT array_agg(id) FROM s"
    )
    for call, wanted in FUNCTIONS.items():
        statement = f"SELECT count(*) FROM {call.format(ids=f'ARRAY{ids}::integer[]')}"
        for tenant, rows in (("other", wanted), ("acme", 0), ("", 0)):
            with psycopg.connect(database.service_urls["gateway"]) as connection:
                connection.execute("SELECT set_config('outrider.tenant', %s, true)", (tenant,))
                assert connection.execute(statement.encode()).fetchone() == (rows,), (call, tenant)


def test_the_gateways_role_reads_of_trips_no_more_than_it_asks(migrated: Database) -> None:
    views = migrated.rows(
        "SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'trips'::regnamespace AND c.relkind IN ('r', 'p', 'v') "
        "AND has_table_privilege('outrider_gateway', c.oid, 'SELECT') ORDER BY 1"
    )
    assert views == [("tenant_position",), ("tenant_trip",)]


def test_the_gateways_role_reads_no_table_of_others(shared: Database) -> None:
    for table in (
        "telemetry.sample",
        "telemetry.series",
        "lifecycle.rollup_1h",
        "registry.device",
        "registry.audit",
        "trips.trip",
    ):
        with (
            psycopg.connect(shared.service_urls["gateway"]) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(f"SELECT 1 FROM {table}")


async def test_a_device_that_is_being_erased_is_gone_at_once(asker: Asker) -> None:
    mark = secrets.token_hex(3)
    device, metric = asker.device(f"van-{mark}", tags=[mark]), f"metric_{mark}"
    asker.store(device, metric, [(NOW + 1, SECRET)])
    trip = add_trip(asker, device, NOW, km=SECRET)
    for template in QUESTIONS:
        answer = await asker.acme.get(path_of(template, device, trip), params=params_of(template, metric))
        assert str(SECRET) in answer.text, template
    # As the registry does first; the rows of all stores go afterwards.
    asker.database.rows("INSERT INTO runtime.tombstone (device, tenant) VALUES (%s, 'acme')", device)
    asker.database.rows("DELETE FROM registry.device WHERE id = %s", device)
    for template in QUESTIONS:
        answer = await asker.acme.get(path_of(template, device, trip), params=params_of(template, metric))
        assert str(SECRET) not in answer.text, template
        assert answer.status_code == (404 if "{id}" in template else 200), template
