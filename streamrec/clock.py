"""Inject time: processing time in milliseconds UTC and monotonic seconds."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Tell processing time; a test or a backtest injects its own."""

    def now_ms(self) -> int:
        """Return processing time in milliseconds since the epoch, UTC."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds on a clock that never steps backwards."""
        ...


class SystemClock:
    """Tell the machine's time."""

    def now_ms(self) -> int:
        """Return processing time in milliseconds since the epoch, UTC."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Return seconds on a clock that never steps backwards."""
        return time.monotonic()


class ManualClock:
    """Tell a time that only moves when told to.

    Example:
        >>> clock = ManualClock(now_ms=1_000)
        >>> clock.advance(2.5)
        >>> clock.now_ms(), clock.monotonic_s()
        (3500, 2.5)
    """

    def __init__(self, now_ms: int = 0) -> None:
        self._now_ms = now_ms
        self._monotonic_s = 0.0

    def now_ms(self) -> int:
        """Return processing time in milliseconds since the epoch, UTC."""
        return self._now_ms

    def monotonic_s(self) -> float:
        """Return the seconds advanced so far."""
        return self._monotonic_s

    def advance(self, seconds: float) -> None:
        """Move both clocks forward by ``seconds``."""
        if seconds < 0:
            msg = f"Clock: can't go backwards, got {seconds}, allowed >= 0"
            raise ValueError(msg)
        self._now_ms += round(seconds * 1000)
        self._monotonic_s += seconds
