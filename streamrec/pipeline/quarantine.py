"""Go back to a promoted state after too many rejections in a row, or a finding of the guard, and quarantine the events that were learned since.

What goes back are the students' weights and moments, and their replay. Offsets, vocabulary, histories and the ids of events stay: a quarantined
event is known, and is not read again. The plan that follows the last rejection names the version to return to, so a killed run does the same again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any

from streamrec.features.vocabulary import Vocabulary
from streamrec.pipeline.learned_since import after_a_return, learned_since
from streamrec.pipeline.parts import Parts
from streamrec.pipeline.plan import Plan, PlannedRange
from streamrec.pipeline.quarantined import Quarantined, record_key
from streamrec.pipeline.report import StepReport
from streamrec.pipeline.stream_state import StreamState
from streamrec.pipeline.version_line import VersionLine
from streamrec.registry.gate import Reason, Verdict
from streamrec.soft_labels.store import LabelStore
from streamrec.student.learner import Learner

logger = logging.getLogger(__name__)

_BROKEN = "the loss is not finite of "


class Quarantine:
    """Know where the stream was when versions were made, and go back there.

    Args:
        parts: The students, and the storage of the lineage.
        state: The stream's.
        store: What replays are drawn from.
        lines: Of versions, the student's own first.
        vocabulary: Says how many items there are: copies of large learners cost too much.
    """

    def __init__(self, parts: Parts, state: StreamState, store: LabelStore, lines: Sequence[VersionLine], vocabulary: Vocabulary) -> None:
        self._parts, self._state, self._store, self._lines, self._vocabulary = parts, state, store, lines, vocabulary
        self._limit, self._most = parts.config.registry.max_rejections, parts.config.registry.max_return_items

    def note(self, report: StepReport, broken: Collection[str] = ()) -> None:
        """Follow what the gate has decided on the student's version and which one was published, after a step has learned.

        Args:
            report: The step's.
            broken: Whose loss was not finite: also who is not published now must come back, or it never will.
        """
        decision, published, state = report.decision, report.published, self._state
        if not self._limit or self._parts.publisher is None:
            return
        if len(self._vocabulary) > self._most:
            self._let_go(published)
            return
        if published is not None:
            self._mark(published)
        if decision is not None and decision.verdict is Verdict.REJECT:
            # Weights that are not finite never get finite again by learning.
            state.rejections += self._limit if decision.code in {Reason.NOT_FINITE, Reason.TAINTED} else 1
            state.rejected_for = decision.reason
            if decision.code is Reason.UNLIKE and state.good is not None:  # Else there is nothing to go back to, and nothing would ever go live.
                state.tainted = f"it has learned from events that were unlike those before, in batch {decision.batch}"
        elif decision is not None and decision.promote:
            state.rejections = 0
            if decision.candidate in state.marks:
                state.good = decision.candidate
                self._tell_all(Learner.settle, decision.candidate)
        if published is not None:
            self._tell_all(Learner.keep, published)
            if decision is not None and decision.candidate == published and decision.promote:
                self._tell_all(Learner.settle, published)
        self._note_broken(broken)
        self._forget_old(knows_more=bool(report.deletions) or decision is not None)

    def _note_broken(self, broken: Collection[str]) -> None:
        state, said = self._state, f"{_BROKEN}{', '.join(sorted(broken))}"
        if not broken:
            state.rejected_for = "" if state.rejected_for.startswith(_BROKEN) else state.rejected_for
        elif state.rejected_for != said:  # Once: where going back has not helped, it never does.
            logger.error("%s; the students go back", said)
            state.rejections, state.rejected_for = state.rejections + self._limit, said

    def _let_go(self, published: str | None) -> None:
        """Keep nothing to go back to any more."""
        if published is not None and self._state.marks:
            self._tell_all(Learner.forget_before, published)
        if published is not None:
            self._state.marks, self._state.good, self._state.tainted, self._state.rejections = {}, None, "", 0

    def _mark(self, version: str) -> None:
        state = self._state
        offsets = {str(partition): offset for partition, offset in state.offsets.items()}
        state.marks[version] = {"batch": state.batch, "offsets": offsets, "applied": state.counts["applied"], "queries": state.queries}

    def _forget_old(self, *, knows_more: bool) -> None:
        """Keep no mark, and no copy of weights, that nothing goes back to: one of before a deletion knows a deleted user."""
        state, not_before = self._state, self._state.not_before
        if state.good is not None and (state.good != state.live or (not_before is not None and state.good < not_before)):
            # An operator has moved what is live: nobody knows how good another state is than the one that this version was made of.
            is_known = state.live in state.marks and (not_before is None or str(state.live) >= not_before)
            state.good, state.tainted = state.live if is_known else None, ""
            if state.good is not None:
                self._tell_all(Learner.settle, state.good)
        before = max((version for version in state.marks if version < (state.good or "")), default=None)
        kept = {state.good, before, state.candidate, state.guard.get("vouched"), state.guard.get("first")}
        state.marks = {version: mark for version, mark in state.marks.items() if version in kept}
        if not_before is not None and knows_more:
            self._tell_all(Learner.forget_before, not_before)

    def carry_out(self, plan: Plan, report: StepReport) -> None:
        """Go back where the plan says so, book what was learned since as quarantined, and write it down."""
        state = self._state
        if plan.return_to is None or plan.return_to not in state.marks:
            return
        mark = state.marks[plan.return_to]
        num_events = state.counts["applied"] - mark["applied"]
        self._tell_all(Learner.return_to, plan.return_to)
        self._store.forget_newest(state.queries - mark["queries"])
        state.counts["applied"] -= num_events
        state.counts["quarantined"] += num_events
        state.queries = mark["queries"]
        learned, topic = learned_since(mark, state.batch, state.offsets), self._parts.config.log.events_topic
        record = Quarantined(
            batch=plan.batch,
            return_to=plan.return_to,
            batches=tuple((each.first, each.last) for each in learned),
            ranges=tuple(
                PlannedRange(topic=topic, partition=int(partition), start=start, end=end)
                for each in learned
                for partition, (start, end) in each.ranges.items()
                if end > start
            ),
            num_events=num_events,
            num_rejections=state.rejections,
            reason=state.rejected_for,
            at_ms=plan.now_ms,
        )
        if self._parts.receipts is not None:
            self._parts.receipts.write_new(record_key(plan.batch), record.to_json())
        logger.warning("the students go back to the state of %s: %d events are quarantined, %s", plan.return_to, num_events, state.rejected_for)
        for line in self._lines:
            line.withdraw()
        state.rejections, state.tainted, state.good, report.returned = 0, "", plan.return_to, record
        # Its state is that of here now: what is quarantined once is not quarantined again.
        state.marks = after_a_return(state.marks, plan.return_to, state.batch, state.offsets)

    def _tell_all(self, method: Any, version: str) -> None:
        for worker in self._parts.learners().values():
            worker.submit(method, version)
