"""Tell a reader once a second what is counted and what is live, as server-sent events, for the dashboard: ``GET /v1/live``.

No part of the interface that clients are made from: it says what the pages show, and changes with them; programs have ``/metrics`` and
``/v1/models``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from serve.access import Access, Action
from serve.backend import Backend
from serve.http import IS_HEAD, Headers, Receive, Refusal, Scope, Send
from serve.limits import again_after
from streamrec.clock import Clock, SystemClock
from streamrec.telemetry.numbers import Taken
from streamrec.telemetry.table import BY_NAME, TABLE

EVERY_S = 1.0
MOST_READERS = 16
LASTS_S = 300.0
"""Then the reader asks again, and with it for its key, which may have been withdrawn."""

_SHARED_S = 0.5
# So far a frame looks back; whoever has a point already leaves it.
_BACK_MS = 10_000
_STREAM: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
]
_BOUNDS = {metric.name: metric.buckets for metric in TABLE if metric.buckets}
_MODEL = ("model_version", "created_ms", "items", "dim", "digest", "parent", "seed", "metrics", "teachers", "student")


class Live:
    """Send frames to a bounded number of readers.

    Args:
        backend: Whose numbers.
        access: Tells what a reader may do.
        headers: Of every answer of this replica.
        clock: Processing time.
        every_s: From frame to frame.
        lasts_s: Longest time of one answer.
    """

    def __init__(
        self,
        backend: Backend,
        access: Access,
        headers: Headers,
        clock: Clock | None = None,
        every_s: float = EVERY_S,
        lasts_s: float = LASTS_S,
    ) -> None:
        self._backend, self._access, self._headers = backend, access, headers
        self._clock = clock or SystemClock()
        self._every_s, self._lasts_s = every_s, lasts_s
        self._making = asyncio.Lock()
        self._made: tuple[float, bytes] = (-1e9, b"")
        self.num_readers = 0

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send frames until the reader goes.

        Raises:
            Refusal: As many read as may.
        """
        if self.num_readers >= MOST_READERS:
            what = "Live: too many read from this replica at once, ask again later"
            raise Refusal(429, "readers", str(self.num_readers), f"at most {MOST_READERS} at once", what, again_after(5))
        self.num_readers += 1
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await self._send_all(scope, gone, send)
        finally:
            self.num_readers -= 1
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gone

    async def _send_all(self, scope: Scope, gone: asyncio.Future[None], send: Send) -> None:
        ends_s = self._clock.monotonic_s() + self._lasts_s
        await send({"type": "http.response.start", "status": 200, "headers": [*_STREAM, *self._headers]})
        if scope.get(IS_HEAD):
            await send({"type": "http.response.body", "body": b""})
            return
        hello = {"may": may(self._access, scope), "bounds": _BOUNDS, "course": await self._backend.course(0)}
        await send(_message(b"hello", orjson.dumps(hello)))
        while not gone.done() and self._clock.monotonic_s() < ends_s:
            await send(_message(b"frame", await self._frame()))
            await asyncio.wait([gone], timeout=self._every_s)
        await send({"type": "http.response.body", "body": b""})

    async def _frame(self) -> bytes:
        """Return the newest frame; readers of the same moment share one."""
        async with self._making:
            if self._clock.monotonic_s() - self._made[0] > _SHARED_S * self._every_s:
                now_ms = self._clock.now_ms()
                numbers, course = await asyncio.gather(self._backend.all_numbers(), self._backend.course(now_ms - _BACK_MS))
                facts = self._backend.facts()
                models = {name: _model(facts[name]) for name in ("live", "previous")}
                rejection, replica = facts["last_rejection"], facts["replica"]
                frame = {"at_ms": now_ms, "replica": replica, **models, "last_rejection": rejection, "numbers": series(numbers), "course": course}
                self._made = self._clock.monotonic_s(), orjson.dumps(frame, option=orjson.OPT_NON_STR_KEYS)
            return self._made[1]


def series(sources: Iterable[Taken]) -> dict[str, list[dict[str, Any]]]:
    """Return all series by metric: each with its labels, its value, and of a histogram its buckets.

    Example:
        >>> from streamrec.telemetry.numbers import Numbers
        >>> numbers = Numbers()
        >>> numbers.put("streamrec_held", 1, switch="pause")
        >>> series([numbers.taken()])
        {'streamrec_held': [{'switch': 'pause', 'value': 1}]}
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for taken in sources:
        for name, held in taken.items():
            if name not in BY_NAME:  # A newer stream's.
                continue
            for key, one in held.items():
                buckets = {"buckets": one.buckets} if one.buckets else {}
                found.setdefault(name, []).append({**dict(zip(BY_NAME[name].labels, key, strict=True)), "value": one.value, **buckets})
    return found


def may(access: Access, scope: Scope) -> dict[str, Any]:
    """Return whether the reader may move models and, if not, why: found out without moving any."""
    try:
        access.check(scope, Action.MOVE_MODELS)
    except Refusal as refusal:
        return {"move": False, "why": refusal.body["error"]["message"]}
    return {"move": True, "why": ""}


def _model(facts: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if facts is None else {name: facts[name] for name in _MODEL if name in facts}


def _message(event: bytes, data: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": b"event: " + event + b"\ndata: " + data + b"\n\n", "more_body": True}


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
