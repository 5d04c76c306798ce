"""Shed load before it piles up: rates of keys, a bound on requests that wait, and deadlines."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager

from serve.http import Headers, Refusal
from streamrec.clock import Clock, SystemClock

_TICK_S = 0.01
# What is new is stamped that late at most; a look in vain costs some turns of the loop, some ten microseconds.
_LOOK_EVERY_S = 0.1
# A connection is taken in one turn, read in the next, and its request is begun in the one after that.
_QUIET_TURNS = 5
# A loop that nobody asks about is not woken.
_WATCHED_FOR_S = 10.0
_NEW = 0.1
# After some late answers the full one is tried again: what it takes may have become less.
_FORGET = 0.98


class TokenBucket:
    """Let so many requests a second pass, and some at once.

    Args:
        rate: Tokens that come in a second.
        burst: Most tokens that are kept.

    Example:
        >>> bucket = TokenBucket(2.0, 1)
        >>> bucket.take(10.0), bucket.take(10.0), bucket.take(10.5)
        (0.0, 0.5, 0.0)
    """

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._at_s = float(burst), -math.inf

    def take(self, now_s: float) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
        self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._rate


class Gate:
    """Bound the requests of a replica that wait for something beside it.

    Args:
        most: So many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.num_inside = 0
        self.num_refused = 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Count a request as long as it waits.

        Raises:
            Refusal: As many wait as may.
        """
        if self.num_inside >= self._most:
            self.num_refused += 1
            what = "Serving: too many requests of this replica wait for the broker or the registry, send again later"
            raise Refusal(429, "requests", str(self.num_inside), f"at most {self._most} at once (serving.max_waiting)", what, again_after(1))
        self.num_inside += 1
        try:
            yield
        finally:
            self.num_inside -= 1


class Backlog:
    """Refuse what has waited for other answers too long already: one that comes later than anybody waits helps nobody.

    A replica answers one request after the other, and its event loop takes one connection a turn (libuv, pull request 3696): in a burst nearly all
    requests would wait in sockets, where nobody sees them. So the replica stops answering ten times a second and turns until nothing new comes;
    what has come is answered in the order in which it came. What a request waited in HAProxy, nobody tells a replica.

    Args:
        most_s: So long; infinity refuses nothing.
        clock: Monotonic time.
    """

    def __init__(self, most_s: float, clock: Clock | None = None) -> None:
        self._most_s = most_s
        self._clock = clock or SystemClock()
        self._looked_s = -math.inf
        self._looked = asyncio.Event()
        self._looked.set()
        self._num_come = 0
        self.num_refused = 0

    def come(self) -> float:
        """Return when a request came, for `turn`; to be called when it has been read."""
        self._num_come += 1
        return self._clock.monotonic_s()

    async def turn(self, came_s: float) -> None:
        """Wait until those that came before are answered; to be called right before a request is answered, with nothing to wait for in between.

        Raises:
            Refusal: It has waited too long since it came.
        """
        while not self._looked.is_set():
            await self._looked.wait()
        if self._clock.monotonic_s() - self._looked_s >= _LOOK_EVERY_S:
            await self._look()
        waited_s = self._clock.monotonic_s() - came_s
        if waited_s > self._most_s:
            self.num_refused += 1
            what = "Serving: more requests come than this replica can answer, send again later"
            raise Refusal(429, "requests", f"waited {waited_s:.2f} s", f"at most {self._most_s:g} s (serving.shed_after_s)", what, again_after(1))

    async def _look(self) -> None:
        """Turn until nothing new has come for some turns; not longer than answers have their turn, or a flood of requests would stop them."""
        self._looked.clear()
        until_s = self._clock.monotonic_s() + _LOOK_EVERY_S
        try:
            num_quiet, num_come = 0, self._num_come
            while num_quiet < _QUIET_TURNS and self._clock.monotonic_s() < until_s:
                await asyncio.sleep(0)
                num_quiet = num_quiet + 1 if num_come == self._num_come else 0
                num_come = self._num_come
        finally:
            self._looked_s = self._clock.monotonic_s()
            self._looked.set()


class Deadlines:
    """Tell whether a full answer still comes in time.

    A replica answers one request after the other. What a request has waited before that is nowhere written: it is taken to be how late the event
    loop was at its last tick. What a full answer takes is the moving average of those before.

    Args:
        clock: Monotonic time.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._typical_s = 0.0
        self._lag_s = 0.0
        self._asked_s = -math.inf
        self._loop: asyncio.AbstractEventLoop | None = None
        self.num_late = 0

    def now_s(self) -> float:
        """Return the time, for ``taken_s`` of `is_late` and for `took`."""
        return self._clock.monotonic_s()

    def is_late(self, deadline_ms: float, taken_s: float) -> bool:
        """Return whether a request that was taken up at ``taken_s`` can't have a full answer by its deadline."""
        now_s = self._asked_s = self._clock.monotonic_s()
        self._watch()
        late = self._lag_s + now_s - taken_s + self._typical_s > deadline_ms / 1000
        if late:
            self.num_late += 1
            self._typical_s *= _FORGET
        return late

    def took(self, began_s: float) -> None:
        """Count a full answer that was begun at ``began_s`` and is made."""
        self._typical_s += (self._clock.monotonic_s() - began_s - self._typical_s) * (_NEW if self._typical_s else 1.0)

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._lag_s = loop, 0.0
            loop.call_later(_TICK_S, self._tick, loop.time() + _TICK_S)

    def _tick(self, due_s: float) -> None:
        loop = self._loop
        if loop is None or self._clock.monotonic_s() - self._asked_s > _WATCHED_FOR_S:
            self._loop = None
            return
        self._lag_s = max(0.0, loop.time() - due_s)
        loop.call_later(_TICK_S, self._tick, loop.time() + _TICK_S)


def again_after(seconds: float) -> Headers:
    """Return the header that says when to send again, in whole seconds."""
    return [(b"retry-after", str(max(1, math.ceil(seconds))).encode())]
