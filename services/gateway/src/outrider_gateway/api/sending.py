"""How answers to questions go out: with an ETag, again only when they changed, in pieces when they are long."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
from fastapi import Request
from starlette.responses import Response, StreamingResponse

from outrider_gateway.query.asked import FIRST_MS, LAST_MS, Asking

VARY = "Accept, Accept-Encoding, Authorization, Outrider-Tenant"
NEXT_HEADER = "outrider-next"


def whole(
    request: Request, body: bytes, media_type: str, headers: dict[str, str] | None = None, age_s: int | None = None
) -> Response:
    """The answer with its ETag; 304 without a body when the asker has it already."""
    tag = 'W/"' + hashlib.sha256(body).hexdigest()[:24] + '"'
    told = {"etag": tag, "vary": VARY, "cache-control": "private, no-cache"} | (headers or {})
    if age_s is not None:
        told["age"] = str(age_s)
    known = request.headers.get("if-none-match", "")
    if known.strip() == "*" or tag.removeprefix("W/") in {one.strip().removeprefix("W/") for one in known.split(",")}:
        return Response(status_code=304, headers=told)
    return Response(body, headers=told, media_type=media_type)


def streamed(pieces: AsyncIterator[bytes], media_type: str, headers: dict[str, str] | None = None) -> Response:
    """The answer in pieces, as they are read; a failure in the middle ends the connection, so that it is noticed."""
    return StreamingResponse(pieces, headers={"vary": VARY, **(headers or {})}, media_type=media_type)


def may_be_cached(request: Request) -> bool:
    """False where the asker wants an answer made now (`Cache-Control: no-cache`)."""
    return "no-cache" not in request.headers.get("cache-control", "").lower()


def encode_cursor(question: tuple[Any, ...], where: list[Any]) -> str:
    """An opaque cursor: where the next page of this question begins."""
    text = orjson.dumps([_mark(question), *where])
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def decode_cursor(cursor: str, question: tuple[Any, ...], kinds: tuple[type, ...]) -> list[Any]:
    """Where the page begins; numbers are times or lengths of time. Raises Asking for what is no cursor of this question.

    Whoever makes one up gets a page of what they may see, or Asking.
    """
    try:
        mark, *where = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, TypeError, binascii.Error):
        mark, where = None, []
    if (
        len(where) != len(kinds)
        or any(type(one) is not kind for one, kind in zip(where, kinds, strict=True))
        or any(not FIRST_MS <= one <= LAST_MS for one in where if type(one) is int)
    ):
        raise not_made_here()
    if mark != _mark(question):
        raise Asking("This cursor belongs to another question: ask for the page after with the same parameters.")
    return list(where)


def not_made_here() -> Asking:
    """What is said of a cursor that was made up."""
    return Asking("This cursor was not made here: use `next` of the page before as it is.")


def _mark(question: tuple[Any, ...]) -> str:
    return hashlib.sha256(orjson.dumps(question)).hexdigest()[:12]
