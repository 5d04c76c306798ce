"""Keep the newest numbers of the stream and of each replica, for whoever asks any one of them for all; pure."""

from __future__ import annotations

from typing import Any

from streamrec.clock import Clock
from streamrec.registry.course import Course
from streamrec.registry.swaps import REPLICA_LEASE_S, BoardState
from streamrec.telemetry.numbers import Numbers, Taken

_SHOWN_SWAPS = 20
_SHOWN_IN_SWAP = ("seq", "version", "replicas", "all_replicas_ms")
STREAM = "stream"
"""The source that is no replica."""
_STREAM_KEPT_S = 3600.0
"""A stream that says nothing for so long has ended; until then its age tells."""


class Telling:
    """Hold what was told last.

    Args:
        clock: Monotonic seconds.
        state: Of the board, for the numbers of its own.

    Attributes:
        course: How the stream has fared of late.
    """

    def __init__(self, clock: Clock, state: BoardState) -> None:
        self._clock, self._state = clock, state
        self._told: dict[str, tuple[float, Taken]] = {}
        self.course = Course(clock)

    def tell(self, source: str, numbers: Taken) -> None:
        """Take what a source counts, in place of what it told before."""
        self._told[source] = (self._clock.monotonic_s(), numbers)
        if source == STREAM:
            self.course.take(numbers)

    def left(self, source: str) -> None:
        """Forget a source that stops."""
        self._told.pop(source, None)

    def course_after(self, at_ms: int) -> dict[str, Any]:
        """Return how the stream has fared after a time, and the last swaps, oldest first."""
        swaps = [{name: swap[name] for name in _SHOWN_IN_SWAP} for swap in self._state.report(_SHOWN_SWAPS)]
        return {**self.course.after(at_ms), "swaps": swaps}

    def told(self, but: str = "") -> list[Taken]:
        """Return the numbers of all sources but one, and the board's own."""
        now_s = self._clock.monotonic_s()
        ages = {source: now_s - told_s for source, (told_s, _) in self._told.items()}
        for source, age_s in ages.items():
            if age_s > (_STREAM_KEPT_S if source == STREAM else REPLICA_LEASE_S):
                self.left(source)
        numbers = Numbers()
        numbers.put("streamrec_replicas", len(self._state.live_replicas()))
        times = [swap["all_replicas_ms"] for swap in self._state.report(1) if swap["all_replicas_ms"] is not None]
        for ms in times:
            numbers.put("streamrec_swap_seconds", ms / 1000)
        for source in self._told:
            numbers.put("streamrec_told_age_seconds", ages[source], source=source)
        return [*(taken for source, (_, taken) in self._told.items() if source != but), numbers.taken()]
