"""Parse and bound HTTP requests; pure, so that every refusal is tested without a server."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import parse_qsl

import orjson

from streamrec.config import MAX_NAMESPACE_BYTES, MAX_NAMESPACE_CHARS
from streamrec.errors import RequestError

DEFAULT_N = 20
_MAX_SHOWN_CHARS = 120
_BODY_FIELDS = ("user_id", "history", "namespace", "n", "exclude", "exclude_seen", "context")
_QUERY_FIELDS = ("n", "namespace", "exclude_seen")
_BOOLS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Bound what a request may ask for.

    Attributes:
        namespace: What a request without one asks.
        max_n: Most items of one answer.
        max_history: Most ids in ``history``, and in ``exclude``.
        max_id_bytes: Longest id.
    """

    namespace: str = "default"
    max_n: int = 500
    max_history: int = 1000
    max_id_bytes: int = 512


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
    """

    user_id: str | None
    namespace: str
    history: tuple[str, ...] | None = None
    n: int = DEFAULT_N
    exclude: tuple[str, ...] = ()
    exclude_seen: bool = True
    context: Mapping[str, str | float | bool] | None = None


def parse_recommend(body: bytes, limits: RequestLimits) -> RecommendRequest:
    """Parse the body of ``POST /v1/recommend``.

    Raises:
        RequestError: With the field, what was got and what is allowed.
    """
    values = parse_json(body)
    if not isinstance(values, dict):
        refuse("body", values, "a JSON object")
    if not values.keys() <= set(_BODY_FIELDS):
        _refuse_unknown(values, _BODY_FIELDS)
    user_id, history = values.get("user_id"), values.get("history")
    if user_id is None and history is None:
        refuse("user_id", None, "a user_id, a history, or both", "Request: nobody to recommend to")
    return RecommendRequest(
        user_id=None if user_id is None else _id(user_id, "user_id", limits),
        namespace=_namespace(values["namespace"]) if values.get("namespace") is not None else limits.namespace,
        history=None if history is None else _ids(history, "history", limits),
        n=_n(values["n"], limits) if "n" in values else min(DEFAULT_N, limits.max_n),
        exclude=_ids(values["exclude"], "exclude", limits) if "exclude" in values else (),
        exclude_seen=_bool(values["exclude_seen"]) if "exclude_seen" in values else True,
        context=_context(values["context"]) if values.get("context") is not None else None,
    )


def parse_recommend_query(user_id: str, query: bytes, limits: RequestLimits) -> RecommendRequest:
    """Parse the path's user and the query string of ``GET /v1/recommend/{user_id}``.

    Raises:
        RequestError: See `parse_recommend`.
    """
    values = dict(parse_qsl(query.decode("ascii", "replace"), keep_blank_values=True))
    if not values.keys() <= set(_QUERY_FIELDS):
        _refuse_unknown(values, _QUERY_FIELDS)
    n = values.get("n")
    seen = values.get("exclude_seen", "true")
    if seen.lower() not in _BOOLS:
        refuse("exclude_seen", seen, "true or false")
    if n is not None and not (n.isascii() and n.lstrip("-").isdigit() and len(n) <= 20):
        refuse("n", n, f"1 to {limits.max_n}")
    return RecommendRequest(
        user_id=_id(user_id, "user_id", limits),
        namespace=_namespace(values["namespace"]) if "namespace" in values else limits.namespace,
        n=min(DEFAULT_N, limits.max_n) if n is None else _n(int(n), limits),
        exclude_seen=_BOOLS[seen.lower()],
    )


def parse_json(body: bytes) -> Any:
    """Parse a body as JSON.

    Raises:
        RequestError: It is not JSON; the place is named.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        what = f"Request: the body is not JSON ({error.msg} at line {error.lineno} column {error.colno})"
        refuse("body", body[:_MAX_SHOWN_CHARS].decode("utf-8", "replace"), "one JSON document in UTF-8", what)


def refuse(field: str, got: object, allowed: str, what: str = "") -> NoReturn:
    """Refuse a request, naming the field, what was got (shortened) and what is allowed.

    Raises:
        RequestError: Always, with the facts ``field``, ``shown`` and ``bounds``.
    """
    shown = got if isinstance(got, int | float | bool) or got is None else str(got)[:_MAX_SHOWN_CHARS]
    raise RequestError(
        what or f"Request: {field} is out of bounds",
        got=repr(shown) if isinstance(shown, str) else shown,
        allowed=allowed,
        do=f"correct {field}",
        field=field,
        shown=shown,
        bounds=allowed,
    )


def error_body(error: RequestError) -> dict[str, Any]:
    """Return the JSON object that tells the client what to correct.

    Example:
        >>> error_body(RequestError("Request: n is out of bounds", field="n", shown=0, bounds="1 to 500"))["error"]["got"]
        0
    """
    facts = error.facts
    return {"error": {"field": facts.get("field"), "got": facts.get("shown"), "allowed": facts.get("bounds"), "message": str(error)}}


def _n(value: object, limits: RequestLimits) -> int:
    if type(value) is not int or not 1 <= value <= limits.max_n:
        refuse("n", value, f"1 to {limits.max_n}")
    return value


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        refuse("exclude_seen", value, "true or false")
    return value


def _id(value: object, field: str, limits: RequestLimits) -> str:
    if not isinstance(value, str) or not value:
        refuse(field, value, "a non-empty string")
    if len(value) > limits.max_id_bytes or (not value.isascii() and len(value.encode()) > limits.max_id_bytes):
        refuse(field, f"{len(value)} characters", f"at most {limits.max_id_bytes} bytes")
    return value


def _ids(value: object, field: str, limits: RequestLimits) -> tuple[str, ...]:
    if not isinstance(value, list):
        refuse(field, type(value).__name__, "a list of item ids")
    if len(value) > limits.max_history:
        refuse(field, f"{len(value)} ids", f"at most {limits.max_history} ids")
    return tuple([_id(item, field, limits) for item in value])


def _namespace(value: object) -> str:
    is_text = isinstance(value, str) and 1 <= len(value) <= MAX_NAMESPACE_CHARS
    if not isinstance(value, str) or not is_text or len(value.encode("utf-8", "surrogatepass")) > MAX_NAMESPACE_BYTES:
        refuse("namespace", value, f"a string of 1 to {MAX_NAMESPACE_CHARS} characters and {MAX_NAMESPACE_BYTES} bytes")
    return value


def _context(value: object) -> Mapping[str, str | float | bool]:
    if not isinstance(value, dict):
        refuse("context", type(value).__name__, "an object of strings, numbers and booleans")
    for name, cell in value.items():
        if not isinstance(cell, str | int | float | bool):
            refuse(f"context.{name[:_MAX_SHOWN_CHARS]}", type(cell).__name__, "a string, a number or a boolean")
    return value


def _refuse_unknown(values: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    unknown = next(name for name in values if name not in allowed)[:_MAX_SHOWN_CHARS]
    near = difflib.get_close_matches(unknown, allowed, n=1, cutoff=0.6)
    hint = f" (did you mean {near[0]}?)" if near else ""
    refuse(unknown, "an unknown field", f"{', '.join(allowed)}{hint}", f"Request: unknown field {unknown!r}")
