"""Describe the bodies of requests as pydantic models: what the OpenAPI document shows, and what checks all but the plainest requests.

The plain ``POST /v1/recommend`` is parsed by hand (`streamrec.serving.requests`), because a model takes several times as long; a test holds that
both take and refuse the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streamrec.config import FLOAT32_MAX, MAX_TIME_MS, MIN_SENT_TIME_MS
from streamrec.errors import RequestError
from streamrec.serving.checks import MAX_DEADLINE_MS, MAX_SHOWN_CHARS, RequestLimits, check_ids, check_n, check_namespace, refuse, refuse_unknown

MAX_LISTS, MOST_LISTED = 20, 2
"""Of one answer; all lists together hold at most so many times what one may: a replica answers nobody else meanwhile."""
MOST_LETTERS, MOST_VERSIONS = 200, 50
"""Of one answer: each letter and each version is read from the log or from storage."""
SEEN_IS = 'true or false, or {"last": NUMBER}, 1 or more'

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Place = Annotated[str, Field(min_length=1, max_length=300)]
Money = Annotated[float, Field(allow_inf_nan=False)]
Float32 = Annotated[float, Field(ge=-FLOAT32_MAX, le=FLOAT32_MAX, allow_inf_nan=False)]
EventTime = Annotated[int, Field(ge=MIN_SENT_TIME_MS, le=MAX_TIME_MS, description="Milliseconds since the epoch.")]


_SOMEBODY: list[Any] = [
    {"required": ["user_id"], "properties": {"user_id": {"type": "string"}}},
    {"required": ["history"], "properties": {"history": {"type": "array"}}},
]


class Body(BaseModel):
    """Take exactly the fields that are declared, in exactly their types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class FilterFields(Body):
    """Say which items may be returned. An item of which the asked field is not known does not pass."""

    categories: list[Text] | None = Field(default=None, min_length=1, description="Items in at least one of them.")
    min_price: Money | None = Field(default=None, description="Items that cost at least so much.")
    max_price: Money | None = Field(default=None, description="Items that cost at most so much.")
    locale: Text | None = Field(default=None, description="Items whose texts are in this language; without a region, such as en, in all regions.")
    available: bool = Field(default=True, description="Whether items that can't be had are left out.")
    items: list[Text] | None = Field(default=None, description="Only these.")
    exclude: list[Text] = Field(default=[], description="None of these.")


class SeenScope(Body):
    """Say which items count as seen."""

    last: Count = Field(description="Only so many of the newest, of those that are known of the user and of a history that is given.")


class ListBody(FilterFields):
    """Ask for one of several lists; what it does not say is as the request says."""

    name: Text = Field(description="What the answer calls the list.")
    n: Count | None = Field(default=None, description="How many items.")
    exclude_seen: bool | SeenScope | None = Field(default=None, description="Whether known items, or the newest of them, are left out of this list.")


class WhoBody(Body):
    """Say for whom."""

    user_id: Text | None = Field(default=None, description="Whose history is used.")
    history: list[Text] | None = Field(default=None, description="Item ids, newest last, used in place of what is known of the user.")
    namespace: str | None = Field(default=None, description="Whose items; events.namespace without it.")


class RecommendBody(WhoBody, FilterFields):
    """Ask for items: a user_id, a history, or both."""

    model_config = ConfigDict(json_schema_extra={"anyOf": _SOMEBODY})

    n: Count = Field(default=20, description="How many items, at most serving.max_n.")
    exclude_seen: bool | SeenScope = Field(default=True, description="Whether known items and the history, or the newest of them, are left out.")
    context: dict[str, str | float | bool] | None = Field(default=None, description="Flat facts about the moment; this student does not use them.")
    deadline_ms: Money | None = Field(
        default=None, gt=0, le=MAX_DEADLINE_MS, description="Milliseconds; an answer that would come later is the popular items, its why is deadline."
    )
    lists: list[ListBody] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_LISTS,
        description="Several lists in one answer, which together hold at most twice serving.max_n items.",
    )
    repeat_items: bool = Field(default=False, description="Whether an item may be in several lists.")
    explain: bool = Field(default=False, description="Whether each item says what moved it.")


class SimilarBody(FilterFields):
    """Ask for items like given ones."""

    like: list[Text] = Field(min_length=1, description="The items.")
    namespace: str | None = Field(default=None, description="Whose items; events.namespace without it.")
    n: Count = Field(default=20, description="How many items, at most serving.max_n.")


class RankBody(WhoBody):
    """Ask for given candidates in order of score."""

    candidates: list[Text] = Field(min_length=1, description="The items.")
    n: Count | None = Field(default=None, description="How many of the best; all without it.")
    available: bool = Field(default=True, description="Whether items that can't be had are left out.")
    explain: bool = Field(default=False, description="Whether each item says what moved it.")


