"""Count a replica's requests, and say what it counts; one replica answers ``GET /metrics`` for all, because nobody can choose whom they ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve.http import Message, Send
from streamrec.clock import Clock
from streamrec.serving.history_writer import WRITING
from streamrec.telemetry.numbers import Numbers, Series, show
from streamrec.telemetry.table import BY_NAME

_KNOWN = frozenset({"recommend", "similar", "rank", "popular", "items", "users", "events", "models", "stream", "system", "live"})
_OTHERS = {"/healthz": "probe", "/readyz": "probe", "/metrics": "metrics", "/openapi.json": "document", "/": "dashboard"}
# Answers that go on until the client leaves say nothing of how quickly there is one.
_LASTING = frozenset({"live"})
_BOUNDS = BY_NAME["streamrec_request_seconds"].buckets


class Requests:
    """Count requests by route and status, and time them.

    Args:
        numbers: The replica's.
        clock: Tells how long an answer takes.
    """

    def __init__(self, numbers: Numbers, clock: Clock) -> None:
        self._numbers = numbers
        self.now_s = clock.monotonic_s
        self._counts: dict[tuple[str, int], Series] = {}
        self._times: dict[str, Series] = {}

    def answered(self, path: str, status: int, began_s: float) -> None:
        """Count a request that is answered."""
        route = route_of(path)
        count = self._counts.get((route, status))
        if count is None:
            count = self._counts[route, status] = self._numbers.series("streamrec_requests_total", route=route, status=str(status))
            if route not in _LASTING:
                self._times[route] = self._numbers.series("streamrec_request_seconds", route=route)
        count.value += 1.0
        if route in self._times:
            show(self._times[route], _BOUNDS, self.now_s() - began_s)


class Watched:
    """Pass an answer on, and remember its status; 0 before it has begun, which a client does not see that has gone.

    Args:
        send: Where it goes.
    """

    __slots__ = ("_send", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    async def __call__(self, message: Message) -> None:
        """Pass a message on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


def route_of(path: str) -> str:
    """Return a path's route without what is the request's own: there are few, whatever clients ask for.

    Example:
        >>> route_of("/v1/recommend/u1"), route_of("/v1/models/v00000012:promote"), route_of("/wp-login.php")
        ('recommend', 'models', 'other')
    """
    if path.startswith("/v1/"):
        name = path[4:].split("/", 1)[0].split(":", 1)[0]
        return name if name in _KNOWN else "other"
    return "dashboard" if path.startswith("/dashboard/") else _OTHERS.get(path, "other")


def put_facts(numbers: Numbers, facts: Mapping[str, Any], num_late: int, num_shed: int) -> None:
    """Put what a replica counts elsewhere.

    Args:
        numbers: The replica's.
        facts: See `serve.replica.Replica.facts`.
        num_late: Recommendations that could not come in time.
        num_shed: Requests beyond what may wait.
    """
    for source, num in facts["answers"].items():
        numbers.put("streamrec_answers_total", num, source=source)
    for outcome, num in (facts["events"] or {}).items():
        numbers.put("streamrec_posted_events_total", num, outcome=outcome)
    for outcome, num in (("swapped", facts["slot"]["swaps"]), ("refused", facts["slot"]["rejected"])):
        numbers.put("streamrec_swaps_total", num, outcome=outcome)
    for why, num in (("late", num_late), ("shed", num_shed)):
        numbers.put("streamrec_refused_total", num, why=why)
    if (live := facts["live"]) is not None:
        numbers.put("streamrec_model_age_seconds", live["model_age_s"])
        numbers.put("streamrec_model_promotion", facts["board"]["seq"])
    if (view := facts["history_view"]) is not None:
        numbers.put("streamrec_history_users", view["users"])
        numbers.put("streamrec_history_events_total", view["applied"])
        shared = view.get("shared", {})
        numbers.put("streamrec_history_writer", float(shared.get("writer") in WRITING))
        numbers.put("streamrec_history_unread_total", shared.get("unread", 0))
