"""Decompression: what is recognised, and that nothing a device sends makes it large or slow."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from outrider.contract.limits import DECOMPRESSED_MAX_BYTES
from outrider.contract.reasons import Reason, Refused
from outrider_ingest.formats.compression import PUBLISHED, load_dictionaries, unpack

Compress = Callable[[bytes], bytes]
BODY = b'{"boot":1,"seq":2,"ts":1760000000000,"speed_kmh":51.2}'


def zstd_stream(data: bytes, **parameters: int) -> bytes:
    """A frame that does not tell its content's size."""
    settings = zstandard.ZstdCompressionParameters.from_level(3, write_content_size=0, **parameters)
    stream = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize(
    "payload",
    [
        BODY,
        gzip.compress(BODY),
        zstandard.compress(BODY),
        zstd_stream(BODY),
        *(zlib.compress(BODY, level) for level in (0, 1, 6, 9)),
    ],
    ids=["plain", "gzip", "zstd", "zstd stream", "zlib 0", "zlib 1", "zlib 6", "zlib 9"],  # gzip's bytes hold the time
)
def test_unpack_gives_the_body(payload: bytes) -> None:
    assert unpack(payload) == BODY


@pytest.mark.parametrize("size", [DECOMPRESSED_MAX_BYTES - 1, DECOMPRESSED_MAX_BYTES])
@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress, zstandard.compress, zstd_stream])
def test_unpack_takes_the_largest_body(compress: Compress, size: int) -> None:
    assert len(unpack(compress(b" " * size))) == size


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress, zstandard.compress, zstd_stream])
def test_unpack_refuses_one_byte_more(compress: Compress) -> None:
    with pytest.raises(Refused) as caught:
        unpack(compress(b" " * (DECOMPRESSED_MAX_BYTES + 1)))
    assert caught.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress, zstandard.compress, zstd_stream])
def test_unpack_of_a_bomb_stays_small(compress: Compress) -> None:
    bomb = compress(b"\0" * (64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(Refused):
            unpack(bomb)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 << 20


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress, zstandard.compress, zstd_stream])
def test_unpack_refuses_every_cut(compress: Compress) -> None:
    packed = compress(BODY)
    for end in range(4, len(packed)):
        with pytest.raises(Refused) as caught:
            unpack(packed[:end])
        assert caught.value.reason is Reason.DECOMPRESS_FAILED
    for rest in (b"x", packed, b"\0" * 200):
        with pytest.raises(Refused) as caught:
            unpack(packed + rest)
        assert caught.value.reason is Reason.DECOMPRESS_FAILED


def test_unpack_refuses_a_large_window_before_reserving_it() -> None:
    assert unpack(zstd_stream(BODY, window_log=23)) == BODY
    with pytest.raises(Refused) as caught:
        unpack(zstd_stream(BODY, window_log=24))
    assert caught.value.reason is Reason.DECOMPRESS_FAILED


def test_dictionary_is_found_by_the_id_in_the_frame(tmp_path: Path) -> None:
    samples: list[bytes | bytearray | memoryview[int]] = [
        b'{"speed_kmh":%d,"rpm":%d,"gear":"D"}' % (i % 130, i * 7) for i in range(3000)
    ]
    dictionary = zstandard.train_dictionary(2048, samples, dict_id=77)
    (tmp_path / "v1.zdict").write_bytes(dictionary.as_bytes())
    (tmp_path / "README.md").write_text("not a dictionary")
    packed = zstandard.ZstdCompressor(dict_data=dictionary).compress(BODY)
    assert unpack(packed, load_dictionaries(tmp_path)) == BODY
    assert unpack(zstandard.compress(BODY), load_dictionaries(tmp_path)) == BODY
    with pytest.raises(Refused) as caught:
        unpack(packed, PUBLISHED)
    assert (caught.value.reason, caught.value.detail) == (Reason.DECOMPRESS_FAILED, "unknown zstd dictionary 77")


def test_dictionary_without_an_id_is_an_error_at_start(tmp_path: Path) -> None:
    (tmp_path / "raw.zdict").write_bytes(b"just some text")
    with pytest.raises(ValueError, match=r"raw\.zdict"):
        load_dictionaries(tmp_path)


@pytest.mark.parametrize("extra", range(80))
def test_zstd_end_is_found_wherever_it_falls(extra: int) -> None:
    # Input goes in step by step: the frame may end on a step's edge, and what follows must be seen all the same.
    body = bytes(range(1, 101)) + bytes(range(1, extra + 1))
    packed = zstandard.compress(body)
    assert unpack(packed) == body
    with pytest.raises(Refused) as caught:
        unpack(packed + b"x")
    assert caught.value.reason is Reason.DECOMPRESS_FAILED
