"""Say in the OpenAPI document what FastAPI can't know: answers, refusals, keys, the bounds of this server, and events as they are on the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

from fastapi import FastAPI, Query
from pydantic.json_schema import models_json_schema

from serve.access import SCOPE_OF, Action
from serve.operations import Operation
from streamrec import __version__
from streamrec.config import MAX_NAMESPACE_CHARS
from streamrec.events.json_schema import event_schema
from streamrec.serving.bodies import RecommendBody, UserQuery
from streamrec.serving.checks import MAX_DEADLINE_MS, RequestLimits
from streamrec.serving.operator_replies import DeadLetters, Replayed, SystemFacts, VersionHistory
from streamrec.serving.replies import (
    ErrorReply,
    EventResults,
    Health,
    ItemFacts,
    Models,
    Moved,
    PopularItems,
    RankedCandidates,
    Ready,
    Recommendation,
    Reply,
    SimilarItems,
    SwitchFacts,
    UserFacts,
    Written,
)

REPLIES: Mapping[str, type[Reply]] = {
    "recommend": Recommendation,
    "recommend_to_user": Recommendation,
    "similar": SimilarItems,
    "rank": RankedCandidates,
    "popular": PopularItems,
    "get_item": ItemFacts,
    "put_item": Written,
    "delete_item": Written,
    "get_user": UserFacts,
    "delete_user": Written,
    "events": EventResults,
    "models": Models,
    "promote": Moved,
    "rollback": Moved,
    **dict.fromkeys(("pin", "unpin", "switches", "pause", "resume", "freeze_publishing", "unfreeze_publishing"), SwitchFacts),
    "history": VersionHistory,
    "dead_letters": DeadLetters,
    "replay_letters": Replayed,
    "system": SystemFacts,
    "healthz": Health,
    "readyz": Ready,
}
"""What each route answers, by the operation's name."""

_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "authorization: Bearer KEY"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same key in a header of its own."},
}
_WHY = {
    400: "What to correct: `error` with code, field, got, allowed, message",
    401: "No key, or one that nobody has",
    403: "The key lacks the scope or the namespace, or this is not done here",
    404: "Nobody has said or done anything with this yet, or the id has a slash that is not %2F",
    409: "The version is not there, or may not go live, or this server has no registry or state",
    413: "The body is longer than serving.max_body_bytes",
    415: "The body is compressed",
    429: "Too many requests of this key, or too many wait; send again after `retry-after` seconds",
    500: "Something broke; the log has a line by `error.request_id`",
    503: "No version is live, the broker did not acknowledge, or the Redis of histories does not answer; send again after `retry-after` seconds",
}
_NEEDS_NEITHER_MODEL_NOR_BROKER = frozenset({"get_item", "models", "history", "system", "healthz"})
_OF_LETTERS = frozenset({"dead_letters", "replay_letters"})
_RETRY_AFTER = {"retry-after": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}
_EVENTS_REFUSED = "All events are rejected, or the request: see there"
_LISTS_OF_IDS = frozenset({"items", "exclude", "history", "candidates", "like", "categories"})
_EVENT = "event_"
_SCHEMA = "#/components/schemas/{model}"


