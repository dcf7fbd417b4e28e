"""The OpenAPI document: what FastAPI derives from the routes, and what holds for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from outrider_registry import errors
from outrider_registry.api import deps
from outrider_registry.api.answers import PROBLEM_TYPE
from outrider_registry.principals import SCOPES

DESCRIPTION = """\
Devices, their identities, configuration, telemetry, and the people who use them.

- **Sign in** with `Authorization: Bearer TOKEN`, or with the session's cookie and, for whatever changes something, the
  header `X-CSRF-Token` with `csrf` of `GET /api/v1/session`.
- Administrators of the platform name the tenant they work in: header `Outrider-Tenant`.
- **Errors** are problems (RFC 9457) whose `detail` says what to do. What does not exist and what belongs to another tenant
  give the same 404.
- **Lists** come in pages: send `next` back as `cursor` until it is null.
- **Changes** of what has a `version` need `If-Match` with its ETag: 428 without, 412 when somebody was faster, `*` overwrites.
- **Retries**: a POST with an `Idempotency-Key` is done once, and answered again for a day.
- **Times** are ISO 8601 in UTC.
"""
TAGS = {
    "session": "Signing in, own password and second factor.",
    "users": "People of a tenant, and administrators of the platform.",
    "tokens": "For programs.",
    "tenants": "Who owns devices.",
    "devices": "The fleet: devices, their metrics, presence and figures.",
    "telemetry": "What devices sent: values, positions, logs, events, sequence numbers; and live.",
    "trips": "Trips made of what devices sent: merged and split by people, and the rules that make them.",
    "rejected messages": "What was not accepted, with its reason; sent again when the reason is gone.",
    "charts": "Saved charts.",
    "credentials": "Devices' secrets and certificates.",
    "claims": "How a device enrols itself.",
    "certificates": "The platform's own authority.",
    "configuration": "Desired state: configurations, typed keys, one device's shadow.",
    "commands": "Commands, and the emergency stop.",
    "audit": "Who did what.",
    "erasures": "Devices and people erased from every store, for good.",
    "storage": "How much is kept where, for how long, and the archive of what is not.",
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
        "detail": {"type": "string", "examples": ["name: string should have at least 1 character."]},
        "errors": {
            "type": "array",
            "description": "Each wrong value with its field.",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
        "current_version": {"type": "integer", "description": "Of what was changed meanwhile."},
        "needs_code": {"type": "boolean", "description": "Signing in needs the second factor's code."},
    },
    "additionalProperties": True,
}
PROBLEMS: dict[str, type[errors.Problem]] = {
    str(problem.status): problem
    for problem in (
        errors.NotSignedIn,
        errors.Forbidden,
        errors.NotFound,
        errors.Conflict,
        errors.StaleVersion,
        errors.TooLarge,
        errors.Invalid,
        errors.VersionRequired,
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
IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "The ETag of what you read; `*` overwrites.",
    "schema": {"type": "string", "examples": ["*"]},
}
SOMETIMES_IF_MATCH = {("put", "/api/v1/metrics/{name}"), ("patch", "/api/v1/devices/{id}/shadow")}
"""Routes that look at it themselves: one makes what is not there, the other takes the version in the body too."""
IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Random, new for each request, the same for its retries: it is done once and answered again for a day.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[ -~]+$"},
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
    components["parameters"] = {"Tenant": TENANT, "IdempotencyKey": IDEMPOTENCY}
    components["securitySchemes"] = {
        "token": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API token. Scopes: " + "; ".join(f"`{scope}`: {text}" for scope, text in SCOPES.items()),
        },
        "session": {"type": "apiKey", "in": "cookie", "name": "outrider_session"},
    }
    secured = _secured(routers, prefix)
    for path, item in made["paths"].items():
        for method, operation in item.items():
            if (method, path) in SOMETIMES_IF_MATCH:
                operation.setdefault("parameters", []).append(IF_MATCH)
            _complete(operation, method, (method, path) in secured, schemas)
    return made


def _complete(operation: dict[str, Any], method: str, secured: bool, schemas: dict[str, Any]) -> None:
    responses: dict[str, Any] = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    parameters: list[dict[str, Any]] = operation.setdefault("parameters", [])
    statuses = {"503"}
    if parameters or "requestBody" in operation:
        statuses.add("422")
    if secured:
        statuses |= {"401", "403", "404"}
        operation["security"] = [{"token": []}, {"session": []}]
        parameters.append({"$ref": "#/components/parameters/Tenant"})
    else:
        operation["security"] = []
    if method != "get":
        statuses |= {"403", "409", "413"}
    if any(parameter.get("name") == "If-Match" for parameter in parameters):
        statuses |= {"412", "428"}
    if method == "post":
        if secured:
            parameters.append({"$ref": "#/components/parameters/IdempotencyKey"})
        else:
            statuses |= {"401", "429"}
    for status in sorted(statuses):
        responses.setdefault(status, {"$ref": f"#/components/responses/{status}"})
    responses.setdefault("4XX", {"$ref": "#/components/responses/4XX"})
    for status in ("200", "201"):
        if _has_version(responses.get(status, {}), schemas):
            header = {"description": "The version, for If-Match.", "schema": {"type": "string"}}
            responses[status].setdefault("headers", {})["ETag"] = header
    if not parameters:
        del operation["parameters"]


def _response(description: str) -> dict[str, Any]:
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": " ".join(description.split()), "content": content}


def _has_version(response: dict[str, Any], schemas: dict[str, Any]) -> bool:
    schema = response.get("content", {}).get("application/json", {}).get("schema", {})
    named = schemas.get(str(schema.get("$ref", "")).rpartition("/")[2], schema)
    return bool(named.get("properties", {}).get("version", {}).get("type") == "integer")


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
    return dependant.call is deps.principal or any(_asks(one) for one in dependant.dependencies)
