"""The HTTP API, `/api/v1`: one router per module, behind the same guards."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from outrider_gateway.api import answers, document, fleet, latest, phones, telemetry, trips, uploads
from outrider_gateway.api.compression import Compression
from outrider_gateway.api.direct import Direct
from outrider_gateway.api.guards import Guards
from outrider_gateway.context import Gateway

PREFIX = "/api/v1"
MODULES = (uploads, phones, telemetry, latest, trips, fleet)


def routers() -> list[APIRouter]:
    """The routers of all modules."""
    return [module.router for module in MODULES]


def application() -> FastAPI:
    """The routes and their description, without a gateway behind them."""
    app = FastAPI(
        title="Outrider gateway",
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


def build_api(gateway: Gateway) -> FastAPI:
    """The application that HttpServer serves."""
    app = application()
    app.state.gateway = gateway
    # The one added last is the outermost.
    app.add_middleware(Compression)
    app.add_middleware(Direct, gateway=gateway, prefix=PREFIX)
    app.add_middleware(Guards, https=gateway.url.startswith("https://"))
    return app
