"""Unpacks zstd, gzip and zlib payloads, recognised by their first bytes, never beyond the limit of 1 MiB."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable

import zstandard

from outrider.contract.limits import DECOMPRESSED_MAX_BYTES
from outrider.contract.reasons import Reason, Refused

_ZSTD = b"\x28\xb5\x2f\xfd"
_GZIP = b"\x1f\x8b"
# RFC 1950 headers without preset dictionary: of a 32 KiB window, and of the 256 and 512 bytes that MicroPython's
# `deflate` uses. Windows between begin with a bracket, digit or letter and are left to the text formats.
_ZLIB = frozenset(
    bytes((method, flags))
    for method in (0x78, 0x08, 0x18)
    for flags in range(256)
    if (method << 8 | flags) % 31 == 0 and not flags & 0x20
)

WINDOW_MAX_BYTES = 8 * 1024 * 1024
"""Largest zstd window: what RFC 8878 (3.1.1.1.2) asks every decoder to support, and what our memory bears."""
_INPUT_STEP_BYTES = 64
"""Smallest zstd block is 4 bytes and gives 128 KiB: a step gives at most 2 MiB before the limit is looked at."""

Decompressors = Mapping[int, zstandard.ZstdDecompressor]
"""zstd decompressors by dictionary id; 0 is the one without a dictionary. Not for use by several threads at once."""


def load_dictionaries(folder: Traversable) -> Decompressors:
    """Decompressors for no dictionary and for each `*.zdict` of `folder`, by the id in the dictionary's own header.

    Raises ValueError for a file that is not a zstd dictionary with an id.
    """
    found = {0: zstandard.ZstdDecompressor(max_window_size=WINDOW_MAX_BYTES)}
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".zdict"):
            dictionary = zstandard.ZstdCompressionDict(file.read_bytes())
            if dictionary.dict_id() == 0:
                raise ValueError(f"{file.name} is not a zstd dictionary with an id")
            found[dictionary.dict_id()] = zstandard.ZstdDecompressor(
                dict_data=dictionary, max_window_size=WINDOW_MAX_BYTES
            )
    return found


PUBLISHED = load_dictionaries(resources.files("outrider_ingest.formats") / "dictionaries")
"""The dictionaries of the wire contract; one is added by putting its file into the folder, and never taken away."""


def unpack(payload: bytes, decompressors: Decompressors = PUBLISHED) -> bytes:
    """The payload itself, or what it decompresses to: exactly one zstd frame, gzip member or zlib stream.

    Raises Refused: too_large beyond 1 MiB of output (sizes in frame headers are not believed), decompress_failed for
    damaged or cut data, bytes after the end, a window over 8 MiB, an unknown dictionary, or content compressed again.
    """
    magic = payload[:2]
    if magic == _GZIP:
        body = _inflate(payload, zlib.MAX_WBITS | 16)
    elif magic in _ZLIB:
        body = _inflate(payload, zlib.MAX_WBITS)
    elif payload[:4] == _ZSTD:
        body = _zstd(payload, decompressors)
    else:
        return payload
    if body[:2] == _GZIP or body[:2] in _ZLIB or body[:4] == _ZSTD:
        raise Refused(Reason.DECOMPRESS_FAILED, "the content is compressed again: compress once")
    return body


def _inflate(payload: bytes, wbits: int) -> bytes:
    stream = zlib.decompressobj(wbits)
    try:
        body = stream.decompress(payload, DECOMPRESSED_MAX_BYTES + 1)
    except zlib.error as error:
        raise Refused(Reason.DECOMPRESS_FAILED, str(error)) from None
    _check(len(body), stream.eof, stream.unused_data)
    return body


def _zstd(payload: bytes, decompressors: Decompressors) -> bytes:
    try:
        dictionary = zstandard.get_frame_parameters(payload).dict_id
        if dictionary not in decompressors:
            raise Refused(Reason.DECOMPRESS_FAILED, f"unknown zstd dictionary {dictionary}")
        stream = decompressors[dictionary].decompressobj()
        parts: list[bytes] = []
        size = at = 0
        while at < len(payload) and size <= DECOMPRESSED_MAX_BYTES and not stream.eof:
            parts.append(stream.decompress(payload[at : at + _INPUT_STEP_BYTES]))
            size += len(parts[-1])
            at += _INPUT_STEP_BYTES
    except zstandard.ZstdError as error:
        raise Refused(Reason.DECOMPRESS_FAILED, str(error)) from None
    _check(size, stream.eof, stream.unused_data or payload[at:])
    return b"".join(parts)


def _check(size: int, complete: bool, rest: bytes) -> None:
    if size > DECOMPRESSED_MAX_BYTES:
        raise Refused(Reason.TOO_LARGE, f"more than {DECOMPRESSED_MAX_BYTES} bytes decompressed")
    if not complete:
        raise Refused(Reason.DECOMPRESS_FAILED, "the compressed data is cut off")
    if rest:
        raise Refused(Reason.DECOMPRESS_FAILED, "bytes after the end of the compressed data")
