"""Two tenants with something of everything in them, and how each route is asked for it."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from psycopg.types.json import Jsonb

from outrider.testing.fixtures import Database
from outrider_registry.testing import Client

PREFIX = "/api/v1"
NUMBER = {"acme": 111222.25, "other": 987654.25}
"""A value of each tenant's device, to be recognised anywhere."""


def certificate_request() -> str:
    """A CSR (PEM) of a new key."""
    key = ec.generate_private_key(ec.SECP256R1())
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )


@dataclass
class Things:
    """What a tenant has. Its names are what others may guess; `secret` is in whatever else is text."""

    tenant: str
    secret: str
    device: str
    user: str
    token: str
    claim: str
    waiting_claim: str
    configuration: str
    key: str
    command: str
    chart: str
    metric: str
    rejected: int
    trips: list[str]
    """Two that follow each other."""
    edit: str
    """A merge of two others."""
    lost: str
    """A device that the tenant's telemetry knows and the registry does not."""
    spare: str
    """A device that may be erased."""
    erasure: str
    task: str

    def path(self, template: str) -> str:
        """The path of a route, of these things."""
        named = {
            "devices": self.device,
            "rejected": str(self.rejected),
            "charts": self.chart,
            "claims": self.waiting_claim if template.endswith(("approve", "refuse")) else self.claim,
            "commands": self.command,
            "users": self.user,
            "tenants": self.tenant,
            "metrics": self.metric,
            "configurations": self.configuration,
            "configuration-keys": self.key,
            "tokens": self.token,
            "erasures": self.erasure,
            "archive": self.task,
            "trips": self.trips[0],
            "trip-edits": self.edit,
            "trip-rules": "*",
        }
        noun = template.removeprefix(PREFIX).split("/")[1]
        return re.sub(r"\{\w+\}", lambda _: named[noun], template)

    def query(self, template: str) -> dict[str, Any]:
        """What to ask a list for."""
        return {
            "/data": {
                "series": f"{self.device}:{self.metric}",
                "from": "2026-01-01T00:00:00Z",
                "to": "2026-01-02T00:00:00Z",
            },
            "/devices": {"gateway": self.device},
            "/devices/{id}/track": {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"},
            "/rejected": {"device": self.device},
            "/sequences": {"device": self.device},
            "/commands": {"device": self.device},
            "/trips": {"device": self.device},
            "/trip-edits": {"device": self.device},
            "/audit": {"object": f"device:{self.device}"},
            "/live": {"device": self.device},
        }.get(template.removeprefix(PREFIX), {})

    def body(self, method: str, template: str) -> Any:
        """A body that would do it, naming these things where it names any."""
        series = [{"device": self.device, "metric": self.metric}]
        chart = {"name": "of somebody", "definition": {"series": series, "range": {"last_s": 3600}}}
        configuration = {"name": "mine", "state": {"interval_s": 5}}
        return {
            "POST /users": {"name": self.user},
            "PATCH /users/{name}": {"role": "viewer"},
            "POST /tokens": {"name": "mine", "scopes": ["devices:read"]},
            "POST /tenants": {"name": self.tenant},
            "PATCH /tenants/{name}": {"title": "taken over"},
            "POST /devices": {"id": self.device},
            "PATCH /devices/{id}": {"name": "taken over"},
            "POST /devices/import": {"rows": [{"id": self.device, "name": "taken over"}], "on_existing": "update"},
            "POST /devices/adopt": {"dry_run": False},
            "PUT /metrics/{name}": {"unit": "taken over"},
            "POST /rejected/replay": {"ids": [self.rejected]},
            "POST /charts": chart,
            "PUT /charts/{id}": chart,
            "POST /devices/{id}/credentials/rotate": {"now": True},
            "POST /devices/{id}/certificate": {"csr": certificate_request()},
            "POST /claims": {"device": self.device},
            "POST /configurations": configuration,
            "POST /configurations/preview": {"configuration": configuration},
            "PUT /configurations/{name}": {"state": {"interval_s": 5}},
            "PUT /configuration-keys/{key}": {"type": "integer"},
            "PATCH /devices/{id}/shadow": {"overrides": {"interval_s": 5}},
            "POST /devices/{id}/commands": {"name": "reboot"},
            "PUT /stop": {"reason": "a test"},
            "POST /erasures": {"kind": "device", "name": self.spare, "confirm": self.spare},
            "PATCH /retention": {"log_days": 31},
            "POST /archive/tasks": {"kind": "verify", "devices": [self.device]},
            "POST /trips/merge": {"ids": self.trips},
            "POST /trips/{id}/split": {"at": "2026-01-01T12:01:00Z"},
            "POST /trips/again": {"device": self.device, "from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"},
            "PUT /trip-rules/{type}": {"rules": {"off_resume_s": 30}},
            "POST /authority/server-certificate": {"hosts": ["broker.example"]},
        }.get(f"{method.upper()} {template.removeprefix(PREFIX)}")


async def fill(client: Client, tenant: str, database: Database) -> Things:
    """Something of everything, made by the tenant's admin and, where no route makes it, by SQL."""
    mark = f"mark{secrets.token_hex(4)}"
    secret = f"secret{secrets.token_hex(4)}"

    async def make(method: str, path: str, body: Any = None) -> Any:
        answer = await client.request(method, path, json=body)
        assert answer.status_code in {200, 201, 202}, (method, path, answer.status_code, answer.text)
        return answer.json()

    device, metric = f"van-{mark}", f"speed_{mark}"
    await make("POST", "devices", {"id": device, "name": secret, "tags": [secret], "type": secret, "serial": secret})
    await make("POST", f"devices/{device}/credentials")
    invited = await make("POST", "users", {"name": f"user-{mark}"})
    await make("POST", f"users/{invited['name']}/broker-login")
    token = await make("POST", "tokens", {"name": secret, "scopes": ["devices:read"]})
    claims = (await make("POST", "claims", {"template": {"tags": [secret]}, "count": 2, "approval": True}))["items"]
    await make("POST", "configurations", {"name": f"conf-{mark}", "state": {"text": secret}})
    await make("PUT", f"configuration-keys/key_{mark}", {"type": "string", "description": secret})
    await make("PUT", f"metrics/{metric}", {"unit": "km/h", "description": secret})
    await make("PATCH", f"devices/{device}/shadow", {"overrides": {"own": secret}})
    command = await make("POST", f"devices/{device}/commands", {"name": "get-logs", "params": {}})
    chart = await make(
        "POST",
        "charts",
        {
            "name": secret,
            "shared": True,
            "definition": {"series": [{"device": device, "metric": metric}], "range": {"last_s": 3600}},
        },
    )
    at = "2026-01-01T12:00:00Z"
    database.rows("SELECT runtime.ensure_partitions(t, ARRAY['2026-01-01']::date[]) FROM unnest(%s::text[]) t", TABLES)
    for name, value in ((metric, NUMBER[tenant]), ("lat", 50.123456 + NUMBER[tenant] / 1e8), ("lon", 8.654321)):
        database.rows(
            "WITH s AS (INSERT INTO telemetry.series (tenant, device, metric, kind) VALUES (%s, %s, %s, 'number') RETURNING id) "
            "INSERT INTO telemetry.sample SELECT id, %s, %s FROM s",
            *(tenant, device, name, at, value),
        )
    for table in ("telemetry.event", "logs.line"):
        database.rows(
            f"INSERT INTO {table} VALUES (%s, %s, %s, 'info', %s, '{{}}', 1, 1, 0, now())", tenant, device, at, secret
        )
    lost = f"lost-{mark}"
    database.rows(
        "INSERT INTO telemetry.seen (device, tenant, seen_at) SELECT d, %s, now() FROM unnest(%s::text[]) d",
        *(tenant, [device, lost]),
    )
    database.rows(
        "INSERT INTO telemetry.sequence (tenant, device, stream, boot, stored, first_at, last_at, mark_at) "
        "VALUES (%s, %s, 'telemetry', 1, '{[1,5),[8,9)}', now(), now(), now())",
        *(tenant, device),
    )
    database.rows(
        "INSERT INTO registry.presence (device, tenant, state, reason) VALUES (%s, %s, 'online', %s) "
        "ON CONFLICT (device) DO UPDATE SET state = 'online', reason = excluded.reason",
        *(device, tenant, secret),
    )
    database.rows(
        "INSERT INTO registry.presence_event (tenant, device, state, reason) VALUES (%s, %s, 'online', %s)",
        *(tenant, device, secret),
    )
    rejected = database.value(
        "INSERT INTO rejected.message (tenant, device, stream, reason, detail, topic, payload, digest, service, received_at) "
        "VALUES (%s, %s, 'telemetry', 'not_json', %s, %s, convert_to(%s, 'UTF8'), 'ab', 'ingest', now()) RETURNING id",
        *(tenant, device, secret, f"fleet/v1/{tenant}/{device}/telemetry", secret),
    )
    await make("POST", "devices", {"id": f"spare-{mark}"})
    await make("POST", "devices", {"id": f"gone-{mark}"})
    gone = {"kind": "device", "name": f"gone-{mark}", "confirm": f"gone-{mark}"}
    erasure = await make("POST", "erasures", gone)
    task = await make("POST", "archive/tasks", {"kind": "verify"})
    trips = make_trips(database, tenant, device, secret)
    database.rows(
        "UPDATE registry.claim SET state = 'awaiting_approval', request = '{}' WHERE id = %s", claims[1]["id"]
    )
    return Things(
        tenant=tenant,
        secret=secret,
        device=device,
        user=invited["name"],
        token=token["id"],
        claim=claims[0]["id"],
        waiting_claim=claims[1]["id"],
        configuration=f"conf-{mark}",
        key=f"key_{mark}",
        command=command["id"],
        chart=chart["id"],
        metric=metric,
        rejected=rejected,
        trips=trips[:2],
        edit=str(database.value(MERGE, trips[2:], tenant)),
        lost=lost,
        spare=f"spare-{mark}",
        erasure=erasure["id"],
        task=task["id"],
    )


MERGE = "SELECT trips.tenant_edit_merge(%s::uuid[], 'user:somebody') FROM set_config('outrider.tenant', %s, true)"


def make_trips(database: Database, tenant: str, device: str, secret: str) -> list[str]:
    """Four trips of two minutes, one after the other, as the service of trips would store them; their ids."""
    vehicle = database.value(
        "INSERT INTO trips.vehicle (tenant, device, moves, first_at, last_at) "
        "VALUES (%s, %s, true, '2026-01-01', '2026-01-02') RETURNING id",
        *(tenant, device),
    )
    made = []
    for n in range(4):
        start = datetime(2026, 1, 1, 12, 3 * n, tzinfo=UTC)
        ms = round(start.timestamp() * 1000)
        stop = {"start_ms": ms, "end_ms": ms + 1000, "lat": 50.0, "lon": 8.0, "engine": None, "silent": False}
        detail = {
            "track": "_p~iF~ps|U",
            "distance_km": NUMBER[tenant],
            "stops": [stop],
            "gaps": [],
            "filtered": {secret: 1},
        }
        made.append(
            database.value(
                "INSERT INTO trips.trip (id, vehicle, tenant, device, state, micro, edited, start_at, end_at, duration_s, "
                "start_reason, end_reason, confidence, evidence, detail) VALUES (gen_random_uuid(), %s, %s, %s, 'final', false, "
                "false, %s, %s, 120, 'moved', 'still', 1, 'speed', %s) RETURNING id::text",
                *(vehicle, tenant, device, start, start + timedelta(minutes=2), Jsonb(detail)),
            )
        )
    return made


TABLES = ["telemetry.sample", "telemetry.event", "logs.line"]


@pytest.fixture(scope="session")
def fill_tenant() -> Any:
    """`fill`, for tests in this folder."""
    return fill
