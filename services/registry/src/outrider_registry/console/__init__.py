"""Serves the console: static files out of memory, and its one page for every path that is not the API's.

The files need no build step. `index.html` names them under `/static/VERSION/…`, where VERSION is a digest of them all: a browser
keeps them for a year and still gets new ones at once. Without the version they are served too, to be asked for again each time.
"""

from __future__ import annotations

import gzip
import hashlib
import html
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response

from outrider_registry.errors import NotFound

FOLDER = Path(__file__).parent
FOREVER = "public, max-age=31536000, immutable"
ASK_AGAIN = "no-cache"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".md": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
}
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:{tiles}; object-src 'none'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'self'"
)
_WORTH_COMPRESSING_BYTES = 500


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it is sent."""

    content: bytes
    compressed: bytes | None
    """With gzip, where that is smaller."""
    type: str
    etag: str


def asset(content: bytes, suffix: str) -> Asset:
    """A file's content, ready to be sent."""
    compressed = gzip.compress(content, 6, mtime=0) if len(content) > _WORTH_COMPRESSING_BYTES else None
    return Asset(content, compressed, TYPES[suffix], f'"{hashlib.sha256(content).hexdigest()[:20]}"')


class Assets:
    """All files of the console, read again when one of them has changed: edit, then reload the page."""

    def __init__(self, folder: Path = FOLDER, map_tiles: str = "", map_attribution: str = "") -> None:
        self._folder = folder
        self._places = {"{MAP_TILES}": map_tiles, "{MAP_ATTRIBUTION}": map_attribution}
        self._read_at: tuple[int, int] = (0, 0)
        self.version = ""
        self.files: dict[str, Asset] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read all files, if their number or the time of the newest has changed."""
        paths = [path for path in (self._folder / "static").rglob("*") if path.suffix in TYPES]
        index = self._folder / "index.html"
        now = (len(paths), max(path.stat().st_mtime_ns for path in [*paths, index]))
        if now == self._read_at:
            return
        known = {one.etag: one for one in self.files.values()}
        files = {}
        for path in paths:
            content = path.read_bytes()
            same = known.get(f'"{hashlib.sha256(content).hexdigest()[:20]}"')
            files[path.relative_to(self._folder / "static").as_posix()] = same or asset(content, path.suffix)
        digest = hashlib.sha256("".join(f"{name} {files[name].etag}\n" for name in sorted(files)).encode())
        self.files, self.version, self._read_at = files, digest.hexdigest()[:12], now
        text = index.read_text()
        for place, value in {"{VERSION}": self.version, **self._places}.items():
            text = text.replace(place, html.escape(value))
        self.index = asset(text.encode(), ".html")


def answer(request: Request, found: Asset, cache: str) -> Response:
    """The file, compressed if the browser takes that; 304 if it has it already."""
    headers = {"Cache-Control": cache, "ETag": found.etag, "Vary": "Accept-Encoding"}
    if found.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    content = found.content
    if found.compressed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        content = found.compressed
        headers["Content-Encoding"] = "gzip"
    return Response(content, media_type=found.type, headers=headers)


def policy(map_tiles: str = "") -> str:
    """The content-security policy of the page: nothing but our own, and images from where map tiles are."""
    parts = urlsplit(map_tiles.replace("{s}", "*"))
    return CONTENT_SECURITY_POLICY.format(tiles=f" {parts.scheme}://{parts.netloc}" if map_tiles else "")


def mount(app: FastAPI, map_tiles: str = "", map_attribution: str = "") -> None:
    """Serve the console from this application. Call it last: it takes every GET that no other route has taken.

    `map_tiles` is an address with {z}, {x} and {y} (and {s}) of a server of map tiles, or empty.
    """
    assets = Assets(FOLDER, map_tiles, map_attribution)
    guarded = {"Content-Security-Policy": policy(map_tiles)}

    @app.api_route("/static/{path:path}", methods=["GET", "HEAD"], include_in_schema=False)
    async def static(request: Request, path: str) -> Response:
        version, _, rest = path.partition("/")
        if version == assets.version and rest in assets.files:
            return answer(request, assets.files[rest], FOREVER)
        # A page that was loaded before an update goes on with today's files rather than with none.
        found = assets.files.get(path) or assets.files.get(rest)
        if found is None:
            raise NotFound("The console has no such file. Reload the page.")
        return answer(request, found, ASK_AGAIN)

    @app.api_route("/{path:path}", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request, path: str) -> Response:
        if path == "api" or path.startswith("api/"):
            raise NotFound("There is nothing here. See /api/v1/openapi.json for what there is.")
        assets.refresh()
        response = answer(request, assets.index, ASK_AGAIN)
        response.headers.update(guarded)
        return response
