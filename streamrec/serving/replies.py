"""Describe the answers of the HTTP interface as pydantic models: what the OpenAPI document shows and what `streamrec.client` returns.

A server writes its answers by hand, because a model takes several times as long; tests hold that they are what is described here. A model keeps
fields that it does not know, so that a client reads what a newer server answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

CODES: Mapping[int, str] = {
    400: "invalid",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    415: "unsupported_encoding",
    429: "too_many",
    500: "broken",
    503: "unavailable",
}
"""One word for each status of a refusal."""


class Reply(BaseModel):
    """Hold an answer, or a part of one."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


class ErrorFacts(Reply):
    """Say what was wrong."""

    code: str = Field(description=f"The status in a word: {', '.join(CODES.values())}.")
    field: str | None = Field(description="What must change: a field, or a part of the request.")
    got: str | int | float | bool | None = Field(description="What it was, shortened.")
    allowed: str | None = Field(description="What would be accepted.")
    message: str = Field(description="All of it in a sentence.")
    request_id: str | None = Field(default=None, description="Of what broke here: the log has a line by it.")


class ErrorReply(Reply):
    """Refuse a request."""

    error: ErrorFacts


class Named(Reply):
    """Name the request."""

    request_id: str = Field(description="The header x-request-id, if it is one of up to 128 visible characters of ASCII, else a new one.")


class Facts(Named):
    """Name the version that answered, and the request."""

    model_version: str | None = Field(description="null: no version is live.")
    model_age_s: float | None = Field(description="How long ago the version was made.")


class Because(Reply):
    """Say what one item of the history adds to a score."""

    item_id: str
    part: float


class RankedItem(Reply):
    """Name an item with its score; the rest is there where `explain` was asked for."""

    item_id: str
    score: float
    because: list[Because] | None = Field(default=None, description="By item of the history, newest first.")
    bias: float | None = None
    own_history: float | None = Field(default=None, description="For items that the user had before.")
    content: float | None = Field(default=None, description="What the words that the item's catalogue says of it add.")
    teachers: dict[str, float] | None = Field(default=None, description="Each teacher's part of what the newest labels expect of the item.")
    explored: bool | None = Field(default=None, description="Whether the place was drawn by chance.")
    propensity: float | None = Field(default=None, description="The chance that it was drawn by.")
    source: str | None = Field(default=None, description="content: the version does not have the item yet, its words place it.")


class PopularityFacts(Reply):
    """Say how uses are counted."""

    half_life_s: float | None = Field(description="A use counts half as much after so long by event time; null: always the same.")
    as_of_ms: int | None = Field(description="At the newest event's time.")


class RankedList(Reply):
    """Hold one of several lists."""

    name: str
    items: list[RankedItem]
    short: str | None = Field(default=None, description="Why there are fewer items than were asked for.")


class Sourced(Facts):
    """Say where an answer comes from."""

    source: str = Field(description="student, content, or popular and then why.")
    why: str | None = Field(default=None, description="Why it is not the student's.")
    popularity: PopularityFacts | None = Field(default=None, description="How uses are counted, where popular items are answered.")
    labels: dict[str, Any] | None = Field(default=None, description="Which labels the teachers' parts are of, where `explain` was asked for.")
    short: str | None = Field(default=None, description="Why there are fewer items than were asked for.")
    missing: str | None = Field(default=None, description="Why the user's history could not be taken into account, where it is kept in Redis.")


class Recommendation(Sourced):
    """Recommend items, or several lists of them."""

    items: list[RankedItem] = Field(default=[], description="Best first.")
    lists: list[RankedList] | None = Field(default=None, description="In place of items, where lists were asked for.")
    user_events: int = Field(description="So many events of the user were used.")
    content_part: str | None = Field(default=None, description="Where the part of the items' words is.")


class SimilarItems(Sourced):
    """List items like given ones."""

    items: list[RankedItem]
    unknown: list[str] | None = Field(default=None, description="Those of the given ones that the version does not know.")


class LeftOut(Reply):
    """Say why a candidate was not ranked."""

    item_id: str
    why: str


class RankedCandidates(Sourced):
    """Put candidates in order."""

    items: list[RankedItem]
    left_out: list[LeftOut]
    user_events: int
    content_part: str | None = None


class PopularItems(Sourced):
    """List what is popular."""

    items: list[RankedItem]


class ItemFacts(Facts):
    """Say what is known of an item; what nobody has said is absent."""

    item_id: str
    namespace: str
    title: str | None = None
    categories: list[str] | None = None
    price: float | None = None
    locale: str | None = None
    available: bool
    in_model: bool = Field(description="Whether the live version has it, so that it can be recommended.")


class HistoryEntry(Reply):
    """Name an item that a user had, and when."""

    item_id: str
    event_time: int


class UserFacts(Facts):
    """Say what serving knows of a user."""

    user_id: str
    namespace: str
    items: list[HistoryEntry] = Field(description="Newest first.")
    why: str | None = Field(default=None, description="Why there are none.")


class EventResult(Reply):
    """Say what became of one event."""

    status: str = Field(description="accepted or rejected.")
    partition: int | None = None
    offset: int | None = None
    reason: str | None = Field(default=None, description="Why it was rejected, a code.")
    detail: str | None = Field(default=None, description="What was wrong with it.")

    @property
    def is_accepted(self) -> bool:
        """Return whether the broker has it."""
        return self.status == "accepted"


class EventResults(Reply):
    """Say what became of each event, in order."""

    results: list[EventResult]
    accepted: int
    rejected: int


class Written(EventResult, Named):
    """Acknowledge an item update or a deletion."""

    event_id: str


class Moved(Named):
    """Say what the registry's alias did."""

    number: int
    action: str
    version: str
    trail: list[str] = Field(description="Where a rollback goes, nearest first.")
    reason: str
    at_ms: int


class Turned(Reply):
    """Say who turned a switch, when and why."""

    by: str
    reason: str
    at_ms: int
    version: str = Field(description="The one that is held live; empty of other switches.")


class SwitchFacts(Named):
    """Say what holds the stream."""

    number: int = Field(description="Of the newest turn, from 1; 0 while there was none.")
    paused: Turned | None = None
    frozen: Turned | None = None
    held: dict[str, Turned] = Field(description="By student: the version that stays live.")
    in_force: list[str] = Field(description="All of it, a sentence each.")


class IndexFacts(Reply):
    """Say how a namespace is searched."""

    kind: str = Field(description="exact, or lists of which some are read.")
    overlap: float = Field(description="Share of the exact best 20 that was found when the index was built, of 1.")
    lists: int | None = None
    read: int | None = Field(default=None, description="How many lists an answer of 20 reads.")


class LiveVersion(Reply):
    """Describe a version on a replica."""

    model_version: str
    model_age_s: float | None = None
    offsets: dict[str, dict[str, int]] | None = Field(default=None, description="By topic and partition: what it learned from, exclusive.")
    items: int | None = None
    dim: int | None = None
    namespaces: list[str] | None = None
    index: dict[str, IndexFacts] | None = Field(default=None, description="How each namespace is searched.")


class Models(Reply):
    """Show what serves on one replica and where it stands; further facts are counters."""

    replica: str
    live: LiveVersion | None
    previous: LiveVersion | None = None
    answers: dict[str, int] | None = Field(default=None, description="How many, by source.")
    limits: dict[str, Any] | None = Field(default=None, description="How many requests were late, wait, and were shed.")


class Health(Reply):
    """Say that a replica lives."""

    status: str
    replica: str


class Ready(Health):
    """Say which version is live."""

    model_version: str
