"""Serve the dashboard's files: a handful, read once, the same for everybody; every datum in it comes by the interface, with the reader's key."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serve.http import Headers, Scope, Send, header, path_of, respond_bytes

FOLDER = Path(__file__).with_name("dashboard")
_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml",
    ".txt": b"text/plain; charset=utf-8",
}
_POLICY = (
    b"default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; "
    # A browser that knows it refuses to make markup out of any text.
    b"require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS: Headers = [
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
]


@dataclass(frozen=True)
class _Page:
    body: bytes
    headers: Headers
    etag: bytes


class Pages:
    """Answer with files by exact path; there is no other way to name one.

    Args:
        folder: Where they are; its ``index.html`` is ``/``, the others are below ``/dashboard/``.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self._pages = dict(_read(folder))

    def __contains__(self, path: str) -> bool:
        return path in self._pages

    @property
    def paths(self) -> list[str]:
        """Return the paths that are answered."""
        return sorted(self._pages)

    async def answer(self, scope: Scope, send: Send) -> None:
        """Answer a request for a path that is one of these."""
        path = path_of(scope)
        if not path:  # Relative addresses in the page need the slash after the mount point.
            place = f"{scope['root_path'].rsplit('/', 1)[-1]}/".encode()
            await respond_bytes(send, 307, b"", [(b"location", place), *_HEADERS])
            return
        page = self._pages[path]
        if page.etag in (header(scope, b"if-none-match") or b""):
            await send({"type": "http.response.start", "status": 304, "headers": page.headers})
            await send({"type": "http.response.body", "body": b""})
            return
        await respond_bytes(send, 200, page.body, page.headers)


def _read(folder: Path) -> Iterator[tuple[str, _Page]]:
    for file in sorted(folder.rglob("*")):
        kind = _TYPES.get(file.suffix)
        if kind is None:
            continue
        body = file.read_bytes()
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'.encode()
        page = _Page(body, [(b"content-type", kind), (b"etag", etag), *_HEADERS], etag)
        name = file.relative_to(folder).as_posix()
        if name == "index.html":
            yield "/", page
            yield "", page
        else:
            yield f"/dashboard/{name}", page
