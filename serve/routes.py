"""Route requests of the HTTP interface to a replica, and name every refusal: ``{"error": {field, got, allowed, message}}``."""

from __future__ import annotations

import contextlib
import itertools
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from serve.access import Action, caller_of
from serve.appending import append
from serve.backend import Backend
from serve.cold import ColdRoutes
from serve.failures import failed
from serve.guards import Guards
from serve.http import (
    IS_HEAD,
    BodyTooLargeError,
    ClientGoneError,
    Headers,
    Message,
    Receive,
    Refusal,
    Scope,
    Send,
    header,
    last_segment,
    no_model,
    path_of,
    read_body,
    refuse_query,
    respond,
    respond_bytes,
    wrong_method,
)
from serve.live import Live
from serve.metrics import Requests, Watched
from serve.pages import Pages
from streamrec.clock import SystemClock
from streamrec.errors import RequestError
from streamrec.serving.checks import RequestLimits, check_deadline, error_body, parse_json, refuse
from streamrec.serving.event_sink import FORBIDDEN
from streamrec.serving.requests import RecommendRequest, parse_recommend, parse_recommend_query
from streamrec.telemetry.exposition import CONTENT_TYPE, expose

_USER_PREFIX = "/v1/recommend/"
# What can be seen, so that it stands in a line, a header and a URL as it is.
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
_NAMED = "streamrec.request_id"
_NDJSON = frozenset({b"application/x-ndjson", b"application/ndjson", b"application/jsonl"})

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]
Route = tuple[str, Handler | None, Action]


