"""Answer all but the hot routes with FastAPI, and document all of them: ``GET /openapi.json``.

Bodies are read before FastAPI sees the request, bounded, and are JSON whatever their content type says: `curl -d` sends another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, cast

import orjson
from fastapi import Depends, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path

from serve.access import Action as MayDo
from serve.access import audit, caller_of
from serve.appending import append
from serve.backend import Backend
from serve.document import DocumentedApp, HotRoutes
from serve.failures import failed
from serve.guards import Guards
from serve.histories import without_address
from serve.http import Headers, Message, Receive, Refusal, Scope, Send, last_of_three, no_model, path_of, read_body, refuse_query, wrong_method
from serve.limits import again_after
from serve.operations import OPERATIONS, UNLISTED, Operation
from streamrec.clock import Clock, SystemClock
from streamrec.errors import BrokerError, ConfigError, OperatorError, RequestError, StorageError
from streamrec.events.schema import Kind
from streamrec.pipeline.switches import Action
from streamrec.serving.bodies import (
    HistoryQuery,
    ItemBody,
    LettersQuery,
    PlacesBody,
    PopularQuery,
    RankBody,
    ReasonBody,
    SimilarBody,
    WhereQuery,
    check_bounds,
    refuse_invalid,
)
from streamrec.serving.checks import RequestLimits, check_id, check_n, check_namespace, error_body, refuse_no_json
from streamrec.serving.filters import Filters
from streamrec.serving.lookups import item_facts, stored_user_facts, user_facts
from streamrec.serving.requests import parse_query
from streamrec.serving.slot import LiveModel

_MADE = frozenset({"event_id", "event_time"})
_ASKED = frozenset(operation.path for operation in OPERATIONS if operation.action is MayDo.ASK and not operation.is_hot)


def _item_id(request: Request, item_id: str) -> str:
    return last_of_three(request.scope)


def _user_id(request: Request, user_id: str) -> str:
    return last_of_three(request.scope)


# Not FastAPI's own, which are decoded before the path is split: an encoded slash stays part of an id.
ItemSegment = Annotated[str, Depends(_item_id)]
UserSegment = Annotated[str, Depends(_user_id)]


class _JsonRequest(Request):
    async def json(self) -> Any:
        # As on the hot routes: NaN and lone surrogates, which the standard library takes, are no JSON.
        return orjson.loads(await self.body())


class _JsonRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await answer(_JsonRequest(request.scope, request.receive))

        return handler


# By path, in the table's order, for refusals of methods.
_PATHS = [(compile_path(operation.path.replace("_id}", "_id:path}"))[0], operation.method) for operation in OPERATIONS]


def _methods_of(path: str) -> list[str]:
    return [method for pattern, method in _PATHS if pattern.match(path)]


class ColdRoutes:
    """The ASGI application behind the hot routes.

    Args:
        backend: The replica.
        limits: Bounds of requests.
        max_body_bytes: Longest body that is read.
        guards: What stands before them.
        log_name: Address of the log, for errors.
        request_id: Names a request.
        clock: Processing time, which is the event time of what is written without one.
    """

    def __init__(
        self,
        backend: Backend,
        limits: RequestLimits,
        max_body_bytes: int,
        guards: Guards,
        log_name: str,
        request_id: Callable[[Scope], str],
        clock: Clock | None = None,
    ) -> None:
        self._backend = backend
        self._limits = limits
        self._max_body_bytes = max_body_bytes
        self._access, self._gate, self._backlog = guards.access, guards.gate, guards.backlog
        self._log_name = log_name
        self._request_id = request_id
        self._clock = clock or SystemClock()
        self._headers: Headers = [(b"x-streamrec-replica", backend.replica_id.encode())]
        self.app = DocumentedApp(limits, asks_for_keys=guards.access.asks_for_keys)
        self.app.router.route_class = _JsonRoute
        handlers: dict[Any, Any] = {RequestError: self._bad_request, Refusal: self._refused, HTTPException: self._no_route, Exception: self._failed}
        for kind, handler in {**handlers, RequestValidationError: self._invalid}.items():
            self.app.add_exception_handler(kind, handler)
        for operation in OPERATIONS:
            self._add(operation)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        self._access.identify(scope)  # Nothing is read or told without a key, also of what is no route.
        if scope["method"] == "POST":
            refuse_query(scope)
        parse_query(scope.get("query_string", b""), several="category")
        body = await read_body(scope, receive, self._max_body_bytes)
        if path_of(scope) in _ASKED:
            await self._backlog.turn(self._backlog.come())
        parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def once() -> Message:
            return parts.pop() if parts else await receive()

        headers = [pair for pair in scope["headers"] if pair[0] != b"content-type"]
        # What breaks has been answered and logged by `_failed`; Starlette raises it nevertheless.
        with contextlib.suppress(Exception):
            await self.app({**scope, "headers": [*headers, (b"content-type", b"application/json")]}, once, cast("Any", send))

    def _add(self, operation: Operation) -> None:
        async def may(request: Request) -> None:
            if operation.is_hot:  # Its own paths never come here, only ones that look like them.
                raise HTTPException(404)
            self._access.check(request.scope, operation.action)

        self.app.add(operation, getattr(HotRoutes if operation.is_hot else self, operation.name), [Depends(may)])

    async def similar(self, body: SimilarBody, request: Request) -> Response:
        """Items whose vectors point in the same direction; those that are given are left out, those that are unknown are named."""
        check_bounds(body, self._limits)
        model = self._model()
        answer = self._backend.answerer.similar(body, self._namespace(body.namespace, request), self._n(body), model, self._id(request))
        return self._json(answer, model=model)

    async def rank(self, body: RankBody, request: Request) -> Response:
        """The candidates that the version knows and that can be had, best first; the others are in `left_out`."""
        check_bounds(body, self._limits)
        model = self._model()
        namespace, histories = self._namespace(body.namespace, request), self._backend.histories
        known = None if histories is None or body.user_id is None else await histories.known(namespace, body.user_id)
        return self._json(self._backend.answerer.rank(body, namespace, model, self._id(request), known), model=model)

    async def popular(self, query: Annotated[PopularQuery, Query()], request: Request) -> Response:
        """The score is how often an item was used; a use counts half as much after `popularity.half_life_s`, as of the newest event's time."""
        model = self._model()
        filters = Filters(categories=tuple(query.category) if query.category else None)
        answer = self._backend.answerer.popular(self._n(query), self._namespace(query.namespace, request), filters, model, self._id(request))
        return self._json(answer, model=model)

    async def get_item(self, item_id: ItemSegment, query: Annotated[WhereQuery, Query()], request: Request) -> Response:
        """What catalogues said, whether it can be had, and whether the live version has it."""
        namespace, model = self._namespace(query.namespace, request), self._backend.model
        found = item_facts(self._backend.answerer.view, model, namespace, check_id(item_id, "item_id", self._limits))
        if found is None:
            what = "Item: nobody has said or done anything with this item yet"
            raise Refusal(404, "item_id", item_id, "an item that is known", what)
        return self._json({**found, **self._facts(model, request)}, model=model)

    async def put_item(self, item_id: ItemSegment, body: ItemBody, query: Annotated[WhereQuery, Query()], request: Request) -> Response:
        """Answered when the broker has the update; what it says shows a moment later, when the replicas have read it."""
        said = body.model_dump(exclude_unset=True)
        said = {name: value for name, value in said.items() if value is not None or name not in _MADE}
        return await self._write({"kind": Kind.ITEM_UPDATE.value, **said, "item_id": check_id(item_id, "item_id", self._limits)}, query, request)

    async def delete_item(self, item_id: ItemSegment, query: Annotated[WhereQuery, Query()], request: Request) -> Response:
        """The item stays in histories and goes on being learned."""
        event = {"kind": Kind.ITEM_UPDATE.value, "available": False, "item_id": check_id(item_id, "item_id", self._limits)}
        return await self._write(event, query, request)

    async def get_user(self, user_id: UserSegment, query: Annotated[WhereQuery, Query()], request: Request) -> Response:
        """The history, newest first, with event times: all that serving knows of a user."""
        namespace, name, histories = self._namespace(query.namespace, request), check_id(user_id, "user_id", self._limits), self._backend.histories
        if histories is None:
            found = user_facts(self._backend.answerer.view, namespace, name)
        else:
            try:
                entries, missing = await histories.entries(namespace, name)
            except StorageError as error:
                allowed = "a Redis that answers, with histories"
                raise Refusal(503, "user_id", "no history", allowed, without_address(error), again_after(1)) from error
            found = stored_user_facts(namespace, name, entries.item_ids, entries.times) | ({"missing": missing} if missing else {})
        return self._json({**found, **self._facts(self._backend.model, request)}, model=self._backend.model)

    async def delete_user(self, user_id: UserSegment, query: Annotated[WhereQuery, Query()], request: Request) -> Response:
        """Answered when the broker has the request; `streamrec receipt` says what became of it."""
        return await self._write({"kind": Kind.DELETION.value, "user_id": check_id(user_id, "user_id", self._limits)}, query, request)

    async def promote(self, version: str, request: Request, body: ReasonBody | None = None) -> Response:
        """The registry's alias moves; replicas follow within a tenth of a second."""
        reason = _reason(body, request)
        return await self._move(lambda: self._backend.moves.promote(version, reason), f"promotion of {version!r}", request, version)

    async def rollback(self, request: Request, body: ReasonBody | None = None) -> Response:
        """The registry's alias moves back; replicas follow within a tenth of a second."""
        reason = _reason(body, request)
        return await self._move(lambda: self._backend.moves.roll_back(reason), "rollback", request)

    async def history(self, query: Annotated[HistoryQuery, Query()], request: Request) -> Response:
        """Newest first; `streamrec models list` and `show` know more of each."""
        return await self._move(lambda: self._backend.moves.history(query.last), "", request)

    async def pin(self, version: str, request: Request, body: ReasonBody | None = None) -> Response:
        """As `streamrec pin VERSION --live`: held first, then promoted."""
        reason, by = _why(body), _who(request)
        return await self._turn(lambda: self._backend.moves.pin(version, reason, by), f"pin of {version!r}", request, version)

    async def unpin(self, version: str, request: Request, body: ReasonBody | None = None) -> Response:
        """As `streamrec unpin`: it stays live until a better one is promoted."""
        reason, by = _why(body), _who(request)
        return await self._turn(lambda: self._backend.moves.unpin(version, reason, by), f"unpin of {version!r}", request, version)

    async def switches(self, request: Request) -> Response:
        """As `streamrec switches` ends."""
        return await self._turn(self._backend.moves.switches, "", request)

    async def pause(self, request: Request, body: ReasonBody | None = None) -> Response:
        """What is live goes on serving, the lag grows. A running stream obeys within two seconds."""
        return await self._switch("pause", request, body)

    async def resume(self, request: Request, body: ReasonBody | None = None) -> Response:
        """It catches up in order."""
        return await self._switch("resume", request, body)

    async def freeze_publishing(self, request: Request, body: ReasonBody | None = None) -> Response:
        """Of all students; `rollback` still works."""
        return await self._switch("freeze", request, body)

    async def unfreeze_publishing(self, request: Request, body: ReasonBody | None = None) -> Response:
        """The next version that the gate lets through goes live."""
        return await self._switch("unfreeze", request, body)

    async def dead_letters(self, query: Annotated[LettersQuery, Query()], request: Request) -> Response:
        """As `streamrec dlq list` and `show`, of the topic's newest records; what is unprintable is escaped, and long ones are cut."""
        return await self._turn(lambda: self._backend.letters.newest(query.last), "", request)

    async def replay_letters(self, body: PlacesBody, request: Request) -> Response:
        """As `streamrec dlq replay PLACE…`: each goes to the events topic as it is, once, if it is valid now."""
        what = f"replay of {len(body.places)} dead letters, {body.places[0]!r} first"
        deletes = caller_of(request.scope).deletes
        return await self._turn(lambda: self._backend.letters.replay(body.places, deletes=deletes), what, request)

    async def system(self, request: Request) -> Response:
        """The machine of the replica that answers, seen at most every five seconds, and the Ray cluster."""
        caller_of(request.scope).enter_all()
        return await self._turn(self._backend.system.facts, "", request)

    async def _switch(self, action: Action, request: Request, body: ReasonBody | None) -> Response:
        reason, by = _why(body), _who(request)
        return await self._turn(lambda: self._backend.moves.turn(action, reason, by), f"switch: {action}", request)

    async def _turn(self, turn: Callable[[], dict[str, Any]], what: str, request: Request, version: str = "") -> Response:
        return await self._ordered(turn, what, request, "version" if version else "stream", version, "what this server and its state allow")

    async def _move(self, move: Callable[[], dict[str, Any]], what: str, request: Request, version: str = "") -> Response:
        return await self._ordered(move, what, request, "version", version, "a version that is there and allowed")

    async def _ordered(self, do: Callable[[], dict[str, Any]], what: str, request: Request, field: str, got: str, allowed: str) -> Response:
        """Do what a person ordered, and note it for those who look into it later; a refusal shows ``got``, or else the path."""
        request_id = self._id(request)
        if what:
            audit(caller_of(request.scope), what, request_id)
        try:
            with self._gate.entered():
                # In a thread, because requests are answered meanwhile.
                done = await asyncio.to_thread(do)
        except BrokerError as error:
            raise Refusal(503, "broker", "no answer", "an answer", str(error), again_after(1)) from error
        except (OperatorError, ConfigError) as error:
            raise Refusal(409, field, (got or path_of(request.scope))[:200], allowed, str(error)) from error
        return self._json({**done, "request_id": request_id})

    async def _write(self, event: dict[str, Any], query: WhereQuery, request: Request) -> Response:
        request_id = self._id(request)
        made = {"event_id": f"http-{request_id}", "event_time": self._clock.now_ms(), "namespace": self._namespace(query.namespace, request)}
        event = {**made, **event}
        with self._gate.entered():
            (result,) = await append(self._backend, [event], self._log_name, caller_of(request.scope), request_id)
        if result["status"] != "accepted":
            reason, detail = result["reason"], f"Event: {result['detail']}"
            if reason == "kind_not_accepted":
                raise Refusal(403, "kind", event["kind"], "the kinds in serving.accepts", detail)
            raise Refusal(400, "body", reason, "a valid event", detail)
        return self._json({**result, "event_id": event["event_id"], "request_id": request_id})

    def _facts(self, model: LiveModel | None, request: Request) -> dict[str, Any]:
        if model is None:
            return {"model_version": None, "model_age_s": None, "request_id": self._id(request)}
        return self._backend.answerer.facts(model, self._id(request))

    def _model(self) -> LiveModel:
        model = self._backend.model
        if model is None:
            raise no_model()
        return model

    def _namespace(self, given: str | None, request: Request) -> str:
        namespace = self._limits.namespace if given is None else check_namespace(given)
        caller_of(request.scope).enter(namespace)
        return namespace

    def _n(self, asked: SimilarBody | PopularQuery) -> int:
        return check_n(asked.n, self._limits) if "n" in asked.model_fields_set else min(asked.n, self._limits.max_n)

    def _id(self, request: Request) -> str:
        return self._request_id(request.scope)

    def _json(self, value: Any, status: int = 200, extra: Headers | None = None, model: LiveModel | None = None) -> Response:
        named: Headers = [(b"x-streamrec-model", model.version.encode())] if model is not None else []
        response = Response(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS), status, media_type="application/json")
        response.raw_headers.extend([*self._headers, *named, *(extra or [])])
        return response

    async def _bad_request(self, _: Request, error: RequestError) -> Response:
        return self._json(error_body(error), 400)

    async def _refused(self, _: Request, error: Refusal) -> Response:
        return self._json(error.body, error.status, error.headers)

    async def _invalid(self, _: Request, error: RequestValidationError) -> Response:
        fault = error.errors()[0]
        try:
            if isinstance(error.__cause__, json.JSONDecodeError):
                refuse_no_json(error.__cause__, error.__cause__.doc)
            refuse_invalid({**fault, "loc": fault["loc"][1:]})
        except RequestError as refused:
            return self._json(error_body(refused), 400)

    async def _failed(self, request: Request, error: Exception) -> Response:
        return self._json(failed(error, request.scope["path"], self._id(request)), 500)

    async def _no_route(self, request: Request, error: HTTPException) -> Response:
        path = request.scope["path"][:200]
        if error.status_code == 405:
            refusal = wrong_method(path, request.method, *_methods_of(path_of(request.scope)))
        else:
            known = ", ".join([*dict.fromkeys(operation.path for operation in OPERATIONS), *UNLISTED])
            refusal = Refusal(error.status_code, "path", path, known, "Request: unknown path")
        return self._json(refusal.body, refusal.status, refusal.headers)


def _why(body: ReasonBody | None) -> str:
    return (body or ReasonBody()).reason


def _who(request: Request) -> str:
    caller = caller_of(request.scope)
    return "HTTP" if caller.name is None else f"key {caller.name}"


def _reason(body: ReasonBody | None, request: Request) -> str:
    caller = caller_of(request.scope)
    return _why(body) if caller.name is None else f"{_why(body)} (key {caller.name})"
