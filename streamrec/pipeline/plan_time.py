"""Tell the time that plans carry: processing time that never steps back, whatever the machine's clock does."""

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


class PlanTime:
    """Hold the latest time that a plan of this state had.

    **Contract.** `now_ms` never returns less than before, nor less than the newest stored plan says, also in a later process: a clock that steps
    back must not put the events of its future among the rejected, and what is due at a time is due once.

    Args:
        clock: The machine's time.
        plans: Those of earlier processes; None when none are stored.
        state: Knows the time of the last plan that was executed; asked before the first step of a process, when it is restored.
    """

    def __init__(self, clock: Clock, plans: PlanStore | None, state: StreamState) -> None:
        self._clock = clock
        self._plans = plans
        self._state = state
        self._latest_ms = 0
        self._knows_stored = False
        self._is_behind = False

    def now_ms(self) -> int:
        """Return the time for the next plan."""
        if not self._knows_stored:
            self.note(self._newest_ms() or self._state.planned_ms)
            self._knows_stored = True
        now_ms = self._clock.now_ms()
        behind_ms = self._latest_ms - now_ms
        if behind_ms > _WORTH_A_WORD_MS and not self._is_behind:
            logger.warning("the clock has stepped back by %.0f s: plans keep the time they had until it has caught up", behind_ms / 1000)
        self._is_behind = behind_ms > _WORTH_A_WORD_MS
        self.note(now_ms)
        return self._latest_ms

    def note(self, now_ms: int) -> None:
        """Take the time of a plan that is executed."""
        self._latest_ms = max(self._latest_ms, now_ms)

    def _newest_ms(self) -> int:
        newest = None
        with suppress(Damaged):  # Whoever executes it says so.
            newest = self._plans.newest() if self._plans is not None else None
        return int(newest[1]["now_ms"]) if newest is not None else 0