class Routes:
    """The ASGI application of one replica: the hot routes by hand, all others by `serve.cold.ColdRoutes`.

    Args:
        backend: The replica.
        limits: Bounds of a recommendation request.
        max_body_bytes: Longest body that is read.
        log_name: Address of the log, for errors.
        guards: What stands before the routes; None lets everybody read and write, and nobody move models or delete users.
    """

    def __init__(self, backend: Backend, limits: RequestLimits, max_body_bytes: int, log_name: str = "the log", guards: Guards | None = None) -> None:
        self._backend = backend
        self._limits = limits
        self._max_body_bytes = max_body_bytes
        self._log_name = log_name
        self._numbers = itertools.count(1)
        # Random once per replica, then counted: as unique as a random id for each request, at a tenth of its cost.
        self._id_prefix = secrets.token_hex(8)
        self._headers: Headers = [(b"x-streamrec-replica", backend.replica_id.encode())]
        self._guards = guards or Guards()
        self._access, self._deadlines = self._guards.access, self._guards.deadlines
        self._cold = ColdRoutes(backend, limits, max_body_bytes, self._guards, log_name, self._request_id)
        self._live = Live(backend, self._access, self._headers)
        self._pages = Pages()
        self._requests = Requests(backend.numbers, SystemClock())
        self._routes: dict[str, Route] = {
            "/v1/recommend": ("POST", self._post_recommend, Action.ASK),
            "/v1/events": ("POST", self._post_events, Action.WRITE),
            "/v1/models": ("GET", self._get_models, Action.READ),
            "/healthz": ("GET", self._healthz, Action.PROBE),
            "/readyz": ("GET", self._readyz, Action.PROBE),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or follow the server's start and stop."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
            return
        if self._guards.cors.is_on:
            if self._guards.cors.is_preflight(scope):
                await self._guards.cors.answer_preflight(scope, send)
                return
            send = self._guards.cors.marked(scope, send)
        path, began_s, watched = path_of(scope), self._requests.now_s(), Watched(send)
        try:
            await self._answer(path, scope, receive, watched)
        finally:
            self._requests.answered(path, watched.status, began_s)

    async def _answer(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        method, handler, action = self._routes.get(path) or self._route_of(path)
        if scope["method"] == "HEAD" and method in {"GET", ""}:
            scope, send = {**scope, "method": "GET", IS_HEAD: True}, _headers_only(send)
        try:
            if handler is None:
                await self._cold(scope, receive, send)
                return
            self._access.check(scope, action)
            if scope["method"] != method:
                raise wrong_method(path, scope["method"], method)
            await handler(scope, receive, send)
        except RequestError as error:
            await respond(send, 400, error_body(error), self._headers)
        except Refusal as refusal:
            await respond(send, refusal.status, refusal.body, [*self._headers, *refusal.headers])
        except BodyTooLargeError:
            bound, what = f"at most {self._max_body_bytes} bytes", "Request: the body is too large"
            await respond(send, 413, Refusal(413, "body", "more", bound, what).body, self._headers)
        except ClientGoneError:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is not told
            body = failed(error, path, self._request_id(scope))
            with contextlib.suppress(RuntimeError):  # The server refuses a second answer, if it broke after the first one.
                await respond(send, 500, body, self._headers)

    def _route_of(self, path: str) -> Route:
        if path.startswith(_USER_PREFIX) and len(path) > len(_USER_PREFIX):
            return "GET", self._get_recommend, Action.ASK
        # No part of the interface that clients are made from: text for Prometheus, and what the dashboard shows.
        if path == "/metrics":
            return "GET", self._get_metrics, Action.READ
        if path == "/v1/live":
            return "GET", self._live.answer, Action.READ
        if path in self._pages:  # They hold no data, so they ask for no key.
            return "GET", self._get_page, Action.PROBE
        return "", None, Action.READ

    async def _post_recommend(self, scope: Scope, receive: Receive, send: Send) -> None:
        refuse_query(scope)
        taken_s = self._deadlines.now_s()
        body = await read_body(scope, receive, self._max_body_bytes)
        came_s = self._guards.backlog.come()
        await self._recommend(scope, send, parse_recommend(body, self._limits), taken_s, came_s)

    async def _get_recommend(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken_s, came_s = self._deadlines.now_s(), self._guards.backlog.come()
        request = parse_recommend_query(last_segment(scope), scope.get("query_string", b""), self._limits)
        await self._recommend(scope, send, request, taken_s, came_s)

    async def _recommend(self, scope: Scope, send: Send, request: RecommendRequest, taken_s: float, came_s: float) -> None:
        caller_of(scope).enter(request.namespace)
        by_header_ms = _deadline_of(scope)
        deadline_ms = request.deadline_ms or by_header_ms
        if self._backend.histories is not None and request.user_id is not None:
            left_s = None if deadline_ms is None else max(0.0, taken_s + deadline_ms / 1000 - self._deadlines.now_s())
            request = replace(request, known=await self._backend.histories.known(request.namespace, request.user_id, left_s))
        # Only now: Redis is asked while others are answered.
        await self._guards.backlog.turn(came_s)
        # Read once: the whole answer comes from this version, whatever is swapped meanwhile.
        model = self._backend.model
        if model is None:
            raise no_model()
        if deadline_ms is not None and self._deadlines.is_late(deadline_ms, taken_s):
            answer = self._backend.recommend(replace(request, is_late=True), model, self._request_id(scope))
        else:
            began_s = self._deadlines.now_s()
            answer = self._backend.recommend(request, model, self._request_id(scope))
            self._deadlines.took(began_s)
        await respond(send, 200, answer, [*self._headers, (b"x-streamrec-model", model.version.encode())])
        if self._backend.shown is not None:
            self._backend.shown(request, answer)

    async def _post_events(self, scope: Scope, receive: Receive, send: Send) -> None:
        refuse_query(scope)
        with self._guards.gate.entered():
            results = await self._append(scope, receive)
        num_accepted = sum(result["status"] == "accepted" for result in results)
        none = 403 if any(result.get("reason") == FORBIDDEN for result in results) else 400
        status = 200 if num_accepted or not results else none
        await respond(send, status, {"results": results, "accepted": num_accepted, "rejected": len(results) - num_accepted}, self._headers)

    async def _append(self, scope: Scope, receive: Receive) -> list[dict[str, Any]]:
        body = await read_body(scope, receive, self._max_body_bytes)
        if (header(scope, b"content-type") or b"").split(b";", 1)[0].strip().lower() in _NDJSON:
            # Parsed one by one behind the queue: a line that is no JSON is rejected, not the request.
            events: list[Any] = [line for line in body.splitlines() if line.strip()]
        else:
            parsed = parse_json(body)
            events = parsed if isinstance(parsed, list) else [parsed]
        return await append(self._backend, events, self._log_name, caller_of(scope), self._request_id(scope))

    async def _get_models(self, scope: Scope, receive: Receive, send: Send) -> None:
        facts, caller = self._backend.facts(), caller_of(scope)
        for name in ("live", "previous"):
            if facts.get(name):
                seen, index = caller.visible(facts[name]["namespaces"]), facts[name]["index"]
                facts[name] = {**facts[name], "namespaces": seen, "index": {namespace: index[namespace] for namespace in seen}}
        if caller.namespaces is not None:  # Those of others are in there, too.
            facts.pop("worth", None)
        limits = {"late": self._deadlines.num_late, "waiting": self._guards.gate.num_inside, "shed": self._guards.num_shed}
        await respond(send, 200, {**facts, "limits": limits}, self._headers)

    async def _get_metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller_of(scope).enter_all()
        body = expose(await self._backend.all_numbers())
        await respond_bytes(send, 200, body, [(b"content-type", CONTENT_TYPE.encode()), *self._headers])

    async def _get_page(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._pages.answer(scope, send)

    async def _healthz(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 200, {"status": "ok", "replica": self._backend.replica_id}, self._headers)

    async def _readyz(self, scope: Scope, receive: Receive, send: Send) -> None:
        model = self._backend.model
        if model is None:
            raise no_model()
        await respond(send, 200, {"status": "ready", "model_version": model.version, "replica": self._backend.replica_id}, self._headers)

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
        """Return the id that the request brought, if it is one that can be shown anywhere, else its own."""
        given = header(scope, b"x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given.decode("ascii")
        made: str | None = scope.get(_NAMED)
        if made is None:
            made = scope[_NAMED] = f"{self._id_prefix}-{next(self._numbers)}"
        return made


def _deadline_of(scope: Scope) -> float | None:
    given = header(scope, b"x-streamrec-deadline-ms")
    if given is None:
        return None
    try:
        return check_deadline(float(given))
    except ValueError:
        refuse("x-streamrec-deadline-ms", given.decode("ascii", "replace"), "a number of milliseconds")


def _headers_only(send: Send) -> Send:
    """Return a ``send`` that leaves bodies out, as an answer to HEAD must; its headers are those of the GET."""

    async def without_body(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return without_body
