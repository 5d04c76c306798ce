"""Define the events, their Arrow schemas and the reasons for which a record is rejected.

On the wire an event is one JSON object per log value, in UTF-8; the log key is the user's id, or the item's id for an `ItemUpdate`.
Times are event times in milliseconds since the epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

import pyarrow as pa

EventId = NewType("EventId", str)
UserId = NewType("UserId", str)
ItemId = NewType("ItemId", str)
SessionId = NewType("SessionId", str)
RequestId = NewType("RequestId", str)
Namespace = NewType("Namespace", str)


class Kind(StrEnum):
    """Name the kind of an event; an absent kind is an interaction."""

    INTERACTION = "interaction"
    IMPRESSION = "impression"
    ITEM_UPDATE = "item_update"
    DELETION = "deletion"


@dataclass(frozen=True, slots=True)
class Interaction:
    """A user did something with an item.

    Attributes:
        namespace: None stands for the configured default.
        value: A rating, a quantity or another number that the event type gives a meaning to.
        context: Flat facts about the moment, such as device or page.
    """

    event_id: EventId
    user_id: UserId
    item_id: ItemId
    event_type: str
    event_time: int
    value: float | None = None
    session_id: SessionId | None = None
    request_id: RequestId | None = None
    namespace: Namespace | None = None
    context: Mapping[str, str | float | bool] | None = None


@dataclass(frozen=True, slots=True)
class Impression:
    """A user was shown items, best place first.

    Attributes:
        context: Flat facts about the answer, such as what `streamrec.evaluation.worth` reads: which version gave it.
    """

    event_id: EventId
    user_id: UserId
    items: tuple[ItemId, ...]
    event_time: int
    request_id: RequestId | None = None
    namespace: Namespace | None = None
    context: Mapping[str, str | float | bool] | None = None


@dataclass(frozen=True, slots=True)
class ItemUpdate:
    """An item's description changed; fields that are None say nothing.

    Attributes:
        vectors: Embeddings by modality, such as ``{"text": (0.1, ...)}``.
    """

    event_id: EventId
    item_id: ItemId
    event_time: int
    namespace: Namespace | None = None
    title: str | None = None
    description: str | None = None
    categories: tuple[str, ...] | None = None
    price: float | None = None
    locale: str | None = None
    available: bool | None = None
    vectors: Mapping[str, tuple[float, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Deletion:
    """A user asked to be forgotten."""

    event_id: EventId
    user_id: UserId
    event_time: int
    namespace: Namespace | None = None


Event = Interaction | Impression | ItemUpdate | Deletion

CONTEXT_TYPE = pa.map_(pa.string(), pa.string())
VECTORS_TYPE = pa.map_(pa.string(), pa.list_(pa.float32()))

WIRE = pa.schema(
    [
        ("kind", pa.string()),
        ("namespace", pa.string()),
        ("event_id", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("event_type", pa.string()),
        ("value", pa.float64()),
        ("event_time", pa.int64()),
        ("session_id", pa.string()),
        ("request_id", pa.string()),
        ("context", CONTEXT_TYPE),
        ("title", pa.string()),
        ("description", pa.string()),
        ("categories", pa.list_(pa.string())),
        ("price", pa.float64()),
        ("locale", pa.string()),
        ("available", pa.bool_()),
        ("vectors", VECTORS_TYPE),
        ("items", pa.list_(pa.string())),
    ]
)
"""The fields of a record's JSON object, as columns."""

WIRE_VERSION = 1
"""Goes up when a reader of the old format would misread or reject the new one; a new optional field or reason does not raise it."""

