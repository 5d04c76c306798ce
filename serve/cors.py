"""Let pages of configured origins ask from a browser."""

from __future__ import annotations

from collections.abc import Collection

from serve.http import Headers, Message, Scope, Send, header

_PREFLIGHT: Headers = [
    (b"access-control-allow-methods", b"GET, POST, PUT, DELETE"),
    (b"access-control-allow-headers", b"authorization, x-api-key, content-type, x-request-id, x-streamrec-deadline-ms"),
    (b"access-control-max-age", b"600"),
    (b"content-length", b"0"),
]


class Cors:
    """Answer preflights and mark answers; without origins do nothing.

    Keys travel in headers that a page has to set, never by themselves as cookies do, so credentials are not allowed.

    Args:
        origins: As browsers send them; ``*`` stands for all.
    """

    def __init__(self, origins: Collection[str] = ()) -> None:
        self.is_on = bool(origins)
        self._origins = frozenset(origin.lower().encode() for origin in origins)

    def headers_for(self, scope: Scope) -> Headers:
        """Return what the answer to a request says of its origin."""
        origin = header(scope, b"origin")
        if origin is None or not (b"*" in self._origins or origin.lower() in self._origins):
            return [(b"vary", b"origin")]
        shown = b"x-streamrec-model, x-streamrec-replica, retry-after"
        return [(b"vary", b"origin"), (b"access-control-allow-origin", origin), (b"access-control-expose-headers", shown)]

    @staticmethod
    def is_preflight(scope: Scope) -> bool:
        """Return whether a browser asks if it may ask; it sends no key with that."""
        return scope["method"] == "OPTIONS" and header(scope, b"access-control-request-method") is not None

    async def answer_preflight(self, scope: Scope, send: Send) -> None:
        """Say what a page of the request's origin may send."""
        await send({"type": "http.response.start", "status": 204, "headers": [*self.headers_for(scope), *_PREFLIGHT]})
        await send({"type": "http.response.body", "body": b""})

    def marked(self, scope: Scope, send: Send) -> Send:
        """Return a ``send`` that adds the headers to the answer."""
        headers = self.headers_for(scope)

        async def with_headers(message: Message) -> None:
            start = message["type"] == "http.response.start"
            await send({**message, "headers": [*message["headers"], *headers]} if start else message)

        return with_headers
