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


_NUMBERS = {
    "num_queries": 812.0, "candidate": 0.2631, "live": 0.2619, "difference": 0.0012, "standard_error": 0.0019, "allowed": -0.0131,
    "evidence": 0.11, "needed": 20.0,
}  # fmt: skip
_DECISION = {
    "verdict": "promote", "code": "not_worse", "reason": "not worse than live: recall@20 0.2631 against 0.2619 on 812 queries",
    "candidate": "v00000013", "live": "v00000012", "batch": 14, "numbers": _NUMBERS,
}  # fmt: skip
_VERSION = {
    "version": "v00000013", "created_ms": 1764000000000, "parent": "v00000012", "offsets": {"streamrec.events": {"0": 4100}},
    "teachers": {"linear": "v00000009"}, "metrics": {"student.recall@20": 0.2631}, "digest": "b1946ac92492d234", "bytes": 291540,
    "decision": _DECISION, "is_live": True, "is_pinned": False,
}  # fmt: skip
_MOVED = {"number": 4, "action": "promote", "version": "v00000013", "reason": "not worse than live", "at_ms": 1764000000000, "by_gate": True}
_LETTER = {
    "place": "streamrec.events/0/4711", "partition": 0, "offset": 4711, "reason": "future_time",
    "means": "The event time is later than now plus events.future_tolerance_s.", "detail": "event_time: got 1795622400000",
    "time_ms": 1764000000000, "key": "u7", "bytes": 112, "form": "text", "text": '{"event_id": "e7", "user_id": "u7"}', "is_cut": False,
    "replays": 0, "missing_parts": 0,
}  # fmt: skip
_HOST = {"name": "shop-1", "cpus": 8, "load": 2.1, "memory_bytes": 33554432000, "available_bytes": 21474836480}
_NODE = {
    "name": "shop-1", "is_alive": True, "is_head": True, "cpus": 8.0, "gpus": 0.0, "memory_bytes": 17179869184.0, "store_bytes": 536870912.0,
}  # fmt: skip
_SYSTEM = {
    "at_ms": 1764000000000, "replica": "default#Recommender#x7k2", "host": _HOST, "nodes": [_NODE],
    "resources": [{"name": "CPU", "total": 8.0, "free": 3.0}],
    "processes": [{"name": "RayReads", "pid": 4711, "bytes": 412000000, "kind": "pss"}],
    "packages": [{"name": "ray", "version": "2.60.0"}], "request_id": "6f1c2a9b3d4e5f60-27",
}  # fmt: skip
_RANKED = {"item_id": "i2", "score": 3.251402}
_EXPLAINED = {**_RANKED, "because": [{"item_id": "i1", "part": 3.0}], "bias": 0.251402, "own_history": 0.0}
_POPULAR = {"source": "popular", "why": "asked for", "popularity": {"half_life_s": 604800.0, "as_of_ms": 1764000000000}}
_STUDENT = {**_FACTS, "source": "student", "user_events": 1}

OPERATIONS = (
    Operation(
        "recommend", "POST", "/v1/recommend", "Recommend items for a user or a history",
        {"items": [_EXPLAINED], **_STUDENT, "content_part": "this version carries no words; what they add is within `because`"},
        body={"user_id": "u1", "n": 1, "categories": ["lamp"], "max_price": 100, "explain": True}, is_hot=True, action=Action.ASK,
    ),
    Operation(
        "recommend_to_user", "GET", "/v1/recommend/{user_id}", "Recommend items for a user",
        {"items": [_RANKED], **_STUDENT}, asked="/v1/recommend/u1?n=1", is_hot=True, action=Action.ASK,
    ),
    Operation(
        "similar", "POST", "/v1/similar", "Find items like given ones",
        {"items": [{"item_id": "i2", "score": 0.812}], **_FACTS, "source": "student"}, body={"like": ["i1"], "n": 1}, action=Action.ASK,
    ),
    Operation(
        "rank", "POST", "/v1/rank", "Put candidates in order of score",
        {"items": [_RANKED], "left_out": [{"item_id": "gone", "why": "unknown to the version"}], **_STUDENT},
        body={"user_id": "u1", "candidates": ["i2", "i3", "gone"]}, action=Action.ASK,
    ),
    Operation(
        "popular", "GET", "/v1/popular", "List the most popular items",
        {"items": [{"item_id": "i2", "score": 812.0}], **_FACTS, **_POPULAR}, asked="/v1/popular?n=1&category=lamp", action=Action.ASK,
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
        "history", "GET", "/v1/models/history", "Show the newest versions, what the gate said of each, and who moved what",
        {"versions": [_VERSION], "moves": [_MOVED], "request_id": "6f1c2a9b3d4e5f60-24"}, asked="/v1/models/history?last=5",
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
        "dead_letters", "GET", "/v1/stream/dead-letters", "Show the newest records that the stream rejected",
        {
            "topic": "streamrec.dead-letters", "records": 3, "not_looked_at": 0, "letters": [_LETTER], "left_out": 0, "foreign": 0,
            "request_id": "6f1c2a9b3d4e5f60-25",
        },
        Action.MOVE_MODELS, "/v1/stream/dead-letters?last=20",
    ),
    Operation(
        "replay_letters", "POST", "/v1/stream/dead-letters:replay", "Send rejected records to the stream again, each once",
        {
            "sent": [{"place": "streamrec.events/0/4711", "to": "streamrec.events/0/5012", "event_id": "e7"}], "refused": [],
            "request_id": "6f1c2a9b3d4e5f60-26",
        },
        Action.MOVE_MODELS, body={"places": ["streamrec.events/0/4711"]},
    ),
    Operation("system", "GET", "/v1/system", "Show the replica's machine, its processes with their memory, and the Ray cluster", _SYSTEM),
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

UNLISTED = ("/openapi.json", "/metrics", "/v1/live", "/")
"""Further paths that are answered: the document itself, and what no client is made from."""
