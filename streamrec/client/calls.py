"""Make the request of each route from keywords: pure, so that both clients send the same.

The keywords of `recommend`, `similar`, `rank` and `popular` are the fields of the server's models, by type and by name, so there is no second
list of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar
from urllib.parse import quote

import orjson
from pydantic import BaseModel, ValidationError

from streamrec.errors import RequestError
from streamrec.serving.bodies import (
    HistoryQuery,
    ItemBody,
    LettersQuery,
    PlacesBody,
    PopularQuery,
    RankBody,
    ReasonBody,
    RecommendBody,
    SimilarBody,
    UserQuery,
    WhereQuery,
    refuse_invalid,
)
from streamrec.serving.operator_replies import DeadLetters, Replayed, SystemFacts, VersionHistory
from streamrec.serving.replies import (
    EventResults,
    Health,
    ItemFacts,
    Models,
    Moved,
    PopularItems,
    RankedCandidates,
    Ready,
    Recommendation,
    SimilarItems,
    SwitchFacts,
    UserFacts,
    Written,
)

P = ParamSpec("P")
T = TypeVar("T")
Query = tuple[tuple[str, str], ...]

_NDJSON = "application/x-ndjson"


@dataclass(frozen=True)
class Call(Generic[T]):
    """Describe a request.

    Attributes:
        method: HTTP method.
        path: Below the server's URL, encoded.
        read: Makes the answer of its bytes.
        body: What is sent; None nothing.
        content_type: Of the body.
        query: Names and values.
        is_repeatable: Whether a second request has no effect beyond the first one's.
        reads_refusals: Whether an answer may come with status 400 or 403, as that to events which are all rejected.
    """

    method: str
    path: str
    read: Callable[[bytes], T]
    body: bytes | None = None
    content_type: str = "application/json"
    query: Query = ()
    is_repeatable: bool = True
    reads_refusals: bool = False


def _checked(kind: Callable[P, BaseModel], *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
    """Return what is said, and nothing of what is left out."""
    try:
        return kind(*args, **kwargs).model_dump(exclude_unset=True)
    except ValidationError as error:
        refuse_invalid(error.errors(include_url=False)[0])


def _posting(path: str, kind: Callable[P, BaseModel], read: Callable[[bytes], T], what: str) -> Callable[P, Call[T]]:
    def call(*args: P.args, **kwargs: P.kwargs) -> Call[T]:
        return Call("POST", path, read, orjson.dumps(_checked(kind, *args, **kwargs)))

    return _like(call, kind, what)


def _asking(path: str, kind: Callable[P, BaseModel], read: Callable[[bytes], T], what: str) -> Callable[P, Call[T]]:
    def call(*args: P.args, **kwargs: P.kwargs) -> Call[T]:
        return Call("GET", path, read, query=_query(_checked(kind, *args, **kwargs)))

    return _like(call, kind, what)


def _about(method: str, path: str, kind: Callable[P, BaseModel], read: Callable[[bytes], T], what: str) -> Callable[Concatenate[str, P], Call[T]]:
    def call(name: str, /, *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        return Call(method, path.format(_segment(name)), read, query=_query(_checked(kind, *args, **kwargs)))

    return _like(call, kind, what)


def _like(call: Callable[P, Call[T]], kind: Callable[..., BaseModel], what: str) -> Callable[P, Call[T]]:
    """Let `help` show the fields."""
    own = [part for part in inspect.signature(call).parameters.values() if part.kind is part.POSITIONAL_ONLY]
    fields = inspect.signature(kind)
    call.__doc__ = what
    call.__signature__ = fields.replace(parameters=[*own, *fields.parameters.values()])  # type: ignore[attr-defined]
    return call


def _query(said: Mapping[str, Any]) -> Query:
    values = ((name, value if isinstance(value, list) else [value]) for name, value in said.items() if value is not None)
    return tuple((name, str(one).lower() if isinstance(one, bool) else str(one)) for name, several in values for one in several)


def _segment(name: str) -> str:
    """Return an id as one segment of a path; one of dots alone is encoded, too, lest it is taken for a folder."""
    if not name:
        what = "Request: an id is empty"
        raise RequestError(what, do="give one", field="id", shown=name, bounds="a non-empty string")
    return quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")


recommend = _posting("/v1/recommend", RecommendBody, Recommendation.model_validate_json, "Recommend items for a user or a history.")
similar = _posting("/v1/similar", SimilarBody, SimilarItems.model_validate_json, "Find items like given ones.")
rank = _posting("/v1/rank", RankBody, RankedCandidates.model_validate_json, "Put candidates in order of score.")
popular = _asking("/v1/popular", PopularQuery, PopularItems.model_validate_json, "List the most popular items.")
history = _asking("/v1/models/history", HistoryQuery, VersionHistory.model_validate_json, "Show the newest versions and moves.")
dead_letters = _asking("/v1/stream/dead-letters", LettersQuery, DeadLetters.model_validate_json, "Show the newest records that were rejected.")
replay_letters = _posting(
    "/v1/stream/dead-letters:replay", PlacesBody, Replayed.model_validate_json, "Send rejected records to the stream again, each once."
)
recommend_to_user = _about("GET", "/v1/recommend/{}", UserQuery, Recommendation.model_validate_json, "Recommend items for a user.")
get_item = _about("GET", "/v1/items/{}", WhereQuery, ItemFacts.model_validate_json, "Show what is known of an item.")
delete_item = _about("DELETE", "/v1/items/{}", WhereQuery, Written.model_validate_json, "Take an item out of all answers.")
get_user = _about("GET", "/v1/users/{}", WhereQuery, UserFacts.model_validate_json, "Show what is known of a user.")
delete_user = _about("DELETE", "/v1/users/{}", WhereQuery, Written.model_validate_json, "Ask for a user to be forgotten.")


def put_item(item_id: str, said: ItemBody, *, namespace: str | None = None) -> Call[Written]:
    """Say something of an item; fields that are absent change nothing."""
    query = _query({"namespace": namespace})
    return Call("PUT", f"/v1/items/{_segment(item_id)}", Written.model_validate_json, orjson.dumps(said.model_dump(exclude_unset=True)), query=query)


def models() -> Call[Models]:
    """Show what serves on the replica that answers."""
    return Call("GET", "/v1/models", Models.model_validate_json)


def promote(version: str, *, reason: str | None = None) -> Call[Moved]:
    """Make a version live."""
    return Call("POST", f"/v1/models/{_segment(version)}:promote", Moved.model_validate_json, _reason(reason))


def rollback(*, reason: str | None = None) -> Call[Moved]:
    """Make the version live again that was live before; sent once, because a second time goes back one more."""
    return Call("POST", "/v1/models:rollback", Moved.model_validate_json, _reason(reason), is_repeatable=False)


def pin(version: str, *, reason: str | None = None) -> Call[SwitchFacts]:
    """Make a version live and let nothing else be promoted."""
    return _switch(f"/v1/models/{_segment(version)}:pin", reason)


def unpin(version: str, *, reason: str | None = None) -> Call[SwitchFacts]:
    """Let others be promoted again."""
    return _switch(f"/v1/models/{_segment(version)}:unpin", reason)


def switches() -> Call[SwitchFacts]:
    """Show what holds the stream, since when and by whose order."""
    return Call("GET", "/v1/stream", SwitchFacts.model_validate_json)


def pause(*, reason: str | None = None) -> Call[SwitchFacts]:
    """Let the stream make no micro-batches."""
    return _switch("/v1/stream:pause", reason)


def resume(*, reason: str | None = None) -> Call[SwitchFacts]:
    """Let a paused stream go on."""
    return _switch("/v1/stream:resume", reason)


def freeze_publishing(*, reason: str | None = None) -> Call[SwitchFacts]:
    """Let the stream learn, but publish and promote nothing."""
    return _switch("/v1/stream:freeze-publishing", reason)


def unfreeze_publishing(*, reason: str | None = None) -> Call[SwitchFacts]:
    """Let it publish and promote again."""
    return _switch("/v1/stream:unfreeze-publishing", reason)


def _switch(path: str, reason: str | None) -> Call[SwitchFacts]:
    return Call("POST", path, SwitchFacts.model_validate_json, _reason(reason))


def _reason(reason: str | None) -> bytes | None:
    return None if reason is None else orjson.dumps(_checked(ReasonBody, reason=reason))


def system() -> Call[SystemFacts]:
    """Show the machine of the replica that answers, and the Ray cluster."""
    return Call("GET", "/v1/system", SystemFacts.model_validate_json)


def healthz() -> Call[Health]:
    """Say that the replica lives."""
    return Call("GET", "/healthz", Health.model_validate_json)


def readyz() -> Call[Ready]:
    """Say which version is live; `TryLater` while none is."""
    return Call("GET", "/readyz", Ready.model_validate_json)


def openapi() -> Call[dict[str, Any]]:
    """Return the server's OpenAPI document."""
    return Call("GET", "/openapi.json", orjson.loads)


