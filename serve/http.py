"""Read and write HTTP over raw ASGI: no framework stands on the hot path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson

from streamrec.serving.checks import MAX_SHOWN_CHARS, refuse
from streamrec.serving.replies import CODES

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

IS_HEAD = "streamrec.head"
"""Key of a scope whose method was HEAD before it was answered as GET."""

_JSON = (b"content-type", b"application/json")
_PLAIN = frozenset({b"", b"identity"})
_MAX_DIGITS = 18


class ClientGoneError(Exception):
    """The client closed the connection before its request was read."""


class BodyTooLargeError(Exception):
    """The request's body is longer than allowed."""


class Refusal(Exception):
    """A request is not answered.

    Args:
        status: HTTP status.
        field: What must change: a field, or a part of the request.
        got: What it was.
        allowed: What would be accepted.
        message: All of it in a sentence.
        headers: Further headers of the answer.
    """

    def __init__(self, status: int, field: str, got: str, allowed: str, message: str, headers: Headers | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or []
        self.body = {"error": {"code": CODES[status], "field": field, "got": got, "allowed": allowed, "message": message}}


def no_model() -> Refusal:
    """Return what is answered while no version is live."""
    what = "Serving: no model is live yet, promote a version"
    return Refusal(503, "model", "none", "a promoted version", what, [(b"retry-after", b"1")])


def wrong_method(path: str, got: str, *allowed: str) -> Refusal:
    """Return what is answered to a method that a path does not take."""
    names = ", ".join([*allowed, *(["HEAD"] if "GET" in allowed else [])])
    return Refusal(405, "method", got[:MAX_SHOWN_CHARS], names, f"Request: {path[:200]} takes another method", [(b"allow", names.encode())])


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return a header's value; ``name`` in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None


def path_of(scope: Scope) -> str:
    """Return the path below the application's mount point."""
    path: str = scope["path"]
    return path[len(scope.get("root_path", "")) :]


def refuse_query(scope: Scope) -> None:
    """Return unless a request whose body says all has a query: somebody believes that it counts.

    Raises:
        RequestError: It has one.
    """
    query: bytes = scope.get("query_string", b"")
    if query:
        what = "Request: a POST is read from its body alone"
        refuse("query", query[:MAX_SHOWN_CHARS].decode("ascii", "replace"), "none; put it in the body", what)


def last_segment(scope: Scope) -> str:
    """Return the path's last segment, decoded after the split, so that an encoded slash stays part of it.

    Raises:
        RequestError: It is not UTF-8.
    """
    raw = scope.get("raw_path") or scope["path"].encode()
    segment: bytes = raw.split(b"?", 1)[0].rsplit(b"/", 1)[1]
    try:
        return unquote_to_bytes(segment).decode("utf-8")
    except UnicodeDecodeError:
        refuse("user_id", segment.decode("ascii", "replace"), "percent-encoded UTF-8")


def last_of_three(scope: Scope) -> str:
    """Return the last segment of a path of three; see `last_segment`.

    Raises:
        Refusal: The path has more segments: a slash in an id must be encoded.
    """
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    path = raw.split(b"?", 1)[0][len(scope.get("root_path", "")) :]
    if path.count(b"/") != 3:
        got = path[:200].decode("ascii", "replace")
        raise Refusal(404, "path", got, "an id in one segment, with its slashes as %2F", "Request: unknown path")
    return last_segment(scope)


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """Return the request's body.

    Raises:
        BodyTooLargeError: It is longer than ``max_bytes``.
        ClientGoneError: The client left.
        Refusal: It is compressed.
    """
    declared = encoded = b""
    for name, value in scope["headers"]:
        if name == b"content-length":
            declared = value
        elif name == b"content-encoding":
            encoded = value
    if encoded.strip().lower() not in _PLAIN:
        got = encoded[:MAX_SHOWN_CHARS].decode("ascii", "replace")
        raise Refusal(415, "content-encoding", got, "identity", "Request: a compressed body is not read, send it as it is")
    if declared.isdigit() and (len(declared) > _MAX_DIGITS or int(declared) > max_bytes):
        raise BodyTooLargeError
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    if not message.get("more_body", False):
        return _bounded(body, max_bytes)
    parts = [body]
    num_bytes = len(body)
    while message.get("more_body", False):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        parts.append(message.get("body", b""))
        num_bytes += len(parts[-1])
        if num_bytes > max_bytes:
            raise BodyTooLargeError
    return b"".join(parts)


async def respond(send: Send, status: int, value: Any, headers: Headers) -> None:
    """Send a JSON response."""
    await respond_bytes(send, status, orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS), [_JSON, *headers])


async def respond_bytes(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """Send a response whose headers name its content type."""
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


def _bounded(body: bytes, max_bytes: int) -> bytes:
    if len(body) > max_bytes:
        raise BodyTooLargeError
    return body
