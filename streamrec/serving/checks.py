"""Check parts of requests against bounds, and refuse with the field, what was got and what is allowed."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson

from streamrec.config import MAX_NAMESPACE_BYTES, MAX_NAMESPACE_CHARS
from streamrec.errors import RequestError
from streamrec.serving.replies import CODES

MAX_SHOWN_CHARS = 120
"""Of what was got so much is shown."""
MAX_DEADLINE_MS = 3_600_000

_INT_BOUND = 2**63  # JSON is written with integers of 64 bits.


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


def parse_json(body: bytes) -> Any:
    """Parse a body as JSON.

    Raises:
        RequestError: It is not JSON; the place is named.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        refuse_no_json(error, body[:MAX_SHOWN_CHARS].decode("utf-8", "replace"))


def refuse_no_json(error: json.JSONDecodeError, shown: str) -> NoReturn:
    """Refuse a body that is not JSON.

    Raises:
        RequestError: Always.
    """
    what = f"Request: the body is not JSON ({error.msg} at line {error.lineno} column {error.colno})"
    refuse("body", shown, "one JSON document in UTF-8", what)


def refuse(field: str, got: object, allowed: str, what: str = "") -> NoReturn:
    """Refuse a request, naming the field, what was got (shortened) and what is allowed.

    Raises:
        RequestError: Always, with the facts ``field``, ``shown`` and ``bounds``.
    """
    shown = _shown(got)
    raise RequestError(
        what or f"Request: {field} is out of bounds",
        got=repr(shown) if isinstance(shown, str) else shown,
        allowed=allowed,
        do=f"correct {field}",
        field=field,
        shown=shown,
        bounds=allowed,
    )


def _shown(got: object) -> str | float | bool | None:
    if got is None or isinstance(got, bool | float) or (isinstance(got, int) and abs(got) < _INT_BOUND):
        return got
    try:
        return (orjson.dumps(got).decode() if isinstance(got, dict | list) else str(got))[:MAX_SHOWN_CHARS]
    except (RecursionError, ValueError, TypeError):  # Nested more deeply, or with more digits, than Python writes down.
        return f"a huge {type(got).__name__}"


def error_body(error: RequestError) -> dict[str, Any]:
    """Return the JSON object that tells the client what to correct.

    Example:
        >>> error_body(RequestError("Request: n is out of bounds", field="n", shown=0, bounds="1 to 500"))["error"]["got"]
        0
    """
    facts = error.facts
    what = {"field": facts.get("field"), "got": facts.get("shown"), "allowed": facts.get("bounds")}
    return {"error": {"code": CODES[400], **what, "message": str(error)}}


def check_n(value: object, limits: RequestLimits) -> int:
    """Return a number of items that is within the bounds."""
    if type(value) is not int or not 1 <= value <= limits.max_n:
        refuse("n", value, f"1 to {limits.max_n}")
    return value


def check_id(value: object, field: str, limits: RequestLimits) -> str:
    """Return an id that is within the bounds."""
    if not isinstance(value, str) or not value:
        refuse(field, value, "a non-empty string")
    if len(value) > limits.max_id_bytes or (not value.isascii() and len(value.encode()) > limits.max_id_bytes):
        refuse(field, f"{len(value)} characters", f"at most {limits.max_id_bytes} bytes")
    return value


def check_ids(value: object, field: str, limits: RequestLimits) -> tuple[str, ...]:
    """Return a list of ids that is within the bounds."""
    if not isinstance(value, list):
        refuse(field, type(value).__name__, "a list of item ids")
    if len(value) > limits.max_history:
        refuse(field, f"{len(value)} ids", f"at most {limits.max_history} ids")
    return tuple([check_id(item, field, limits) for item in value])


def check_deadline(value: object) -> float:
    """Return a number of milliseconds that a client may wait."""
    if type(value) not in {int, float} or not isinstance(value, int | float) or not 0 < value <= MAX_DEADLINE_MS:
        refuse("deadline_ms", value, f"more than 0, up to {MAX_DEADLINE_MS}")
    return value


def check_namespace(value: object) -> str:
    """Return a namespace that is within the bounds."""
    is_text = isinstance(value, str) and 1 <= len(value) <= MAX_NAMESPACE_CHARS
    if not isinstance(value, str) or not is_text or len(value.encode("utf-8", "surrogatepass")) > MAX_NAMESPACE_BYTES:
        refuse("namespace", value, f"a string of 1 to {MAX_NAMESPACE_CHARS} characters and {MAX_NAMESPACE_BYTES} bytes")
    return value


def refuse_unknown(values: Mapping[str, Any], allowed: tuple[str, ...]) -> NoReturn:
    """Refuse the first field that is not allowed, with the nearest one that is.

    Raises:
        RequestError: Always.
    """
    unknown = next(name for name in values if name not in allowed)[:MAX_SHOWN_CHARS]
    near = difflib.get_close_matches(unknown, allowed, n=1, cutoff=0.6)
    hint = f" (did you mean {near[0]}?)" if near else ""
    refuse(unknown, "an unknown field", f"{', '.join(allowed)}{hint}", f"Request: unknown field {unknown!r}")
