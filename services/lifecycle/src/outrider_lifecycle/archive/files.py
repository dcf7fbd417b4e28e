"""Where the archive lies: a folder or an S3-compatible store, through one API (pyarrow.fs). All calls block."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from outrider.runtime.errors import OutriderError, Transient

README = """\
An archive of Outrider. Every file is Parquet, encrypted with age (https://age-encryption.org), unless its name says otherwise.

    age --decrypt -i KEYFILE v1/tenant=acme/day=2026-01-31/FILE.parquet.age > day.parquet

Beside each lies a .json file with the number of rows, the SHA-256 of the encrypted file and the public keys it is
encrypted to. Samples: device, metric, kind, ts (UTC), value. Late samples of a day are in further files of that day.
"""


class BadArchive(OutriderError):
    """The archive's address cannot be used; the message says what it should be."""


@dataclass(frozen=True)
class S3:
    """Access to an S3-compatible store; empty: as the machine's own environment says."""

    endpoint: str = ""
    region: str = ""
    access_key: str = ""
    secret_key: str = ""


class Files:
    """Files below the archive's root. A file is there whole or not at all, and stays when the machine fails."""

    def __init__(self, url: str, s3: S3 | None = None) -> None:
        """`url`: file:///folder or s3://bucket/prefix. Raises BadArchive."""
        parts = urlsplit(url)
        self.url = url
        self._folder: Path | None = None
        if parts.scheme == "file" and parts.path.startswith("/") and not parts.netloc:
            self._folder = Path(unquote(parts.path))
            self._fs: fs.FileSystem = fs.LocalFileSystem()
            self._root = str(self._folder)
        elif parts.scheme == "s3" and parts.netloc:
            s3 = s3 or S3()
            if s3.endpoint:  # most stores but Amazon's refuse uploads whose checksums come behind the content
                os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
            endpoint = urlsplit(s3.endpoint) if "//" in s3.endpoint else urlsplit(f"//{s3.endpoint}")
            self._fs = fs.S3FileSystem(
                access_key=s3.access_key or None,
                secret_key=s3.secret_key or None,
                region=s3.region or None,
                endpoint_override=endpoint.netloc or None,
                scheme=endpoint.scheme or "https",
                allow_delayed_open=True,
                connect_timeout=10,
                request_timeout=60,
            )
            self._root = f"{parts.netloc}{parts.path}".rstrip("/")
        else:
            raise BadArchive(f"OUTRIDER_ARCHIVE_URL={url}: give file:///a/folder or s3://bucket/prefix.")

    def write(self, name: str, data: bytes) -> None:
        """Store a file, replacing it; returns when it would survive a power cut. Raises Transient."""
        try:
            if self._folder is None:  # an object is there when its upload is complete, not before
                with self._fs.open_output_stream(f"{self._root}/{name}") as stream:
                    stream.write(data)
                return
            path = self._folder / name
            self._folder.mkdir(
                mode=0o700, parents=True, exist_ok=True
            )  # a folder that is there keeps the mode it was given
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(f".{path.name}.new")
            with self._fs.open_output_stream(str(fresh)) as stream:
                stream.write(data)
            _sync(fresh)
            self._fs.move(str(fresh), str(path))
            for folder in path.relative_to(self._folder).parents:
                _sync(self._folder / folder)
        except (OSError, pa.ArrowException) as error:
            raise Transient(f"the archive {self.url} cannot be written: {_reason(error)}") from error

    def read(self, name: str) -> bytes:
        """The content of a file. Raises FileNotFoundError, or Transient while the archive is away."""
        try:
            with self._fs.open_input_stream(f"{self._root}/{name}") as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            if self._fs.get_file_info(f"{self._root}/{name}").type == fs.FileType.NotFound:
                raise FileNotFoundError(name) from error
            raise Transient(f"the archive {self.url} cannot be read: {_reason(error)}") from error

    def delete(self, name: str) -> None:
        """Remove a file, if it is there. Raises Transient."""
        try:
            self._fs.delete_file(f"{self._root}/{name}")
        except FileNotFoundError:
            pass
        except (OSError, pa.ArrowException) as error:
            try:
                if self._fs.get_file_info(f"{self._root}/{name}").type == fs.FileType.NotFound:
                    return
            except (OSError, pa.ArrowException):
                pass
            raise Transient(f"{name} cannot be removed from the archive {self.url}: {_reason(error)}") from error

    def names(self, folder: str) -> list[str]:
        """Names of all files below a folder, sorted. Raises Transient."""
        try:
            found = self._fs.get_file_info(
                fs.FileSelector(f"{self._root}/{folder}".rstrip("/"), recursive=True, allow_not_found=True)
            )
        except (OSError, pa.ArrowException) as error:
            raise Transient(f"the archive {self.url} cannot be listed: {_reason(error)}") from error
        return sorted(info.path[len(self._root) + 1 :] for info in found if info.type == fs.FileType.File)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
