"""How the API answers: JSON, and problems as RFC 9457 says."""

from __future__ import annotations

import json
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from psycopg import errors as pg
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from outrider.runtime.errors import Transient
from outrider_gateway import errors
from outrider_gateway.errors import Problem

PROBLEM_TYPE = "application/problem+json"
TITLES = {404: "Not found", 405: "Method not allowed", 413: "Too large"}
_PLACES = {"query": "query parameter ", "path": "path: ", "header": "header ", "cookie": "cookie "}


class Answer(JSONResponse):
    """JSON by orjson."""

    def render(self, content: Any) -> bytes:
        """Raises TypeError for what is no JSON."""
        try:
            return orjson.dumps(content)
        except TypeError:  # an integer of more than 64 bits, as jsonb may hold
            return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


def problem_response(problem: Problem) -> Response:
    """The problem as a document."""
    document = {
        "type": "about:blank",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        **problem.extra,
    }
    return Response(orjson.dumps(document, default=str), problem.status, problem.headers, media_type=PROBLEM_TYPE)


def of_validation(error: RequestValidationError) -> Problem:
    """Each wrong value with the path of its field, in words; what was sent is not repeated, it may be a secret."""
    found = []
    for one in error.errors():
        place, *path = [str(part) for part in one["loc"]]
        if one["type"] == "json_invalid":
            return errors.Invalid(f"The body is no JSON: {one.get('ctx', {}).get('error', one['msg'])}.")
        field = _PLACES.get(place, "") + ".".join(path) if path else place
        message = str(one["msg"]).removeprefix("Value error, ")
        found.append({"field": field, "message": message[:1].lower() + message[1:]})
    shown = "; ".join(f"{one['field']}: {one['message']}" for one in found[:5])
    more = f" (and {len(found) - 5} more)" if len(found) > 5 else ""
    return errors.Invalid(f"{shown}{more}.", errors=found[:100])


def of_error(error: Exception) -> Problem | None:
    """The problem that an exception is; None for a mistake of ours, which Guards answers."""
    match error:
        case Problem():
            return error
        case RequestValidationError():
            return of_validation(error)
        case Transient():
            return errors.Unavailable(f"The gateway cannot do this now: {error}. Try again in a moment.")
        case pg.DataError() | pg.ProgramLimitExceeded():
            return errors.Invalid(f"A value cannot be used: {str(error).strip().splitlines()[0]}.")
        case HTTPException():
            problem = Problem(str(error.detail))
            problem.status = error.status_code
            problem.title = TITLES.get(error.status_code, "Bad request")
            problem.headers |= dict(error.headers or {})
            return problem
    return None


def install(app: FastAPI) -> None:
    """Answer every exception of this app with a problem."""

    async def handle(request: Request, error: Exception) -> Response:
        problem = of_error(error)
        assert problem is not None
        if problem.status == 404 and isinstance(error, HTTPException):
            problem.detail = (
                f"There is nothing at {request.url.path[:200]}. See /api/v1/openapi.json for what there is."
            )
        elif problem.status == 405:
            problem.detail = (
                f"{request.method} does not work here; allowed: {problem.headers.get('Allow', 'see OpenAPI')}."
            )
        return problem_response(problem)

    for kind in (Problem, RequestValidationError, HTTPException, Transient, pg.DataError, pg.ProgramLimitExceeded):
        app.add_exception_handler(kind, handle)
