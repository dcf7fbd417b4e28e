"""The REST API, `/api/v1`: one router per module, behind the same guards; and the console that is built on it."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from outrider_registry import console
from outrider_registry.api import (
    answers,
    audit,
    certificates,
    charts,
    claims,
    commands,
    configurations,
    credentials,
    data,
    devices,
    document,
    enrol,
    erasures,
    imports,
    live,
    logs,
    metrics,
    overview,
    presence,
    rejected,
    retention,
    sequences,
    session,
    shadow,
    stop,
    storage,
    tenants,
    tokens,
    trip_rules,
    trips,
    users,
)
from outrider_registry.api.authentication import Authentication
from outrider_registry.api.guards import Guards
from outrider_registry.api.idempotent import Idempotency
from outrider_registry.context import Registry

PREFIX = "/api/v1"
MODULES = (
    session,
    users,
    tokens,
    tenants,
    audit,
    devices,
    imports,
    metrics,
    data,
    logs,
    trips,
    trip_rules,
    rejected,
    sequences,
    charts,
    live,
    overview,
    credentials,
    claims,
    enrol,
    certificates,
    configurations,
    shadow,
    commands,
    stop,
    presence,
    erasures,
    retention,
    storage,
)


def routers() -> list[APIRouter]:
    """The routers of all modules."""
    return [module.router for module in MODULES]


def application() -> FastAPI:
    """The routes and their description, without a registry behind them."""
    app = FastAPI(
        title="Outrider",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=f"{PREFIX}/openapi.json",
        default_response_class=answers.Answer,
        generate_unique_id_function=lambda route: f"{route.endpoint.__module__.rpartition('.')[2]}-{route.name}",
    )
    found = routers()
    for router in found:
        app.include_router(router, prefix=PREFIX)
    document.install(app, found, PREFIX)
    answers.install(app)
    return app


def build_api(registry: Registry) -> FastAPI:
    """The application that HttpServer serves: routes, guards, console."""
    app = application()
    app.state.registry = registry
    console.mount(app, registry.settings.map_tiles, registry.settings.map_attribution)
    # The one added last is the outermost.
    app.add_middleware(Idempotency, registry=registry)
    app.add_middleware(Authentication, registry=registry)
    app.add_middleware(Guards, https=registry.url.startswith("https://"))
    return app
