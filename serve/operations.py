"""List every route once: what it is for, what it does, and an example that the OpenAPI document shows and a test holds it to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serve.access import Action

_FACTS = {"model_version": "v00000012", "model_age_s": 1.734, "request_id": "6f1c2a9b3d4e5f60-17"}
_PLACE = {"status": "accepted", "partition": 0, "offset": 4711}
_MOVE = {"number": 4, "action": "promote", "version": "v00000012", "trail": ["v00000011"], "reason": "asked by HTTP", "at_ms": 1764000000000}
_FLIP = {"by": "key nights", "reason": "incident 12", "at_ms": 1764000000000, "version": ""}
_HELD = {"default": {**_FLIP, "version": "v00000012"}}
_SWITCHES: dict[str, Any] = {"number": 7, "held": {}, "in_force": [], "request_id": "6f1c2a9b3d4e5f60-23"}
_PAUSED = {**_SWITCHES, "paused": _FLIP, "in_force": ["the stream is paused since 2025-11-24 16:00:00Z by key nights: incident 12"]}
_FROZEN = {**_SWITCHES, "frozen": _FLIP, "in_force": ["publishing is frozen since 2025-11-24 16:00:00Z by key nights: incident 12"]}
_PINNED = {**_SWITCHES, "held": _HELD, "in_force": ["student default: v00000012 is pinned live since 2025-11-24 16:00:00Z by key nights"]}
_WHY = {"reason": "incident 12"}
_UPDATE = {"title": "River lamp", "categories": ["lamp", "home"], "price": 49.5, "locale": "en-GB", "available": True}


@dataclass(frozen=True)
class Operation:
    """Describe a route.

    Attributes:
        name: The function that answers it.
        method: HTTP method.
        path: Path template.
        summary: What it is for, in a few words.
        answer: An answer as it looks like.
        action: What the request does, for whoever checks access.
        asked: The example's path with its query, where it isn't the template.
        body: The example's body.
        is_hot: Whether it is answered before FastAPI, which only documents it.
    """

    name: str
    method: str
    path: str
    summary: str
    answer: dict[str, Any]
    action: Action = Action.READ
    asked: str = ""
    body: Any = None
    is_hot: bool = False

    @property
    def example_path(self) -> str:
        """Return the example's path with its query."""
        return self.asked or self.path


_RANKED = {"item_id": "i2", "score": 3.251402}
_EXPLAINED = {**_RANKED, "because": [{"item_id": "i1", "part": 3.0}], "bias": 0.251402, "own_history": 0.0}
_POPULAR = {"source": "popular", "why": "asked for", "popularity": {"half_life_s": 604800.0, "as_of_ms": 1764000000000}}
_STUDENT = {**_FACTS, "source": "student", "user_events": 1}

