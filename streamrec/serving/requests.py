"""Parse and bound requests for recommendations; pure, so that every refusal is tested without a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import parse_qsl

from streamrec.serving.bodies import SEEN_IS, RecommendBody, SeenScope, parse_body
from streamrec.serving.checks import (
    MAX_SHOWN_CHARS,
    RequestLimits,
    check_deadline,
    check_id,
    check_ids,
    check_n,
    check_namespace,
    parse_json,
    refuse,
    refuse_unknown,
)
from streamrec.serving.filters import Extras, Filters, ListRequest, Seen

DEFAULT_N = 20
_MAX_DIGITS = 18
_PLAIN_FIELDS = frozenset({"user_id", "history", "namespace", "n", "exclude", "exclude_seen", "context", "deadline_ms"})
_QUERY_FIELDS = ("n", "namespace", "exclude_seen")
_BOOLS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class Known:
    """Hold what was found of a user beside the replica.

    Attributes:
        item_ids: Newest last.
        missing: Why nothing could be found out, "" where it could.
    """

    item_ids: tuple[str, ...] = ()
    missing: str = ""


@dataclass(frozen=True, slots=True)
class RecommendRequest:
    """Ask for items.

    Attributes:
        user_id: Whose history is used; None when only ``history`` is given.
        history: Item ids, newest last, used in place of what is known of the user; None uses what is known.
        namespace: Whose items are candidates.
        n: How many items.
        exclude: Item ids that may not be returned.
        exclude_seen: Whether the user's known items and ``history`` may not be returned either.
        context: Flat facts about the moment; checked and carried, this student does not use them.
        deadline_ms: How long the client waits; None for as long as it takes.
        is_late: Whether that is over, so that no vectors are searched.
        extras: What only some requests ask for; None in the plain ones, whose way stays short.
        known: The user's items, newest last, where histories are kept beside the replica; None where the view has them.
    """

    user_id: str | None
    namespace: str
    history: tuple[str, ...] | None = None
    n: int = DEFAULT_N
    exclude: tuple[str, ...] = ()
    exclude_seen: bool = True
    context: Mapping[str, str | float | bool] | None = None
    deadline_ms: float | None = None
    is_late: bool = False
    extras: Extras | None = None
    known: Known | None = None


def parse_recommend(body: bytes, limits: RequestLimits) -> RecommendRequest:
    """Parse the body of ``POST /v1/recommend``.

    Raises:
        RequestError: With the field, what was got and what is allowed.
    """
    values = parse_json(body)
    if not isinstance(values, dict):
        refuse("body", values, "a JSON object")
    user_id, history = values.get("user_id"), values.get("history")
    if not values.keys() <= _PLAIN_FIELDS or type(values.get("exclude_seen")) is dict:
        return _in_full(parse_body(RecommendBody, values, limits), limits)
    if user_id is None and history is None:
        _refuse_nobody()
    return RecommendRequest(
        user_id=None if user_id is None else check_id(user_id, "user_id", limits),
        namespace=check_namespace(values["namespace"]) if values.get("namespace") is not None else limits.namespace,
        history=None if history is None else check_ids(history, "history", limits),
        n=check_n(values["n"], limits) if "n" in values else min(DEFAULT_N, limits.max_n),
        exclude=check_ids(values["exclude"], "exclude", limits) if "exclude" in values else (),
        exclude_seen=_bool(values["exclude_seen"]) if "exclude_seen" in values else True,
        context=_context(values["context"]) if values.get("context") is not None else None,
        deadline_ms=check_deadline(values["deadline_ms"]) if values.get("deadline_ms") is not None else None,
    )


def _in_full(body: RecommendBody, limits: RequestLimits) -> RecommendRequest:
    if body.user_id is None and body.history is None:
        _refuse_nobody()
    own, n = Filters.of(body), body.n if "n" in body.model_fields_set else min(DEFAULT_N, limits.max_n)
    seen = _seen(body.exclude_seen)
    lists = []
    for one in body.lists or ():
        exclude = one.exclude if "exclude" in one.model_fields_set else body.exclude
        mine = seen if one.exclude_seen is None else _seen(one.exclude_seen)
        lists.append(ListRequest(one.name, one.n or n, own.replaced_by(one), tuple(exclude), mine))
    return RecommendRequest(
        user_id=body.user_id,
        namespace=body.namespace or limits.namespace,
        history=None if body.history is None else tuple(body.history),
        n=n,
        exclude=tuple(body.exclude),
        exclude_seen=seen.is_excluded,
        context=body.context,
        deadline_ms=None if body.deadline_ms is None else check_deadline(body.deadline_ms),
        extras=Extras(own, seen, tuple(lists), body.repeat_items, body.explain),
    )


def _seen(said: bool | SeenScope) -> Seen:
    return Seen(last=said.last) if isinstance(said, SeenScope) else Seen(said)


def _refuse_nobody() -> NoReturn:
    refuse("user_id", None, "a user_id, a history, or both", "Request: nobody to recommend to")


def parse_recommend_query(user_id: str, query: bytes, limits: RequestLimits) -> RecommendRequest:
    """Parse the path's user and the query string of ``GET /v1/recommend/{user_id}``.

    Raises:
        RequestError: See `parse_recommend`.
    """
    values = parse_query(query)
    if not values.keys() <= set(_QUERY_FIELDS):
        refuse_unknown(values, _QUERY_FIELDS)
    n = values.get("n")
    seen = values.get("exclude_seen", "true")
    if seen.lower() not in _BOOLS:
        refuse("exclude_seen", seen, "true or false")
    if n is not None and not (n.isascii() and n.removeprefix("-").isdigit() and len(n) <= _MAX_DIGITS):
        refuse("n", n, f"1 to {limits.max_n}")
    return RecommendRequest(
        user_id=check_id(user_id, "user_id", limits),
        namespace=check_namespace(values["namespace"]) if "namespace" in values else limits.namespace,
        n=min(DEFAULT_N, limits.max_n) if n is None else check_n(int(n), limits),
        exclude_seen=_BOOLS[seen.lower()],
    )


def parse_query(query: bytes, several: str = "") -> dict[str, str]:
    """Return the parameters of a query string, of ``several`` the last one.

    Raises:
        RequestError: Another is given twice, so that somebody on the way may have read the other value.
    """
    pairs = parse_qsl(query.decode("ascii", "replace"), keep_blank_values=True)
    values = dict(pairs)
    if len(values) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen and name != several:
                refuse(name[:MAX_SHOWN_CHARS], "several values", "one", "Request: a parameter is given more than once")
            seen.add(name)
    return values


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        refuse("exclude_seen", value, SEEN_IS)
    return value


def _context(value: object) -> Mapping[str, str | float | bool]:
    if not isinstance(value, dict):
        refuse("context", type(value).__name__, "an object of strings, numbers and booleans")
    for name, cell in value.items():
        if not isinstance(cell, str | int | float | bool):
            refuse(f"context.{name[:MAX_SHOWN_CHARS]}", type(cell).__name__, "a string, a number or a boolean")
    return value
