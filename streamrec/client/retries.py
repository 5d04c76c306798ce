"""Decide when a request is sent again and when it is given up: pure, so that both clients wait alike and no test sleeps."""

from __future__ import annotations

import random
from dataclasses import dataclass

from streamrec.client.failures import Again, Failure
from streamrec.clock import Clock
from streamrec.errors import ClientError, NoAnswer, TimedOut


@dataclass(frozen=True)
class TimeOuts:
    """Say how long to wait.

    Attributes:
        connect_s: For a connection.
        read_s: For the next bytes of an answer; a server waits up to 10 s for its broker.
        total_s: For a call with all its attempts and the pauses between them.
    """

    connect_s: float = 2.0
    read_s: float = 12.0
    total_s: float = 30.0


@dataclass(frozen=True)
class Retries:
    """Say how often to send again, and after which pauses.

    The pause after the n-th attempt is up to ``first_pause_s`` * 2^(n-1), at least half of it, so that clients which were refused at once do not
    come again at once; it comes on top of the ``retry-after`` of an answer.

    Attributes:
        num_attempts: Most attempts in all.
        num_after_break: So many of them after a connection broke: one, because a node that is killed loses what it was answering, and the next one
            answers.
        first_pause_s: Longest pause after the first attempt.
        longest_pause_s: Longest pause.
    """

    num_attempts: int = 4
    num_after_break: int = 1
    first_pause_s: float = 0.1
    longest_pause_s: float = 5.0


class Attempts:
    """Follow the attempts of one call.

    Args:
        retries: How often.
        timeouts: How long.
        clock: Monotonic time.
        rng: For the pauses.
        is_repeatable: Whether a second request has no effect beyond the first one's.
    """

    def __init__(self, retries: Retries, timeouts: TimeOuts, clock: Clock, rng: random.Random, *, is_repeatable: bool) -> None:
        self._retries = retries
        self._clock = clock
        self._rng = rng
        self._is_repeatable = is_repeatable
        self._until_s = clock.monotonic_s() + timeouts.total_s
        self._total_s = timeouts.total_s
        self._num = self._num_breaks = 0

    def left_s(self) -> float:
        """Return how much of the time in all is left."""
        return self._until_s - self._clock.monotonic_s()

    def begin(self) -> float:
        """Count an attempt and return how long it may take."""
        self._num += 1
        return self.left_s()

    def pause_s(self, failure: Failure) -> float:
        """Return how long to wait before the next attempt.

        Raises:
            ClientError: There is none.
        """
        if not self._may_repeat(failure.again):
            raise self._error(failure, "")
        pause_s = min(self._retries.longest_pause_s, self._retries.first_pause_s * 2.0 ** (self._num - 1))
        pause_s = (failure.retry_after_s or 0.0) + pause_s * self._rng.uniform(0.5, 1.0)
        if pause_s >= self.left_s():
            raise self._error(failure, f", and the next attempt would be after the {self._total_s:g} s that the call may take")
        return pause_s

    def _may_repeat(self, again: Again) -> bool:
        if again is Again.NEVER or self._num >= self._retries.num_attempts:
            return False
        if again is Again.AFTER_BREAK:
            self._num_breaks += 1
            return self._is_repeatable and self._num_breaks <= self._retries.num_after_break
        return again is Again.NOTHING_HAPPENED or self._is_repeatable

    def _error(self, failure: Failure, more: str) -> ClientError:
        tries = f", sent {self._num} times" if self._num > 1 else ""
        do = failure.do
        if issubclass(failure.kind, NoAnswer) and not self._is_repeatable and failure.again is not Again.NOTHING_HAPPENED:
            do = "look whether it had an effect before you send it again"
        elif issubclass(failure.kind, TimedOut):
            do = "look at the server, or allow more time"
        return failure.kind(f"{failure.what}{tries}{more}", do=do, num_attempts=self._num, **failure.facts)
