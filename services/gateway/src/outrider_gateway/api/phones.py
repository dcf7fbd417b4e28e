"""Apps for phones: OwnTracks in its HTTP mode, OsmAnd's online tracking and Traccar Client. 200 means that it is in the ledger.

An app keeps what was not answered with 200 and sends it again; every position has its own time, so it is stored once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import parse_qsl

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from outrider_gateway import errors, phones
from outrider_gateway.access import DEVICE_HEADER, Principal, address_of, identify, needs
from outrider_gateway.api.answers import Answer
from outrider_gateway.api.uploads import body_of
from outrider_gateway.context import Gateway, GatewayDep

router = APIRouter(tags=["phones"])

Writer = Annotated[Principal, needs("telemetry:write")]
FORM = "application/x-www-form-urlencoded"
FIELDS_MAX = 100
_PARAMETERS: dict[str, str] = {
    "id": "The device's id.",
    "key": "Its secret, where the app knows no user name and password. The URL is then a secret itself.",
    "lat": "Degrees.",
    "lon": "Degrees.",
    "timestamp": "Seconds or milliseconds since 1970, or ISO 8601.",
    "speed": "Knots, unless speed_unit says otherwise.",
    "speed_unit": "kn, kmh, ms or mph.",
    "bearing": "Degrees.",
    "altitude": "Metres.",
    "accuracy": "Metres.",
    "hdop": "Of the fix.",
    "batt": "Percent.",
}
_DESCRIBED = [
    {"name": name, "in": "query", "required": False, "description": text, "schema": {"type": "string"}}
    for name, text in _PARAMETERS.items()
]
_PROBLEMS = {name: {"$ref": f"#/components/responses/{name}"} for name in ("400", "413", "415")}


@router.post(
    "/owntracks",
    summary="OwnTracks",
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}},
        "responses": _PROBLEMS,
    },
)
async def owntracks(request: Request, who: Writer, gateway: GatewayDep) -> Response:
    """The app's HTTP mode with user name (the device's id) and password (its secret). Answers `[]`: no friends, no commands."""
    device = await gateway.access.sender(who, request.headers.get(DEVICE_HEADER))
    messages = phones.owntracks(_json(await body_of(request)))
    return await _answer(gateway, who, device, messages, [])


@router.get(
    "/osmand", summary="OsmAnd, Traccar Client", openapi_extra={"parameters": _DESCRIBED, "responses": _PROBLEMS}
)
async def osmand(request: Request, gateway: GatewayDep) -> Response:
    """A position in the query parameters, with the key in HTTP Basic or in `key`."""
    return await _osmand(request, gateway, request.scope["query_string"].decode("latin-1"), None)


@router.post(
    "/osmand",
    summary="Traccar Client",
    openapi_extra={
        "parameters": _DESCRIBED,
        "requestBody": {
            "required": False,
            "content": {"application/json": {"schema": {"type": "object"}}, FORM: {"schema": {"type": "object"}}},
        },
        "responses": _PROBLEMS,
    },
)
async def post_osmand(request: Request, gateway: GatewayDep) -> Response:
    """The same as a form, or in Traccar Client's JSON, with the key in HTTP Basic or in the parameter `key`."""
    query = request.scope["query_string"].decode("latin-1")
    content = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content == FORM:
        form = (await body_of(request)).decode("utf-8", "replace")
        return await _osmand(request, gateway, f"{query}&{form}" if query else form, None)
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    return await _osmand(request, gateway, query, _json(await body_of(request)) if has_body else None)


async def _osmand(request: Request, gateway: Gateway, query: str, document: Any) -> Response:
    try:
        parameters = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=FIELDS_MAX))
    except ValueError:
        raise errors.Invalid(f"There are more than {FIELDS_MAX} parameters.") from None
    named = parameters.get("id") or parameters.get("deviceid") or phones.device_of(document)
    who = await _who(request, gateway, parameters, named)
    who.require("telemetry:write")
    device = await gateway.access.sender(who, request.headers.get(DEVICE_HEADER) or named)
    received_ms = time.time_ns() // 1_000_000
    messages = phones.osmand(parameters, received_ms) if document is None else phones.traccar(document)
    return await _answer(gateway, who, device, messages, None)


async def _who(request: Request, gateway: Gateway, parameters: dict[str, str], device: str | None) -> Principal:
    if "authorization" in request.headers:
        return await identify(gateway.access, request.headers, address_of(request))
    secret = next((parameters[name] for name in ("key", "password", "token") if parameters.get(name)), None)
    if secret is None or device is None:
        raise errors.NotSignedIn(
            "Name the device in the parameter `id` and put its key into `key`, or send both with HTTP Basic."
        )
    return await gateway.access.of_device(device, secret, address_of(request))


async def _answer(
    gateway: Gateway, who: Principal, device: str, messages: Sequence[phones.Message], content: Any
) -> Response:
    receipts = await asyncio.gather(
        *(gateway.uploads.send(who.tenant, device, one.stream, one.payload()) for one in messages),
        return_exceptions=True,
    )
    reasons: list[str] = []
    for receipt in receipts:
        if isinstance(receipt, BaseException):
            raise receipt
        reasons += receipt.reasons
    # What was refused is kept; the app would send it again and again if it were told.
    headers = {"outrider-rejected": ",".join(dict.fromkeys(reasons))} if reasons else None
    return Response(status_code=200, headers=headers) if content is None else Answer(content, 200, headers)


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise errors.Invalid(f"The body is no JSON: {error}.") from None
