"""Carry out what plans say of teachers' versions: take them into use, compare them, drop them, begin new ones."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamrec.evaluation.gain import Gain
from streamrec.pipeline.ingest import Ingest
from streamrec.pipeline.lost_teachers import leave_lost
from streamrec.pipeline.parts import Parts
from streamrec.pipeline.plan import Plan, version_name
from streamrec.pipeline.refresh_requests import refresh_request
from streamrec.pipeline.refresh_state import RefreshState
from streamrec.pipeline.refresh_times import RefreshTimes
from streamrec.pipeline.report import StepReport
from streamrec.pipeline.stream_state import StreamState
from streamrec.pipeline.switches import Switches
from streamrec.teachers.policy import Reason, RefreshFacts, wait_after_failures_s

logger = logging.getLogger(__name__)


class Refreshing:
    """Own what refreshes are decided by, and execute the decisions that plans carry.

    **Contract.** In a step: `check`, which changes nothing of the state and may fail, then `apply`, `note`, `start`. All three are functions of
    state and plan.

    Args:
        parts: The refresher and the plans.
        ingest: Has the window and the vocabulary.
        state: The stream's own.
        gain: What teachers add to the student.
    """

    def __init__(self, parts: Parts, ingest: Ingest, state: StreamState, gain: Gain) -> None:
        self.record = RefreshState()
        self.times = RefreshTimes()
        self._parts, self._ingest, self._stream, self._gain = parts, ingest, state, gain
        self._failed: dict[str, str] = {}
        self._said: dict[str, str] = {}

    def facts(self, now_ms: int, switches: Switches) -> dict[str, RefreshFacts]:
        """Return what is known of each teacher that comes in versions."""
        items, is_harmful, found = self._ingest.vocabulary.facts(), self._gain.is_harmful, {}
        for teacher in self._parts.config.teachers.refreshed:
            asked = switches.asked_for(teacher)
            known = self.record.facts(teacher, now_ms, items)
            found[teacher] = replace(known, is_harmful=is_harmful, asked_ms=asked.at_ms if asked else None, asked_by=str(asked or ""))
        return found

    def failed(self) -> dict[str, str]:
        """Return teacher name to reason for refreshes under way that have failed, until a plan says so."""
        pending = self._stream.pending
        for (teacher, version), reason in self._parts.refresher.failed().items():
            if pending.get(teacher) == version:
                self._failed[teacher] = reason
        self._failed = {teacher: reason for teacher, reason in self._failed.items() if teacher in pending}
        return dict(self._failed)

    def finished(self) -> dict[str, str]:
        """Return teacher name to version for refreshes under way that are complete."""
        pending = self._stream.pending
        return {teacher: version for teacher, version in self._parts.refresher.finished().items() if pending.get(teacher) == version}

    def costs_s(self) -> dict[str, float]:
        """Return teacher name to worker-seconds for refreshes under way that are complete."""
        return {teacher: self._parts.refresher.cost_s(teacher, version) for teacher, version in self.finished().items()}

    def check(self, plan: Plan) -> None:
        """Wait for the versions that a plan names and that are not in use yet.

        Raises:
            OperatorError: One is missing, or could not be made though this plan or a later one uses it.
        """
        failed = {teacher: self._stream.pending[teacher] for teacher in self.failed() if teacher not in plan.failed}
        if failed and self._parts.plans is not None:
            self._parts.plans.check_unnamed(failed, self._stream.batch)
        for named, known in ((plan.teachers, self._stream.teachers), (plan.challengers, self._stream.challengers)):
            for teacher, version in named.items():
                if known.get(teacher) != version:
                    self._parts.refresher.wait(teacher, version)

    def apply(self, plan: Plan, report: StepReport) -> None:
        """Take versions into use or let them be compared, and give back what refreshes that failed had taken."""
        stream = self._stream
        self.record.hear_of(self._parts.config.teachers.refreshed, plan.now_ms, self._ingest.vocabulary.facts())
        for teacher, reason in plan.failed.items():
            self._give_up(teacher, plan, reason)
        report.refreshes_failed = dict(plan.failed)
        for verdict in plan.verdicts:
            logger.info("%s %s %s: %s", verdict.teacher, verdict.version, verdict.outcome.value.replace("_", " "), verdict.reason)
            if not verdict.takes_over:
                self._forget_later(verdict.teacher)
        report.activated = {teacher: version for teacher, version in plan.teachers.items() if stream.teachers.get(teacher) != version}
        # After a refresh that a person asked for, an older version has nothing to compare itself with.
        challengers = {teacher: version for teacher, version in plan.challengers.items() if version > plan.teachers.get(teacher, "")}
        report.challenged = {teacher: version for teacher, version in challengers.items() if stream.challengers.get(teacher) != version}
        for teacher, version in {**report.challenged, **report.activated}.items():
            if stream.pending.get(teacher) == version:
                del stream.pending[teacher]
                self.record.complete(teacher, plan.now_ms, plan.costs_s.get(teacher))
        now_s = self._parts.clock.monotonic_s()
        for teacher, version in report.challenged.items():
            self.times.name(teacher, version, now_s)
        for teacher, version in report.activated.items():
            if (took := self.times.use(teacher, version, now_s)) is not None:
                report.refreshes_took[teacher] = took
        stream.teachers, stream.challengers = dict(plan.teachers), challengers

    def wait_for_linear(self) -> None:
        """Wait for a linear refresh: its request lives in memory only, so a commit in its middle could not start it again with the same numbers."""
        version = self._stream.pending.get("linear")
        if version is not None and "linear" not in self.failed():
            self._parts.refresher.wait("linear", version)

    def _give_up(self, teacher: str, plan: Plan, reason: str) -> None:
        """Take a refresh that failed for one that never began, except that the next has to wait."""
        version = self._stream.pending.pop(teacher, "")
        self._failed.pop(teacher, None)
        config = self._parts.config.teachers
        num_failed = self.record.records[teacher].num_failed + 1
        wait_s = wait_after_failures_s(num_failed, config)
        num_workers = config.num_train_workers if teacher == "transformer" else 1
        held = self.record.fail(teacher, plan.now_ms, num_workers, plan.now_ms + round(1000 * wait_s))
        if held is not None:
            self._stream.events_since[teacher] = self._stream.events_since.get(teacher, 0) + held.num_events
            self._forget_since(teacher, held.forget_since_ms)
        logger.warning("refresh of %s %s failed, the next begins in %.0f s at the earliest: %s", teacher, version, wait_s, reason)

    def _forget_later(self, teacher: str) -> None:
        """A version that was dropped had forgotten users whom the one in use still knows."""
        record = self.record.records.get(teacher)
        held = record.held if record is not None else None
        if held is not None:
            self._forget_since(teacher, held.forget_since_ms)

    def _forget_since(self, teacher: str, since_ms: int | None) -> None:
        if since_ms is not None:
            self._stream.forget_since_ms[teacher] = min(since_ms, self._stream.forget_since_ms.get(teacher, since_ms))

    def note(self, targets: NDArray[np.int32]) -> None:
        """Count what users chose, target rows [T]."""
        self.record.count(targets)

    def start(self, plan: Plan, report: StepReport) -> None:
        """Begin the refreshes that the plan names."""
        stream, decided = self._stream, {decision.teacher: decision for decision in plan.decisions}
        for teacher in plan.start_refresh:
            version = version_name(plan.batch)
            counted = (stream.events_since.get(teacher, 0), stream.forget_since_ms.pop(teacher, None))
            code = decided[teacher].code.value if teacher in decided else ""
            self.record.begin(teacher, plan.now_ms, self._ingest.vocabulary.facts(), code, counted)
            stream.pending[teacher], stream.events_since[teacher] = version, 0
            report.refreshes_started[teacher] = version
            self.times.begin(teacher, version, self._parts.clock.monotonic_s())
            logger.info("refresh of %s %s begins: %s", teacher, version, decided[teacher].reason if teacher in decided else "it was asked for")
            self._request(teacher, version)
        for decision in plan.decisions:
            if decision.is_put_off and self._said.get(decision.teacher) != decision.code:
                level = logging.INFO if decision.code is Reason.BEHIND else logging.WARNING  # Lag is told by itself, and passes by itself.
                logger.log(level, "refresh of %s is put off: %s", decision.teacher, decision.reason)
        self._said = {decision.teacher: decision.code for decision in plan.decisions}

    def restart(self) -> None:
        """Begin again what was under way at the last commit, without the versions that are lost.

        Raises:
            Damaged: See `streamrec.pipeline.lost_teachers.leave_lost`.
        """
        for teacher in leave_lost(self._parts, self._stream):
            self._forget_later(teacher)
        for teacher, version in self._stream.pending.items():
            self._request(teacher, version)

    def _request(self, teacher: str, version: str) -> None:
        why = self.record.records[teacher].code if teacher in self.record.records else ""
        self._parts.refresher.start(refresh_request(self._parts, self._ingest, teacher, version, self._stream.teachers.get(teacher), why))
