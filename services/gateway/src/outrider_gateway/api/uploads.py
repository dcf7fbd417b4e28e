"""Uploads: any payload a device could publish, over HTTP. 202 means that it is in the ledger."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from outrider.contract.batch import Stream
from outrider.contract.reasons import EXPLANATION, Reason
from outrider_gateway import errors
from outrider_gateway.access import DEVICE_HEADER, Principal, needs
from outrider_gateway.api.answers import Answer
from outrider_gateway.context import Gateway, GatewayDep
from outrider_gateway.store import uploads as store
from outrider_gateway.uploads import Receipt

router = APIRouter(tags=["uploads"])

Writer = Annotated[Principal, needs("telemetry:write")]
KEY_MAX = 200
ENCODINGS: dict[str, tuple[bytes, ...]] = {
    "gzip": (b"\x1f\x8b",),
    "x-gzip": (b"\x1f\x8b",),
    "zstd": (b"\x28\xb5\x2f\xfd",),
    "deflate": (b"\x78", b"\x08", b"\x18"),
}
"""Content encodings that are taken, and how their content begins; ingest recognises it by that too."""
WHOLE = frozenset(
    {
        Reason.NOT_UTF8,
        Reason.NOT_JSON,
        Reason.UNKNOWN_FORMAT,
        Reason.TOO_LARGE,
        Reason.TOO_DEEP,
        Reason.TOO_MANY_SAMPLES,
        Reason.TOO_MANY_GAPS,
        Reason.DECOMPRESS_FAILED,
        Reason.UNKNOWN_DEVICE,
        Reason.DISABLED_DEVICE,
        Reason.WRONG_TENANT,
        Reason.ERASED,
        Reason.UNPROCESSABLE,
    }
)
"""Reasons for which nothing of a message is stored. Others may be about a part of it: an ack does not tell (delivery rule 5)."""


class Rejected(BaseModel):
    """What was refused, and kept."""

    reason: str = Field(examples=["clock_ahead"])
    detail: str
    id: int | None = Field(description="Of the rejected message, for `outrider rejected`; null past the quota.")


class Stored(BaseModel):
    """An upload is in the ledger."""

    stream: str = Field(examples=["telemetry"])
    boot: int = Field(description="With `seq` its number, which the sequence accounting shows.")
    seq: int
    ledger: str | None = Field(description="The ledger that has it.")
    rejected: list[Rejected] = Field(
        description="What was refused and kept: parts of it, or all where it had but one; the rest is stored."
    )


_HEADERS: list[dict[str, Any]] = [
    {
        "name": "Outrider-Device",
        "in": "header",
        "required": False,
        "description": "The device this is from: needed with a token; with a key, a device behind the one whose key it is.",
        "schema": {"type": "string", "maxLength": 63, "examples": ["van-7"]},
    },
    {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "description": "Random, new for each upload, the same for its retries: it is stored once, whichever replica it "
        "comes to, for 24 hours.",
        "schema": {"type": "string", "minLength": 1, "maxLength": KEY_MAX, "pattern": "^[ -~]+$"},
    },
    {
        "name": "Content-Encoding",
        "in": "header",
        "required": False,
        "description": "gzip, zstd or deflate; a compressed body is recognised without it, too.",
        "schema": {"type": "string", "enum": ["gzip", "zstd", "deflate", "identity"]},
    },
]


def _described(what: str, example: Any) -> dict[str, Any]:
    responses = {name: {"$ref": f"#/components/responses/{name}"} for name in ("400", "413", "415")}
    body = {
        "required": True,
        "description": what,
        "content": {
            "application/json": {"schema": {}, "example": example},
            "*/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
    return {"openapi_extra": {"parameters": _HEADERS, "requestBody": body, "responses": responses}}


@router.post(
    "/telemetry",
    status_code=202,
    summary="Send samples",
    response_model=Stored,
    **_described("Any telemetry format of the wire contract.", {"speed_kmh": 51.2, "rpm": 2100}),
)
async def post_telemetry(request: Request, who: Writer, gateway: GatewayDep) -> Response:
    """Flat JSON, SenML, line protocol, compact batch; compressed or not. The time of samples without one is that of arrival."""
    return await upload(request, who, gateway, "telemetry")


@router.post(
    "/log",
    status_code=202,
    summary="Send log lines",
    response_model=Stored,
    **_described("One line, an array, or one a line.", {"level": "warning", "msg": "battery low"}),
)
async def post_log(request: Request, who: Writer, gateway: GatewayDep) -> Response:
    """As on the topic `log`."""
    return await upload(request, who, gateway, "log")


@router.post(
    "/event",
    status_code=202,
    summary="Send events",
    response_model=Stored,
    **_described("One event or an array.", {"type": "button", "pressed": "sos"}),
)
async def post_event(request: Request, who: Writer, gateway: GatewayDep) -> Response:
    """As on the topic `event`."""
    return await upload(request, who, gateway, "event")


async def upload(request: Request, who: Principal, gateway: Gateway, stream: Stream) -> Response:
    """The answer once it is stored. Raises the Problem that it is otherwise."""
    device = await gateway.access.sender(who, request.headers.get(DEVICE_HEADER))
    key = idempotency_key(request)
    payload = await body_of(request)
    receipt = await gateway.uploads.send(who.tenant, device, stream, payload, key)
    document: dict[str, Any] = {
        "stream": receipt.stream,
        "boot": receipt.boot,
        "seq": receipt.seq,
        "ledger": receipt.ledger,
        "rejected": await rejected(gateway, who.tenant, device, receipt) if receipt.reasons else [],
    }
    headers = {"idempotency-replayed": "true"} if receipt.replayed else None
    if WHOLE.isdisjoint(receipt.reasons):
        return Answer(document, 202, headers)
    first = document["rejected"][0]
    refused = errors.Refused(
        f"It was refused ({first['reason']}: {first['detail']}){' and is kept as a rejected message' * bool(first['id'])}. "
        "Sent again as it is, it will be refused again.",
        **document,
    )
    refused.headers |= headers or {}
    raise refused


async def rejected(gateway: Gateway, tenant: str, device: str, receipt: Receipt) -> list[dict[str, Any]]:
    """What was refused of an upload: as it is kept, or where that is past the quota only the reasons of the ack."""
    kept = await store.rejections(gateway.database, tenant, device, receipt.stream, receipt.boot, receipt.seq)
    known = {one["reason"] for one in kept}
    return kept + [
        {"id": None, "reason": reason, "detail": EXPLANATION.get(Reason(reason), "") if reason in set(Reason) else ""}
        for reason in receipt.reasons
        if reason not in known
    ]


def idempotency_key(request: Request) -> str | None:
    """The key of a request. Raises Invalid."""
    key = request.headers.get("idempotency-key")
    if key is not None and not (1 <= len(key) <= KEY_MAX and key.isascii() and key.isprintable()):
        raise errors.Invalid(f"An Idempotency-Key has 1 to {KEY_MAX} printable ASCII characters; take a random UUID.")
    return key


async def body_of(request: Request) -> bytes:
    """The body as it came: what is compressed stays so, it is unpacked where it is read.

    Raises Problem for an empty one, Unsupported for an encoding that is not taken, or that it does not have.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ENCODINGS and encoding != "identity":
        unsupported = errors.Unsupported(
            f"Content-Encoding {encoding[:60]!r} is not taken. Send gzip, zstd, deflate, or nothing of it."
        )
        unsupported.headers["Accept-Encoding"] = "gzip, zstd, deflate"
        raise unsupported
    try:
        body = await request.body()
    except ClientDisconnect:
        raise errors.Problem("The body ended before its end.") from None
    if not body:
        raise errors.Problem("The body is empty: send the payload that a device would publish.")
    if encoding != "identity" and not body.startswith(ENCODINGS[encoding]):
        raise errors.Unsupported(f"Content-Encoding says {encoding}, but the body does not begin as {encoding} does.")
    return body