class ItemBody(Body):
    """Say something of an item; fields that are absent change nothing."""

    title: str | None = None
    description: str | None = None
    categories: list[str] | None = None
    price: Money | None = None
    locale: str | None = None
    available: bool | None = None
    vectors: dict[str, list[Float32]] | None = Field(default=None, description="Embeddings by modality.")
    event_time: EventTime | None = Field(default=None, description="Now without it; not later than now plus events.future_tolerance_s.")
    event_id: Text | None = Field(default=None, description="For sending again; a new one without it.")


class ReasonBody(Body):
    """Say why a version is moved."""

    reason: Annotated[str, Field(min_length=1, max_length=500)] = "asked by HTTP"


class WhereQuery(BaseModel):
    """Say in which namespace."""

    model_config = ConfigDict(extra="forbid")

    namespace: str | None = Field(default=None, description="events.namespace without it.")


class PopularQuery(WhereQuery):
    """Ask for popular items."""

    n: Count = Field(default=20, description="How many items, at most serving.max_n.")
    category: list[Text] | None = Field(default=None, description="Items in at least one of them; give it several times.")


class UserQuery(WhereQuery):
    """Ask for a user's items."""

    n: Count = Field(default=20, description="How many items, at most serving.max_n.")
    exclude_seen: bool = Field(default=True, description="Whether the user's known items are left out.")


class LettersQuery(BaseModel):
    """Ask for dead letters."""

    model_config = ConfigDict(extra="forbid")

    last: int = Field(default=50, ge=1, le=MOST_LETTERS, description="How many of the newest.")


class HistoryQuery(BaseModel):
    """Ask for versions and moves."""

    model_config = ConfigDict(extra="forbid")

    last: int = Field(default=12, ge=1, le=MOST_VERSIONS, description="How many of the newest of each.")


class PlacesBody(Body):
    """Name dead letters."""

    places: list[Place] = Field(min_length=1, max_length=MOST_LETTERS, description="TOPIC/PARTITION/OFFSET of rejected records, as the letters say.")


B = TypeVar("B", bound=Body)


def parse_body(kind: type[B], values: Any, limits: RequestLimits) -> B:
    """Return a body that is valid and within the bounds.

    Raises:
        RequestError: With the field, what was got and what is allowed.
    """
    if not isinstance(values, dict):
        refuse("body", values, "a JSON object")
    if not values.keys() <= kind.model_fields.keys():
        refuse_unknown(values, tuple(kind.model_fields))
    try:
        body = kind.model_validate(values)
    except ValidationError as error:
        refuse_invalid(error.errors(include_url=False)[0])
    check_bounds(body, limits)
    return body


def refuse_invalid(fault: Mapping[str, Any]) -> NoReturn:
    """Refuse a request by the first fault that pydantic found.

    Raises:
        RequestError: Always.
    """
    if "exclude_seen" in fault["loc"]:  # Pydantic names each kind that it tried.
        place = fault["loc"][: fault["loc"].index("exclude_seen") + 1]
        refuse(".".join(str(part) for part in place), fault["input"], SEEN_IS)
    field = ".".join(str(part) for part in fault["loc"]) or "body"
    if fault["type"] == "missing":  # Pydantic's input is then the whole body.
        what, allowed = f"Request: {field} is missing", "a value"
        raise RequestError(what, allowed=allowed, do=f"add {field}", field=field, shown=None, bounds=allowed)
    if fault["type"] == "too_long":
        refuse(field, f"{fault['ctx']['actual_length']} of them", f"at most {fault['ctx']['max_length']}")
    if fault["type"] == "extra_forbidden":
        refuse(field, "an unknown field", "a field that the document at /openapi.json names", f"Request: unknown field {field[:MAX_SHOWN_CHARS]!r}")
    refuse(field, fault["input"], fault["msg"][:1].lower() + fault["msg"][1:])


def check_bounds(body: Body, limits: RequestLimits) -> None:
    """Refuse what is out of the configured bounds, which models do not know.

    Raises:
        RequestError: With the field, what was got and what is allowed.
    """
    values = dict(body)
    for name in ("items", "exclude", "history", "candidates", "like", "categories"):
        if values.get(name):
            check_ids(values[name], name, limits)
    if values.get("user_id") is not None:
        check_ids([values["user_id"]], "user_id", limits)
    if values.get("n") is not None and "n" in body.model_fields_set:
        check_n(values["n"], limits)
    if values.get("namespace") is not None:
        check_namespace(values["namespace"])
    lists = values.get("lists") or ()
    for one in lists:
        check_bounds(one, limits)
    num_items, most = sum(one.n or values["n"] for one in lists), MOST_LISTED * limits.max_n
    if num_items > most:
        what = "Request: the lists ask for too many items in all"
        refuse("lists", f"{num_items} items", f"at most {most} in all lists of a request", what)
