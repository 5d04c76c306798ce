"""Route requests of the HTTP interface to a replica, and name every refusal: ``{"error": {field, got, allowed, message}}``."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Protocol

from serve.http import (
    BodyTooLargeError,
    ClientGoneError,
    Headers,
    Message,
    Receive,
    Scope,
    Send,
    header,
    last_segment,
    path_of,
    read_body,
    respond,
)
from streamrec.errors import BrokerError, DataError, RequestError
from streamrec.serving.checks import RequestLimits, error_body, parse_json
from streamrec.serving.requests import RecommendRequest, parse_recommend, parse_recommend_query
from streamrec.serving.slot import LiveModel

_USER_PREFIX = "/v1/recommend/"
_MAX_REQUEST_ID_BYTES = 128
# Longer than a healthy broker ever needs, shorter than most clients wait.
APPEND_TIMEOUT_S = 10.0

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


class Backend(Protocol):
    """What the routes need from a replica."""

    replica_id: str

    async def start(self) -> None:
        """Begin to follow the board and the log; returns when the first answers can be as good as they will be."""
        ...

    async def stop(self) -> None:
        """Stop the background work."""
        ...

    @property
    def model(self) -> LiveModel | None:
        """Return the live version."""
        ...

    def recommend(self, request: RecommendRequest, model: LiveModel, request_id: str) -> dict[str, Any]:
        """Return the answer's JSON object."""
        ...

    def submit_events(self, events: list[Any]) -> Future[list[dict[str, Any]]]:
        """Hand over events to append."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what ``GET /v1/models`` shows."""
        ...


class Routes:
    """The ASGI application of one replica.

    Args:
        backend: The replica.
        limits: Bounds of a recommendation request.
        max_body_bytes: Longest body that is read.
        log_name: Address of the log, for errors.
    """

    def __init__(self, backend: Backend, limits: RequestLimits, max_body_bytes: int, log_name: str = "the log") -> None:
        self._backend = backend
        self._limits = limits
        self._max_body_bytes = max_body_bytes
        self._log_name = log_name
        self._numbers = itertools.count(1)
        # Random once per replica, then counted: as unique as a random id for each request, at a tenth of its cost.
        self._id_prefix = secrets.token_hex(8)
        self._headers: Headers = [(b"x-streamrec-replica", backend.replica_id.encode())]
        self._routes: dict[str, tuple[str, Handler]] = {
            "/v1/recommend": ("POST", self._post_recommend),
            "/v1/events": ("POST", self._post_events),
            "/v1/models": ("GET", self._get_models),
            "/healthz": ("GET", self._healthz),
            "/readyz": ("GET", self._readyz),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or follow the server's start and stop."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
            return
        path = path_of(scope)
        method, handler = self._routes.get(path) or self._route_of(path)
        if scope["method"] == "HEAD" and method == "GET":
            scope, send = {**scope, "method": "GET"}, _headers_only(send)
        try:
            if handler is None:
                await self._refuse(send, 404, "path", path[:200], f"{', '.join(self._routes)}, {_USER_PREFIX}USER", "Request: unknown path")
            elif scope["method"] != method:
                allow: Headers = [(b"allow", method.encode())]
                await self._refuse(send, 405, "method", scope["method"], method, f"Request: {path[:200]} takes another method", allow)
            else:
                await handler(scope, receive, send)
        except RequestError as error:
            await respond(send, 400, error_body(error), self._headers)
        except BodyTooLargeError:
            await self._refuse(send, 413, "body", "more", f"at most {self._max_body_bytes} bytes", "Request: the body is too large")
        except ClientGoneError:
            return

    def _route_of(self, path: str) -> tuple[str, Handler | None]:
        is_user = path.startswith(_USER_PREFIX) and len(path) > len(_USER_PREFIX)
        return ("GET", self._get_recommend) if is_user else ("", None)

    async def _post_recommend(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(scope, receive, self._max_body_bytes)
        await self._recommend(scope, send, parse_recommend(body, self._limits))

    async def _get_recommend(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = parse_recommend_query(last_segment(scope), scope.get("query_string", b""), self._limits)
        await self._recommend(scope, send, request)

    async def _recommend(self, scope: Scope, send: Send, request: RecommendRequest) -> None:
        # Read once: the whole answer comes from this version, whatever is swapped meanwhile.
        model = self._backend.model
        if model is None:
            await self._unavailable(send)
            return
        answer = self._backend.recommend(request, model, self._request_id(scope))
        await respond(send, 200, answer, [*self._headers, (b"x-streamrec-model", model.version.encode())])

    async def _post_events(self, scope: Scope, receive: Receive, send: Send) -> None:
        parsed = parse_json(await read_body(scope, receive, self._max_body_bytes))
        events = parsed if isinstance(parsed, list) else [parsed]
        try:
            results = await asyncio.wait_for(asyncio.wrap_future(self._backend.submit_events(events)), APPEND_TIMEOUT_S)
        except BrokerError as error:
            await self._refuse(send, 503, "broker", "no acknowledgement", "an acknowledgement", str(error), [(b"retry-after", b"1")])
            return
        except DataError as error:
            await self._refuse(send, 400, "events", "a record that the log does not take", "smaller records", str(error))
            return
        except TimeoutError:
            what = f"Events: {self._log_name} did not acknowledge within {APPEND_TIMEOUT_S:g} s, send again with the same event_id"
            await self._refuse(send, 503, "broker", "no acknowledgement", "an acknowledgement", what, [(b"retry-after", b"1")])
            return
        num_accepted = sum(result["status"] == "accepted" for result in results)
        status = 200 if num_accepted or not results else 400
        await respond(send, status, {"results": results, "accepted": num_accepted, "rejected": len(results) - num_accepted}, self._headers)

    async def _get_models(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 200, self._backend.facts(), self._headers)

    async def _healthz(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 200, {"status": "ok", "replica": self._backend.replica_id}, self._headers)

    async def _readyz(self, scope: Scope, receive: Receive, send: Send) -> None:
        model = self._backend.model
        if model is None:
            await self._unavailable(send)
        else:
            await respond(send, 200, {"status": "ready", "model_version": model.version, "replica": self._backend.replica_id}, self._headers)

    async def _unavailable(self, send: Send) -> None:
        what = "Serving: no model is live yet, promote a version"
        await self._refuse(send, 503, "model", "none", "a promoted version", what, [(b"retry-after", b"1")])

    async def _refuse(self, send: Send, status: int, field: str, got: str, allowed: str, message: str, extra: Headers | None = None) -> None:
        error = {"error": {"field": field, "got": got, "allowed": allowed, "message": message}}
        await respond(send, status, error, [*self._headers, *(extra or [])])

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._backend.start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self._backend.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _request_id(self, scope: Scope) -> str:
        given = header(scope, b"x-request-id")
        if given:
            return given[:_MAX_REQUEST_ID_BYTES].decode("utf-8", "replace")
        return f"{self._id_prefix}-{next(self._numbers)}"


def _headers_only(send: Send) -> Send:
    """Return a ``send`` that leaves bodies out, as an answer to HEAD must; its headers are those of the GET."""

    async def without_body(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return without_body
