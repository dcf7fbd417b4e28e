"""The OpenAPI document: what FastAPI derives from the routes, and what holds for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from outrider_gateway import access, errors
from outrider_gateway.api.answers import PROBLEM_TYPE

DESCRIPTION = """\
HTTP for those who have no MQTT, and queries for everyone.

- **Who asks**: a device with HTTP Basic (its id and secret), or a program with `Authorization: Bearer TOKEN`. Administrators of
  the platform name the tenant they work in: header `Outrider-Tenant`.
- **Errors** are problems (RFC 9457) whose `detail` says what to do. What does not exist and what belongs to another tenant
  give the same 404.
- **Times** are ISO 8601 in UTC.
"""
TAGS = {
    "uploads": "What devices send: telemetry, log lines, events. Answered when it is stored.",
    "phones": "What apps for phones send.",
    "telemetry": "Values over time, and the latest ones.",
    "trips": "Trips.",
    "fleet": "Figures over many devices.",
}
PROBLEM = {
    "type": "object",
    "title": "Problem",
    "description": "What is wrong and what to do (RFC 9457).",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "examples": ["about:blank"]},
        "title": {"type": "string", "examples": ["Invalid value"]},
        "status": {"type": "integer", "examples": [422]},
        "detail": {"type": "string", "examples": ["Name the device this is from: header Outrider-Device."]},
    },
    "additionalProperties": True,
}
PROBLEMS: dict[str, type[errors.Problem]] = {
    str(problem.status): problem
    for problem in (
        errors.Problem,
        errors.NotSignedIn,
        errors.Forbidden,
        errors.NotFound,
        errors.Conflict,
        errors.TooLarge,
        errors.Unsupported,
        errors.Invalid,
        errors.TooMany,
        errors.Unavailable,
    )
}
TENANT = {
    "name": "Outrider-Tenant",
    "in": "header",
    "required": False,
    "description": "The tenant to work in, for administrators of the platform.",
    "schema": {"type": "string", "maxLength": 63, "examples": ["acme"]},
}


def install(app: FastAPI, routers: Sequence[APIRouter], prefix: str) -> None:
    """Let this app describe itself with `document`."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = document(app, routers, prefix)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def document(app: FastAPI, routers: Sequence[APIRouter], prefix: str) -> dict[str, Any]:
    """The whole document; the same for the same code."""
    made = get_openapi(
        title=app.title,
        version=app.version,
        description=DESCRIPTION,
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in TAGS.items()],
        servers=[{"url": "/"}],
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    components = made.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Problem"] = PROBLEM
    components["responses"] = {name: _response(problem.__doc__ or "") for name, problem in PROBLEMS.items()}
    components["responses"]["4XX"] = _response("The request cannot be served; the detail says what to do.")
    components["parameters"] = {"Tenant": TENANT}
    components["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "An API token of the registry."},
        "key": {"type": "http", "scheme": "basic", "description": "A device's id and its secret."},
    }
    secured = _secured(routers, prefix)
    for path, item in made["paths"].items():
        for method, operation in item.items():
            _complete(operation, (method, path) in secured)
    return made


def _complete(operation: dict[str, Any], secured: bool) -> None:
    responses: dict[str, Any] = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    parameters: list[dict[str, Any]] = operation.setdefault("parameters", [])
    operation.setdefault("security", [{"token": []}, {"key": []}])
    if secured:
        parameters.append({"$ref": "#/components/parameters/Tenant"})
    for status in ("400", "401", "403", "404", "422", "429", "503"):
        responses.setdefault(status, {"$ref": f"#/components/responses/{status}"})
    responses.setdefault("4XX", {"$ref": "#/components/responses/4XX"})
    if not parameters:
        del operation["parameters"]


def _response(description: str) -> dict[str, Any]:
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": " ".join(description.split()), "content": content}


def _secured(routers: Sequence[APIRouter], prefix: str) -> set[tuple[str, str]]:
    """Method and path of every route that asks who is there."""
    return {
        (method.lower(), prefix + route.path_format)
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute) and _asks(route.dependant)
        for method in route.methods or ()
    }


def _asks(dependant: Dependant) -> bool:
    return dependant.call is access.principal or any(_asks(one) for one in dependant.dependencies)