OPERATIONS = (
    Operation(
        "recommend", "POST", "/v1/recommend", "Recommend items for a user or a history",
        {"items": [_EXPLAINED], **_STUDENT, "content_part": "this version carries no words; what they add is within `because`"},
        body={"user_id": "u1", "n": 1, "categories": ["lamp"], "max_price": 100, "explain": True}, is_hot=True,
    ),
    Operation(
        "recommend_to_user", "GET", "/v1/recommend/{user_id}", "Recommend items for a user",
        {"items": [_RANKED], **_STUDENT}, asked="/v1/recommend/u1?n=1", is_hot=True,
    ),
    Operation(
        "similar", "POST", "/v1/similar", "Find items like given ones",
        {"items": [{"item_id": "i2", "score": 0.812}], **_FACTS, "source": "student"}, body={"like": ["i1"], "n": 1},
    ),
    Operation(
        "rank", "POST", "/v1/rank", "Put candidates in order of score",
        {"items": [_RANKED], "left_out": [{"item_id": "gone", "why": "unknown to the version"}], **_STUDENT},
        body={"user_id": "u1", "candidates": ["i2", "i3", "gone"]},
    ),
    Operation(
        "popular", "GET", "/v1/popular", "List the most popular items",
        {"items": [{"item_id": "i2", "score": 812.0}], **_FACTS, **_POPULAR}, asked="/v1/popular?n=1&category=lamp",
    ),
    Operation(
        "get_item", "GET", "/v1/items/{item_id}", "Show what is known of an item",
        {"item_id": "i2", "namespace": "default", **_UPDATE, "in_model": True, **_FACTS}, asked="/v1/items/i2",
    ),
    Operation(
        "put_item", "PUT", "/v1/items/{item_id}", "Say something of an item; fields that are absent change nothing",
        {**_PLACE, "event_id": "http-6f1c2a9b3d4e5f60-18", "request_id": "6f1c2a9b3d4e5f60-18"}, Action.WRITE, "/v1/items/i2", _UPDATE,
    ),
    Operation(
        "delete_item", "DELETE", "/v1/items/{item_id}", "Take an item out of all answers until an update says that it can be had again",
        {**_PLACE, "event_id": "http-6f1c2a9b3d4e5f60-19", "request_id": "6f1c2a9b3d4e5f60-19"}, Action.WRITE, "/v1/items/i3",
    ),
    Operation(
        "get_user", "GET", "/v1/users/{user_id}", "Show what is known of a user",
        {"user_id": "u1", "namespace": "default", "items": [{"item_id": "i1", "event_time": 1764000000000}], **_FACTS}, asked="/v1/users/u1",
    ),
    Operation(
        "delete_user", "DELETE", "/v1/users/{user_id}", "Ask for a user to be forgotten, where serving.accepts has deletion",
        {**_PLACE, "event_id": "http-6f1c2a9b3d4e5f60-20", "request_id": "6f1c2a9b3d4e5f60-20"}, Action.DELETE_USERS, "/v1/users/u9",
    ),
    Operation(
        "events", "POST", "/v1/events", "Append events: one object, a JSON array, or NDJSON (application/x-ndjson)",
        {"results": [_PLACE], "accepted": 1, "rejected": 0}, Action.WRITE,
        body={"event_id": "e2", "user_id": "u2", "item_id": "i2", "event_type": "click", "event_time": 1764000001000}, is_hot=True,
    ),
    Operation(
        "models", "GET", "/v1/models", "Show what serves and where it stands",
        {"replica": "default#Recommender#x7k2", "live": {"model_version": "v00000012"}}, is_hot=True,
    ),
    Operation(
        "promote", "POST", "/v1/models/{version}:promote", "Make a version live",
        {**_MOVE, "request_id": "6f1c2a9b3d4e5f60-21"}, Action.MOVE_MODELS, "/v1/models/v00000012:promote", {"reason": "better on holdout"},
    ),
    Operation(
        "rollback", "POST", "/v1/models:rollback", "Make the version live again that was live before",
        {**_MOVE, "action": "rollback", "trail": [], "request_id": "6f1c2a9b3d4e5f60-22"}, Action.MOVE_MODELS, body={"reason": "complaints"},
    ),
    Operation(
        "pin", "POST", "/v1/models/{version}:pin", "Make a version live and let nothing else be promoted", _PINNED,
        Action.MOVE_MODELS, "/v1/models/v00000012:pin", _WHY,
    ),
    Operation(
        "unpin", "POST", "/v1/models/{version}:unpin", "Let others be promoted again", _SWITCHES,
        Action.MOVE_MODELS, "/v1/models/v00000012:unpin", _WHY,
    ),
    Operation("switches", "GET", "/v1/stream", "Show what holds the stream, since when and by whose order", _SWITCHES, Action.MOVE_MODELS),
    Operation("pause", "POST", "/v1/stream:pause", "Let the stream make no micro-batches", _PAUSED, Action.MOVE_MODELS, body=_WHY),
    Operation("resume", "POST", "/v1/stream:resume", "Let a paused stream go on", _SWITCHES, Action.MOVE_MODELS, body=_WHY),
    Operation(
        "freeze_publishing", "POST", "/v1/stream:freeze-publishing", "Let the stream learn, but publish and promote nothing", _FROZEN,
        Action.MOVE_MODELS, body=_WHY,
    ),
    Operation(
        "unfreeze_publishing", "POST", "/v1/stream:unfreeze-publishing", "Let it publish and promote again", _SWITCHES,
        Action.MOVE_MODELS, body=_WHY,
    ),
    Operation(
        "healthz", "GET", "/healthz", "Say that the replica lives",
        {"status": "ok", "replica": "default#Recommender#x7k2"}, Action.PROBE, is_hot=True,
    ),
    Operation(
        "readyz", "GET", "/readyz", "Say whether a version is live",
        {"status": "ready", "model_version": "v00000012", "replica": "default#Recommender#x7k2"}, Action.PROBE, is_hot=True,
    ),
)  # fmt: skip
"""Every route but the OpenAPI document itself."""