def events(lines: bytes) -> Call[EventResults]:
    """Append events, one in JSON on each line; repeatable, because a second event with the same ``event_id`` has no effect."""
    return Call("POST", "/v1/events", EventResults.model_validate_json, lines, _NDJSON, reads_refusals=True)


def batches(events: Iterable[Mapping[str, Any]], max_events: int, max_bytes: int) -> Iterator[bytes]:
    """Write events as lines and join them to bodies within the bounds; an event that is longer alone is a body of its own.

    Raises:
        RequestError: An event can't be written as JSON, or is no object; or one event is given in place of several.
    """
    if isinstance(events, Mapping | str | bytes):
        what = f"Events: a {type(events).__name__} is not a list of events"
        raise RequestError(what, do="give [event], also for one", field="events", shown=type(events).__name__, bounds="a list of objects")
    lines: list[bytes] = []
    num_bytes = 0
    for number, event in enumerate(events):
        if not isinstance(event, Mapping):
            what = f"Events: event {number} is a {type(event).__name__}"
            raise RequestError(what, do="give each as on the wire", field=f"events.{number}", shown=type(event).__name__, bounds="an object")
        try:
            line = orjson.dumps(event)
        except TypeError as error:
            what = f"Events: event {number} can't be written as JSON ({error})"
            raise RequestError(what, do="give JSON's own types", field=f"events.{number}", shown=type(event).__name__, bounds="JSON") from error
        if lines and (len(lines) >= max_events or num_bytes + len(line) + 1 > max_bytes):
            yield b"\n".join(lines)
            lines, num_bytes = [], 0
        lines.append(line)
        num_bytes += len(line) + 1
    if lines:
        yield b"\n".join(lines)
