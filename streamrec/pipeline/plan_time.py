"""Tell the time that plans carry: it does not step back with the machine's clock, and it comes back from one that was far ahead."""

from __future__ import annotations

import logging
from contextlib import suppress

from streamrec.clock import Clock
from streamrec.errors import Damaged
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.stream_state import StreamState

logger = logging.getLogger(__name__)

_WORTH_A_WORD_MS = 10_000
"""Time servers correct a clock by less than this all day."""

LONGEST_AHEAD_S = 2 * 86_400.0
"""Plans may be ahead of the clock by so much: more than any wrong time zone sets it back by. Beyond it they come back to it, whichever of the
two was wrong: with a time that is too early, events go to the dead letters, from where they can be sent again; with one that is years ahead,
what is due at a time is not done for years, and one event of the future makes all others late."""


class PlanTime:
    """Hold the time of the newest plan of this state.

    **Contract.** `now_ms` never returns less than the newest plan says, also in a later process, unless that is more than `LONGEST_AHEAD_S`
    ahead of the clock: a clock that steps back must not put the events of its future among the rejected, and what is due at a time is due once.
    A stored plan keeps its time.

    Args:
        clock: The machine's time.
        plans: Those of earlier processes; None when none are stored.
        state: Knows the time of the last plan that was executed; asked before the first step of a process, when it is restored.
    """

    def __init__(self, clock: Clock, plans: PlanStore | None, state: StreamState) -> None:
        self._clock = clock
        self._plans = plans
        self._state = state
        self._newest_ms = 0
        self._knows_stored = False
        self._is_behind = False

    def now_ms(self) -> int:
        """Return the time for the next plan; what the clock says is remembered once a plan has it, and not while there is nothing to do."""
        if not self._knows_stored:
            self._newest_ms, self._knows_stored = max(self._newest_ms, self._stored_ms()), True
        now_ms = self._clock.now_ms()
        ahead_s = (self._newest_ms - now_ms) / 1000
        if ahead_s > LONGEST_AHEAD_S:
            logger.warning("the newest plan is %.0f s ahead of the clock, by more than clocks step back: plans come back to it", ahead_s)
            self._newest_ms, self._is_behind = now_ms, False
            return now_ms
        is_behind = ahead_s * 1000 > _WORTH_A_WORD_MS
        if is_behind and not self._is_behind:
            logger.warning("the clock has stepped back by %.0f s: plans keep the time they had until it has caught up", ahead_s)
        self._is_behind = is_behind
        return max(self._newest_ms, now_ms)

    def note(self, now_ms: int) -> None:
        """Take the time of a plan that is executed."""
        self._newest_ms = now_ms

    def _stored_ms(self) -> int:
        newest = None
        with suppress(Damaged):  # Whoever executes it says so.
            newest = self._plans.newest() if self._plans is not None else None
        return int(newest[1]["now_ms"]) if newest is not None else self._state.planned_ms
