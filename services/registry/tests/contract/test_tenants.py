"""Tenant isolation over every route of the OpenAPI document: what is another tenant's gives 403 or 404, and stays as it is.

`pytest -s services/registry/tests/contract/test_tenants.py` prints the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from outrider.testing.fixtures import Database
from outrider_registry.api import application
from outrider_registry.testing import Api, Client

pytestmark = pytest.mark.slow

REFUSED = {403, 404}
# Names that are unique over the installation: taken, whoever has them.
TAKEN = {"post /users", "post /devices", "post /tenants"}
# Names of these are each tenant's own: the same name makes one's own thing, or finds none.
OWN_NAMES = ("/trip-rules/{type}", "/metrics/{name}", "/configurations/{name}", "/configuration-keys/{key}")
STREAM = "/live"
OPEN = {"/enrol", "/authority/ca.crt", "/authority/crl.pem"}
"""Without a sign-in: nothing of a tenant is there, or a claim's token says whose it is."""
ORDER = {"get": 0, "post": 1, "put": 2, "patch": 3, "delete": 4}


def operations() -> Iterator[tuple[str, str]]:
    """Method and path of every route; what deletes comes last, and the device, on which things hang, at the very end."""
    found = [
        (method, path.removeprefix("/api/v1"))
        for path, item in application().openapi()["paths"].items()
        for method in item
        # One's own session, which no other tenant's thing can be named in.
        if not path.startswith("/api/v1/session")
    ]
    last = {("delete", "/devices/{id}"): 1, ("delete", "/users/{name}"): 2}
    yield from sorted(found, key=lambda one: (ORDER[one[0]], last.get(one, 0), one[1]))


async def ask(client: Client, method: str, path: str, things: Any, **headers: str) -> httpx.Response:
    url = "http://registry.test" + things.path("/api/v1" + path)
    body = things.body(method, "/api/v1" + path)
    query = things.query("/api/v1" + path)
    return await client.request(method, url, params=query, json=body, headers=headers)


def named(path: str, things: Any) -> set[str]:
    """Ids in the path of a request, which its answer may repeat."""
    return set(things.path("/api/v1" + path).split("/"))


def rows_of(database: Database, tenant: str) -> dict[str, str]:
    """A digest of all rows of a tenant, by table, whoever may see them."""
    tables = database.rows(
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant' WHERE c.relkind = 'r' "
        "AND n.nspname IN ('lifecycle', 'registry', 'telemetry', 'logs', 'rejected', 'trips')"
    )
    return {
        table: database.value(
            f"SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM {table} t WHERE tenant = %s",
            tenant,
        )
        for (table,) in tables
    }


def is_right(method: str, path: str, answer: httpx.Response) -> bool:
    """True if a stranger got what a stranger should."""
    if f"{method} {path}" in TAKEN:
        return answer.status_code in REFUSED | {409}
    if path == "/devices/import" and answer.status_code == 200:
        return [row["result"] for row in answer.json()["results"]] == ["failed"]
    if path.endswith(OWN_NAMES):
        return answer.status_code in REFUSED | {200, 201, 204}
    if "{" in path or path == STREAM:
        return answer.status_code in REFUSED
    # Lists and one's own things: whatever is in them is looked at for marks.
    return answer.status_code < 500 and answer.status_code != 401


async def test_another_tenants_things_do_not_exist(api: Api, database: Database, fill_tenant: Any) -> None:
    mine = await fill_tenant(api.admin, "acme", database)
    theirs = await fill_tenant(api.other, "other", database)
    strangers = {"viewer": api.viewer, "operator": api.operator, "admin": api.admin, "token": api.token}
    number = f"{987654.25}"
    before = rows_of(database, "other")
    table, wrong = [], []
    for method, path in operations():
        row = [method.upper(), path]
        for who, client in strangers.items():
            answer = await ask(client, method, path, theirs)
            row.append(str(answer.status_code))
            hidden = (
                theirs.secret,
                number,
                *(
                    {theirs.claim, theirs.command, theirs.chart, theirs.token, theirs.lost, *theirs.trips}
                    - named(path, theirs)
                ),
            )
            leaked = [text for text in hidden if text in answer.text]
            if leaked or not is_right(method, path, answer):
                wrong.append(f"{who} {method.upper()} {path}: {answer.status_code} {leaked} {answer.text[:300]}")
        foreign = await ask(api.admin, method, path, mine, **{"outrider-tenant": "other"})
        row.append(str(foreign.status_code))
        secured = path not in OPEN
        if secured and (nobody := await ask(api.nobody, method, path, theirs)).status_code != 401:
            wrong.append(f"nobody {method.upper()} {path}: {nobody.status_code}")
        if secured and foreign.status_code not in REFUSED:
            wrong.append(f"admin with Outrider-Tenant: other {method.upper()} {path}: {foreign.status_code}")
        table.append(row)
    after = rows_of(database, "other")
    # The same requests by whom it all belongs to: they do get through, so that it was not the requests that were wrong.
    for row, (method, path) in zip(table, operations(), strict=True):
        if path in {STREAM, "/enrol"}:
            row.append("-")
            continue
        answer = await ask(api.other, method, path, theirs)
        row.append(str(answer.status_code))
        if "{" in path and answer.status_code in REFUSED and not path.startswith("/tenants"):
            wrong.append(f"its owner {method.upper()} {path}: {answer.status_code} {answer.text[:300]}")
    show(table)
    assert wrong == [], "\n".join(wrong)
    assert {name for name in before if before[name] != after[name]} == set(), "rows of the other tenant changed"


def show(table: list[list[str]]) -> None:
    """Print the table: what a tenant's people get of another tenant's things, and what its owner gets."""
    print(f"\n{'':7} {'':45} {'viewer':>8} {'operator':>8} {'admin':>8} {'token':>8} {'header':>8} {'owner':>8}")
    for method, path, *statuses in table:
        print(f"{method:7} {path:45} " + " ".join(f"{status:>8}" for status in statuses))
