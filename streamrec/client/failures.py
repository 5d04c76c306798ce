"""Tell what an attempt came to: an answer, or a failure with what it means for the next attempt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import Any, TypeVar

import httpx2
from pydantic import ValidationError

from streamrec.client.calls import Call
from streamrec.errors import ClientError, NoAnswer, Refused, ServerFailed, TimedOut, TryLater
from streamrec.serving.replies import ErrorReply

T = TypeVar("T")

_OK = 200
_BUSY, _AWAY = 429, 503
_GATEWAY_TIMED_OUT = 504
_SERVER_ERRORS = range(500, 600)
_SHOWN = 200


class Again(Enum):
    """Say when a request may be sent again."""

    NEVER = auto()
    NOTHING_HAPPENED = auto()
    """Always: the request was not looked at."""
    IF_REPEATABLE = auto()
    AFTER_BREAK = auto()
    """If repeatable, and seldom."""


@dataclass(frozen=True)
class Failure:
    """Describe an attempt without a good answer.

    Attributes:
        kind: What is raised if there is no other attempt.
        what: Noun and event.
        again: Whether there may be another.
        do: The remedy.
        retry_after_s: How long the server asks to wait.
        facts: For the error.
    """

    kind: type[ClientError]
    what: str
    again: Again
    do: str = ""
    retry_after_s: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def read_answer(call: Call[T], status: int, headers: Mapping[str, str], body: bytes, request_id: str) -> T | Failure:
    """Return the answer, or what is wrong with it."""
    if status == _OK or (call.reads_refusals and status in {400, 403} and b'"results"' in body):
        try:
            return call.read(body)
        except ValueError as error:  # Pydantic's and the JSON reader's own are kinds of it.
            what = f"Client: the answer to {call.method} {call.path} can't be read ({str(error).splitlines()[0]})"
            return Failure(ServerFailed, what, Again.NEVER, "check that the URL is a streamrec server's", None, _facts(status, request_id))
    return _refused(call, status, headers, body, request_id)


def _refused(call: Call[Any], status: int, headers: Mapping[str, str], body: bytes, request_id: str) -> Failure:
    facts, wait_s = _facts(status, request_id), _retry_after_s(headers.get("retry-after"))
    if wait_s is not None:
        facts["retry_after_s"] = wait_s
    try:
        error = ErrorReply.model_validate_json(body).error
    except ValidationError:
        shown = body[:_SHOWN].decode("utf-8", "replace").strip()
        what = f"Client: {call.method} {call.path} was answered with status {status} by something that is not the server ({shown or 'an empty body'})"
        return Failure(*_of_a_proxy(status, what), "", wait_s, facts)
    facts |= {"code": error.code, "field": error.field, "shown": error.got, "bounds": error.allowed}
    what = f"{error.message} (status {status}, request {request_id})"
    if status == _BUSY:
        return Failure(TryLater, what, Again.NOTHING_HAPPENED, "", wait_s, facts)
    if status == _AWAY:
        return Failure(TryLater, what, Again.IF_REPEATABLE, "", wait_s, facts)
    return Failure(ServerFailed if status in _SERVER_ERRORS else Refused, what, Again.NEVER, "", wait_s, facts)


def _of_a_proxy(status: int, what: str) -> tuple[type[ClientError], str, Again]:
    """Judge an answer that is not the server's own: a proxy in front of it says what it saw."""
    if status in {_BUSY, _AWAY}:
        return TryLater, what, Again.IF_REPEATABLE
    if status == _GATEWAY_TIMED_OUT:
        return TimedOut, what, Again.NEVER
    if status in _SERVER_ERRORS:  # Its server died in the middle.
        return ServerFailed, what, Again.AFTER_BREAK
    return Refused, what, Again.NEVER


def of_transport(call: Call[Any], error: httpx2.TransportError, url: str, request_id: str) -> Failure:
    """Return what it means that there was no whole answer."""
    told = str(error) or type(error).__name__
    facts = {"request_id": request_id}
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout):
        kind = NoAnswer if isinstance(error, httpx2.ConnectError) else TimedOut
        return Failure(kind, f"Client: {url} can't be reached ({told})", Again.NOTHING_HAPPENED, "start the server, or correct the URL", None, facts)
    if isinstance(error, httpx2.TimeoutException):
        return timed_out(call, request_id)
    if isinstance(error, httpx2.ReadError | httpx2.WriteError | httpx2.CloseError | httpx2.RemoteProtocolError):
        what = f"Client: the connection broke during {call.method} {call.path} ({told})"
        return Failure(NoAnswer, what, Again.AFTER_BREAK, "send it again", None, facts)
    what = f"Client: {call.method} {call.path} can't be sent ({told})"
    return Failure(NoAnswer, what, Again.NEVER, "correct the URL, the key or the proxy's settings", None, facts)


def timed_out(call: Call[Any], request_id: str) -> Failure:
    """Return what it means that no answer came in time: the server may be at it still, so it isn't given the same once more."""
    what = f"Client: {call.method} {call.path} was not answered in time"
    return Failure(TimedOut, what, Again.NEVER, "", None, {"request_id": request_id})


def _facts(status: int, request_id: str) -> dict[str, Any]:
    return {"status": status, "request_id": request_id}


def _retry_after_s(value: str | None) -> float | None:
    """Return a header's seconds; proxies may send a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
