"""A client of the registry's REST API for commands: where it is, who asks, and errors as sentences."""

from __future__ import annotations

import functools
import inspect
import secrets
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import orjson
import typer
from rich.markup import escape
from rich.table import Table

from outrider_cli import terminal
from outrider_cli.connect import DataOption
from outrider_cli.state import NotRunning, State

PAGE = 500
TIMEOUT_S = 60.0


class Api:
    """The REST API as one person sees it. Every method ends the command with what the registry says is wrong."""

    def __init__(
        self, url: str, token: str, tenant: str | None, as_json: bool = False, verify: str | bool = True
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        if tenant:
            headers["Outrider-Tenant"] = tenant
        self.url = url.rstrip("/")
        self.as_json = as_json
        self._http = httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=TIMEOUT_S, verify=verify)

    def of_platform(self) -> Api:
        """The same without a tenant: for what an administrator of the platform sees as a whole."""
        self._http.headers.pop("Outrider-Tenant", None)
        return self

    def get(self, path: str, **params: Any) -> Any:
        """The document at a path; parameters that are None are left out."""
        return self._json(self._ask("GET", path, params=_given(params)))

    def post(self, path: str, body: Any = None) -> Any:
        """The answer to a POST; it carries an idempotency key, so that a retry over a broken line does nothing twice."""
        return self._json(self._ask("POST", path, json=body or {}, headers={"Idempotency-Key": secrets.token_hex(16)}))

    def post_if_possible(self, path: str, body: Any = None) -> Any:
        """As `post`; None where the request contradicts what is there (409)."""
        headers = {"Idempotency-Key": secrets.token_hex(16)}
        response = self._ask("POST", path, accept=409, json=body or {}, headers=headers)
        return None if response.status_code == 409 else self._json(response)

    def put(self, path: str, body: Any, *, if_match: str = "*") -> Any:
        """Replaces what is there."""
        return self._json(self._ask("PUT", path, json=body, headers={"If-Match": if_match}))

    def delete(self, path: str, *, if_match: str = "*") -> Any:
        """Deletes what is there."""
        return self._json(self._ask("DELETE", path, headers={"If-Match": if_match}))

    def edit(self, path: str, changes: Mapping[str, Any]) -> Any:
        """Changes what is there, provided that nobody else does so between reading and writing."""
        tag = self._ask("GET", path).headers.get("ETag", "*")
        return self._json(self._ask("PATCH", path, json=dict(changes), headers={"If-Match": tag}))

    def text(self, path: str) -> str:
        """A document that is no JSON."""
        return self._ask("GET", path).text

    def pages(self, path: str, limit: int | None = None, **params: Any) -> Iterator[dict[str, Any]]:
        """Items of a list, page by page, at most `limit`."""
        cursor, left = None, limit
        while left is None or left > 0:
            found = self.get(path, limit=min(PAGE, left or PAGE), cursor=cursor, **params)
            yield from found["items"]
            left = None if left is None else left - len(found["items"])
            cursor = found.get("next")
            if not cursor:
                return

    def _ask(self, method: str, path: str, *, accept: int | None = None, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            fail(f"The registry at {self.url} does not answer: {error}. Does it run? (`outrider status`)")
        if not response.is_success and response.status_code != accept:
            fail(problem_text(response))
        return response

    @staticmethod
    def _json(response: httpx.Response) -> Any:
        return response.json() if response.content else None


def problem_text(response: httpx.Response) -> str:
    """What a problem document says, as lines for people."""
    try:
        problem = response.json()
    except ValueError:
        return f"The registry answered {response.status_code}: {response.text[:200]}"
    lines = [str(problem.get("detail") or problem.get("title") or response.status_code)]
    for error in problem.get("errors", []):
        where = error.get("field") or error.get("loc") or error.get("path") or ""
        what = error.get("message") or error.get("msg") or error.get("detail") or ""
        lines.append(f"  {where}: {what}")
    return "\n".join(lines)


def fail(message: str) -> NoReturn:
    """Ends the command with status 1."""
    typer.echo(message, err=True)
    raise typer.Exit(1)


UrlOption = Annotated[
    str | None,
    typer.Option("--registry-url", envvar="OUTRIDER_REGISTRY_URL", help="Registry; by default the platform in --data."),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="OUTRIDER_TOKEN",
        show_envvar=True,
        help="API token; by default that of the platform in --data.",
    ),
]
TenantOption = Annotated[
    str | None,
    typer.Option("--tenant", envvar="OUTRIDER_TENANT", help="Tenant to work in; `demo` on an embedded platform."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def connect(url: str | None, token: str | None, tenant: str | None, data: Path, as_json: bool = False) -> Api:
    """The API named by options or environment, else that of the platform running in `data`. Ends the command if there is none."""
    if url and token:
        return Api(url, token, tenant, as_json)
    try:
        state = State.load(data.absolute())
    except NotRunning as error:
        fail(f"{error} Or name a registry with --registry-url and --token (OUTRIDER_REGISTRY_URL, OUTRIDER_TOKEN).")
    if not state.console_url or not state.api_token:
        fail(f"The platform in {state.data_dir} runs no registry: `outrider scale registry=1` starts one.")
    return Api(url or state.console_url, token or state.api_token, tenant or (None if token else state.tenant), as_json)


def command(app: typer.Typer, name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds a command whose function takes an Api first; the options that say which one are added to its own."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        hints = typing.get_type_hints(function, include_extras=True)
        own = [p.replace(annotation=hints[p.name]) for p in list(inspect.signature(function).parameters.values())[1:]]
        keyword = inspect.Parameter.KEYWORD_ONLY
        common = [
            inspect.Parameter("as_json", keyword, default=False, annotation=JsonOption),
            inspect.Parameter("tenant", keyword, default=None, annotation=TenantOption),
            inspect.Parameter("registry_url", keyword, default=None, annotation=UrlOption),
            inspect.Parameter("token", keyword, default=None, annotation=TokenOption),
            inspect.Parameter("data", keyword, default=Path(".outrider"), annotation=DataOption),
        ]

        @functools.wraps(function)
        def run(**given: Any) -> None:
            as_json, tenant, url, token, data = (given.pop(parameter.name) for parameter in common)
            function(connect(url, token, tenant, data, as_json), **given)

        parameters = [p.replace(kind=keyword) for p in own] + common
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        del run.__wrapped__
        app.command(name or function.__name__.rstrip("_").replace("_", "-"))(run)
        return function

    return register


def show(
    api: Api, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Callable[[Mapping[str, Any]], object]]
) -> None:
    """Rows as a table of these columns, or as one JSON object a line."""
    if api.as_json:
        for row in rows:
            sys.stdout.write(orjson.dumps(row).decode() + "\n")
        return
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*("" if (cell := read(row)) is None else escape(str(cell)) for read in columns.values()))
    terminal.console().print(table)


def show_one(api: Api, document: Mapping[str, Any], *, leave_out: Sequence[str] = ()) -> None:
    """One object as a line a member, or as JSON."""
    if api.as_json:
        sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in document.items():
        if name not in leave_out and value not in (None, "", [], {}):
            text = value if isinstance(value, str) else orjson.dumps(value).decode()
            table.add_row(f"[dim]{escape(name)}[/]", escape(text))
    terminal.console().print(table)


def parse_values(pairs: Sequence[str]) -> dict[str, Any]:
    """`["interval_s=30", "mode=eco", "old=null"]` → JSON values where they read as such, else text. Raises typer.BadParameter."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE")
        try:
            values[key] = orjson.loads(text)
        except ValueError:
            values[key] = text
    return values


def when(text: str | None) -> str:
    """A time of the API in the local zone, to the second."""
    if not text:
        return ""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}