FIELD_MEANINGS: Mapping[str, str] = {
    "kind": "What the record is; absent or null for an interaction.",
    "namespace": "Keeps tenants apart; absent or null for events.namespace.",
    "event_id": "Names the event; a second one with the same id has no effect.",
    "user_id": "The user, within the namespace; the log key, except of an item update.",
    "item_id": "The item, within the namespace; the log key of an item update.",
    "event_type": "A key of events.meanings, such as click or purchase.",
    "value": "A rating, a quantity or another number that the event type gives a meaning to.",
    "event_time": "When it happened: milliseconds since the epoch, UTC, written without a fraction.",
    "session_id": "The session it belongs to; the empty string counts as absent.",
    "request_id": "The recommendation request that led to it; the empty string counts as absent.",
    "context": "Flat facts about the moment, such as device or page.",
    "title": "The item's title.",
    "description": "The item's description.",
    "categories": "The item's categories.",
    "price": "The item's price.",
    "locale": "The language of the texts, such as en-GB.",
    "available": "Whether the item can be had.",
    "vectors": "Embeddings of the item by modality, such as text.",
    "items": "The items that were shown, best place first.",
}
"""Each field's meaning in one line."""

EVENT = WIRE.append(pa.field("partition", pa.int32())).append(pa.field("offset", pa.int64()))
"""A valid event and the place in the log it came from."""

LOG_ROW = pa.schema(
    [
        ("topic", pa.string()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("timestamp", pa.int64()),
        ("key", pa.binary()),
        ("value", pa.binary()),
    ]
)
"""A record as the log holds it; ``timestamp`` is the broker's, in milliseconds."""

REJECTED = pa.schema(
    [
        ("topic", pa.string()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("key", pa.binary()),
        ("value", pa.binary()),
    ]
)
"""A record that is no valid event, with the reason's code, a detail and the original bytes."""

FIELDS_OF: Mapping[Kind, frozenset[str]] = {
    Kind.INTERACTION: frozenset({"event_id", "user_id", "item_id", "event_type", "value", "event_time", "session_id", "request_id", "context"}),
    Kind.IMPRESSION: frozenset({"event_id", "user_id", "event_time", "request_id", "items", "context"}),
    Kind.ITEM_UPDATE: frozenset(
        {
            *("event_id", "item_id", "event_time", "title", "description"),
            *("categories", "price", "locale", "available", "vectors"),
        }
    ),
    Kind.DELETION: frozenset({"event_id", "user_id", "event_time"}),
}
"""The fields a kind has beside ``kind`` and ``namespace``; others are ignored."""

REQUIRED_OF: Mapping[Kind, tuple[str, ...]] = {
    Kind.INTERACTION: ("event_id", "user_id", "item_id", "event_type", "event_time"),
    Kind.IMPRESSION: ("event_id", "user_id", "event_time", "items"),
    Kind.ITEM_UPDATE: ("event_id", "item_id", "event_time"),
    Kind.DELETION: ("event_id", "user_id", "event_time"),
}


class Reason(StrEnum):
    """Name why a record was rejected."""

    EMPTY_VALUE = "empty_value"
    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    UNKNOWN_KIND = "unknown_kind"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    EMPTY_ID = "empty_id"
    ID_TOO_LONG = "id_too_long"
    UNKNOWN_EVENT_TYPE = "unknown_event_type"
    BAD_TIME = "bad_time"
    FUTURE_TIME = "future_time"


REASONS: Mapping[Reason, str] = {
    Reason.EMPTY_VALUE: "The record has no bytes.",
    Reason.NOT_JSON: "The bytes are not exactly one JSON document in UTF-8 of bounded depth and with finite numbers.",
    Reason.NOT_AN_OBJECT: "The document is a list, a string, a number or null.",
    Reason.UNKNOWN_KIND: "The field kind is none of interaction, impression, item_update, deletion.",
    Reason.MISSING_FIELD: "A field that the kind requires is absent or null.",
    Reason.WRONG_TYPE: "A field of the kind holds another type than it should, such as a number for an id.",
    Reason.EMPTY_ID: "An id is the empty string.",
    Reason.ID_TOO_LONG: "An id is longer than events.max_id_bytes, or a namespace than 64 characters or 81 bytes.",
    Reason.UNKNOWN_EVENT_TYPE: "The event type has no entry in events.meanings.",
    Reason.BAD_TIME: "The event time is before 1970 or after the year 9999; of `POST /v1/events`, before March 1973.",
    Reason.FUTURE_TIME: "The event time is later than now plus events.future_tolerance_s.",
}
"""Each reason's meaning in one line."""
