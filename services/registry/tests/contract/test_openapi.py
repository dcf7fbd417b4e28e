"""The API keeps to its OpenAPI document, whatever it is sent: no 5xx, only answers that the document has.

A registry serves in a thread, with a tenant that has something of everything; a token of its admin asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from outrider.testing.fixtures import Database, clone_of
from outrider_registry.api import application
from outrider_registry.http import HttpServer
from outrider_registry.testing import running_api, running_registry

pytestmark = pytest.mark.slow

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = int(os.environ.get("OUTRIDER_TEST_EXAMPLES", "2"))
"""Requests for each route and way; 20 were tried once, and take a quarter of an hour on a busy machine."""
STREAM = "/api/v1/live"
"""Answers without end; its own tests read it."""
NEEDS_BROKER = {"/api/v1/rejected/{id}/replay", "/api/v1/rejected/replay"}
"""503 where there is none, as here."""


def document() -> dict[str, Any]:
    """The document without the header for administrators of the platform: almost any value gives 404, and hides the rest."""
    made: dict[str, Any] = application().openapi()
    for item in made["paths"].values():
        for operation in item.values():
            tenant = {"$ref": "#/components/parameters/Tenant"}
            operation["parameters"] = [one for one in operation.get("parameters", []) if one != tenant]
    del made["paths"][STREAM]
    return made


schema = schemathesis.openapi.from_dict(document())


@dataclass
class Served:
    """A registry that answers."""

    url: str
    token: str
    things: Any
    answered: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Statuses seen, by route."""


@pytest.fixture(scope="module")
def served(migrated: Database, fill_tenant: Any) -> Iterator[Served]:
    """A registry in a thread with its own event loop."""
    ready, stop = threading.Event(), threading.Event()
    found: list[Served] = []

    async def serve(database: Database) -> None:
        async with running_registry(database.service_urls["registry"]) as registry, running_api(registry) as api:
            things = await fill_tenant(api.admin, "acme", database)
            server = HttpServer(registry.settings.model_copy(update={"registry_http_port": 0}))
            server.app = api.app
            task = asyncio.create_task(server.run())
            while server.problem() is not None:
                await asyncio.sleep(0.01)
            found.append(Served(server.url, api.token.headers["authorization"], things))
            ready.set()
            await asyncio.to_thread(stop.wait)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    with clone_of(migrated) as database:
        thread = threading.Thread(target=lambda: asyncio.run(serve(database)), name="served", daemon=True)
        thread.start()
        assert ready.wait(60), "the registry did not start"
        yield found[0]
        stop.set()
        thread.join(20)
    served_well = [route for route, statuses in found[0].answered.items() if any(200 <= one < 300 for one in statuses)]
    print(f"\n{len(served_well)} of {len(found[0].answered)} routes also answered 2xx; never:")
    print(*sorted(set(found[0].answered) - set(served_well)), sep="\n")


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_answers_are_what_the_document_says(case: schemathesis.Case, served: Served) -> None:
    ask(case, served)


@schema.exclude(method="DELETE").parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_answers_about_what_exists_are_what_the_document_says(case: schemathesis.Case, served: Served) -> None:
    """The same with paths of things that are there, as most invented ones are not; and that stay there."""
    path = served.things.path(case.operation.path).removeprefix("/api/v1/").split("/")
    template = case.operation.path.removeprefix("/api/v1/").split("/")
    case.path_parameters = {
        name.strip("{}"): value for name, value in zip(template, path, strict=True) if name.startswith("{")
    }
    ask(case, served)


def ask(case: schemathesis.Case, served: Served) -> None:
    """Send it, and check the answer."""
    headers = {"Authorization": served.token}
    answer = case.call(base_url=served.url, headers=headers)
    served.answered[f"{case.operation.method.upper()} {case.operation.path}"].add(answer.status_code)
    if case.operation.path in NEEDS_BROKER and answer.status_code == 503:
        return
    case.validate_response(answer, checks=CHECKS)