class DocumentedApp(FastAPI):
    """Finish the document that FastAPI makes.

    Args:
        limits: Bounds of requests.
        asks_for_keys: Whether routes take a key.
    """

    def __init__(self, limits: RequestLimits, *, asks_for_keys: bool) -> None:
        super().__init__(title="streamrec", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
        self._limits, self._asks_for_keys = limits, asks_for_keys

    def openapi(self) -> dict[str, Any]:
        """Return the document; made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            _finish(document, self._limits)
            document["components"]["securitySchemes"] = _SCHEMES
        assert self.openapi_schema is not None
        return self.openapi_schema

    def add(self, operation: Operation, answer: Callable[..., Any], dependencies: list[Any]) -> None:
        """Add a route as the table describes it."""
        self.add_api_route(
            # Ids may hold anything, a slash too.
            operation.path.replace("_id}", "_id:path}"),
            answer,
            methods=[operation.method],
            operation_id=operation.name,
            summary=operation.summary,
            dependencies=dependencies,
            responses=_responses(operation),
            openapi_extra=self._extra(operation),
            response_model=None,
        )

    def _extra(self, operation: Operation) -> dict[str, Any]:
        extra: dict[str, Any] = {"parameters": list(_header_parameters(operation))}
        if operation.body is not None:
            extra["requestBody"] = {"content": {"application/json": {"example": operation.body}}}
        if operation.name == "events":
            extra["requestBody"] = {"required": True, "content": _events_content(operation.body)}
        if operation.action is not Action.PROBE:
            scopes = [SCOPE_OF[operation.action]]
            extra["security"] = [{name: scopes} for name in _SCHEMES] + ([] if self._asks_for_keys else [{}])
        return extra


def _responses(operation: Operation) -> dict[int | str, dict[str, Any]]:
    found: dict[int | str, dict[str, Any]] = {
        200: {"content": _content(_ref(REPLIES[operation.name]), operation.answer), "description": "The answer"}
    }
    for status in _refusals(operation):
        found[status] = {"content": _content(_ref(ErrorReply)), "description": _WHY[status]}
        if status in {429, 503}:
            found[status]["headers"] = _RETRY_AFTER
    if operation.name == "events":
        for status in (400, 403):
            found[status] = {"content": _content({"anyOf": [_ref(EventResults), _ref(ErrorReply)]}), "description": _EVENTS_REFUSED}
    return found


def _content(schema: dict[str, Any], example: Any = None) -> dict[str, Any]:
    return {"application/json": {"schema": schema} if example is None else {"schema": schema, "example": example}}


def _ref(reply: type[Reply]) -> dict[str, Any]:
    return {"$ref": _SCHEMA.format(model=reply.__name__)}


def _reply_schemas() -> dict[str, Any]:
    """Return the schemas of all answers. FastAPI would make them anew for each status of each route, as each replica starts: 0.1 s of a core."""
    replies: set[type[Reply]] = {*REPLIES.values(), ErrorReply}
    ordered = sorted(replies, key=lambda one: one.__name__)
    _, found = models_json_schema([(reply, "serialization") for reply in ordered], ref_template=_SCHEMA)
    schemas: dict[str, Any] = found["$defs"]
    return schemas


def _refusals(operation: Operation) -> Iterator[int]:
    if operation.action is not Action.PROBE:
        yield from (400, 401, 403, 429)
    if operation.path.endswith("_id}"):
        yield 404
    if operation.action is Action.MOVE_MODELS or operation.name == "history":
        yield 409
    if operation.method in {"POST", "PUT"}:
        yield from (413, 415)
    needs_no_other = operation.action is Action.MOVE_MODELS or operation.name in _NEEDS_NEITHER_MODEL_NOR_BROKER
    if not needs_no_other or operation.name in _OF_LETTERS:
        yield 503
    yield 500


def _header_parameters(operation: Operation) -> Iterator[dict[str, Any]]:
    named = {
        "description": "Names the request: up to 128 visible characters of ASCII; with another or none the request gets a new name.",
        "schema": {"type": "string"},
    }
    yield {"name": "x-request-id", "in": "header", "required": False, **named}
    if operation.name.startswith("recommend"):
        schema = {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_DEADLINE_MS}
        what = {"description": "How many milliseconds you wait; see deadline_ms.", "schema": schema}
        yield {"name": "x-streamrec-deadline-ms", "in": "header", "required": False, **what}


def _events_content(example: Any) -> dict[str, Any]:
    event = {"$ref": "#/components/schemas/event"}
    lines = {"type": "string", "description": "One event in JSON on each line."}
    return {
        "application/json": {"schema": {"anyOf": [event, {"type": "array", "items": event}]}, "example": example},
        "application/x-ndjson": {"schema": lines},
    }


def _finish(document: dict[str, Any], limits: RequestLimits) -> None:
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own refusals, which `serve.cold` writes anew.
        schemas.pop(name, None)
    for name, schema in schemas.items():
        if name.endswith("Body"):
            _bound(schema["properties"], limits)
    schemas |= {**_reply_schemas(), **_event_schemas()}
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            parameters = [part for part in operation["parameters"] if part["in"] != "header"]
            _bound({part["name"]: part["schema"] for part in parameters}, limits)
            for part in parameters:
                if part["in"] == "path":
                    part["schema"] |= {"minLength": 1, "maxLength": limits.max_id_bytes}


def _bound(properties: Mapping[str, dict[str, Any]], limits: RequestLimits) -> None:
    """Write this server's bounds into the schemas of fields; those of ids are in bytes of UTF-8, which a schema can't say."""
    for name, schema in properties.items():
        whole = next((part for part in schema.get("anyOf", ()) if part.get("type") != "null"), schema)
        if name == "n":
            whole["maximum"] = limits.max_n
            if "default" in schema:
                schema["default"] = min(schema["default"], limits.max_n)
        elif name == "namespace":
            whole |= {"minLength": 1, "maxLength": MAX_NAMESPACE_CHARS}
        elif name == "user_id":
            whole["maxLength"] = limits.max_id_bytes
        elif name in _LISTS_OF_IDS:
            whole["maxItems"] = limits.max_history
            whole["items"] = {**whole["items"], "maxLength": limits.max_id_bytes}


def _event_schemas() -> dict[str, Any]:
    """Return the schemas of events on the wire, as parts of the document."""
    wire = event_schema()
    kinds = {f"{_EVENT}{kind}": schema for kind, schema in wire["$defs"].items()}
    event = {name: wire[name] for name in ("title", "description")}
    return {"event": {**event, "oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in kinds]}, **kinds}


class HotRoutes:
    """The hot routes, as the document shows them; they are answered before FastAPI is asked."""

    @staticmethod
    async def recommend(body: RecommendBody) -> None:
        """A `user_id`, a `history`, or both. With `lists` the answer has `lists` in place of `items`; what is short says why in `short`."""

    @staticmethod
    async def recommend_to_user(user_id: str, query: Annotated[UserQuery, Query()]) -> None:
        """The plain request without a body."""

    @staticmethod
    async def events() -> None:
        """Each event is accepted or rejected by itself; answered when the broker has those that are accepted."""

    @staticmethod
    async def models() -> None:
        """Versions, offsets, counters of the replica that answers."""

    @staticmethod
    async def healthz() -> None:
        """200 as long as the process answers."""

    @staticmethod
    async def readyz() -> None:
        """503 until a version is live."""
