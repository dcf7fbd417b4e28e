"""How the API answers: JSON with the ETag of an object's `version`, problems as RFC 9457 says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from psycopg import errors as pg
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from outrider.access.keys import UnknownKey
from outrider.runtime.errors import Transient
from outrider_registry import errors
from outrider_registry.errors import Problem

PROBLEM_TYPE = "application/problem+json"
TITLES = {404: "Not found", 405: "Method not allowed", 413: "Too large"}
_PLACES = {"query": "query parameter ", "path": "path: ", "header": "header ", "cookie": "cookie "}


class Answer(JSONResponse):
    """JSON; an object with an integer `version` gets it as its ETag."""

    def __init__(
        self,
        content: Any = None,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        background: BackgroundTask | None = None,
    ) -> None:
        super().__init__(content, status_code, headers, media_type, background)
        version = content.get("version") if isinstance(content, dict) else None
        if isinstance(version, int) and not isinstance(version, bool):
            self.headers.setdefault("etag", f'"{version}"')

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


def of_database(error: pg.Error) -> Problem:
    """A row that cannot be stored: what exists already, what is still in use, what is no value."""
    noun = (error.diag.table_name or "object").replace("_", " ")
    values = (
        (error.diag.message_detail or "").removeprefix("Key ").split(" is ", 1)[0].split(" already", 1)[0].rstrip(".")
    )
    if isinstance(error, pg.UniqueViolation):
        return errors.Conflict(
            f"There is a {noun} with {_in_words(values)} already. Choose another, or change that one."
        )
    if isinstance(error, pg.ForeignKeyViolation):
        return errors.Conflict(
            f"This {noun} is still used by something else, or names something that does not exist: {_in_words(values)}."
        )
    if isinstance(error, pg.ProgramLimitExceeded):
        return errors.TooLarge("A value is larger than the database takes.")
    text = (error.diag.message_primary or str(error)).split("\n", 1)[0]
    if constraint := error.diag.constraint_name:
        return errors.Invalid(f"A value of this {noun} is not allowed (rule {constraint}).")
    return errors.Invalid(f"A value cannot be stored: {text}.")


def _in_words(values: str) -> str:
    """`(tenant, name)=(acme, x)` as `tenant acme, name x`."""
    names, equals, them = values.partition(")=(")
    if not equals:
        return values or "these values"
    pairs = zip(names.lstrip("(").split(", "), them.rstrip(")").split(", "), strict=False)
    return ", ".join(f"{name} {value}" for name, value in pairs)


def of_error(error: Exception) -> Problem | None:
    """The problem that an exception is; None for a mistake of ours, which Guards answers."""
    match error:
        case Problem():
            return error
        case RequestValidationError():
            return of_validation(error)
        case Transient():
            return errors.Unavailable(f"The registry cannot do this now: {error}. Try again in a moment.")
        case pg.IntegrityError() | pg.DataError() | pg.ProgramLimitExceeded():
            return of_database(error)
        case UnknownKey():
            return errors.Unavailable(f"{str(error).capitalize()}.", retry_after_s=60)
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

    for kind in (
        Problem,
        RequestValidationError,
        HTTPException,
        Transient,
        pg.IntegrityError,
        pg.DataError,
        pg.ProgramLimitExceeded,
        UnknownKey,
    ):
        app.add_exception_handler(kind, handle)
