"""Roll a promoted version back when its answers surely lead to less than those of before, and let the learner go back with it.

What the guard finds is a fact of the next plan, as a return is; see `streamrec.registry.guard`. A version that was rolled back is never promoted
again. Where what it is compared with is no longer there for the learner to go back to, the alias goes back alone.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict

from streamrec.errors import Damaged, RegistryError
from streamrec.evaluation.shown import Outcome
from streamrec.pipeline.parts import Parts
from streamrec.pipeline.plan import Plan
from streamrec.pipeline.report import StepReport
from streamrec.pipeline.stream_state import StreamState
from streamrec.pipeline.version_line import MAIN, VersionLine
from streamrec.registry.gate import Decision
from streamrec.registry.guard import Guarded, Watch
from streamrec.student.learner import Learner

logger = logging.getLogger(__name__)


class Guarding:
    """Watch all students' versions.

    Args:
        parts: The students and the configuration.
        state: The stream's.
        lines: Of versions, the student's own first.
    """

    def __init__(self, parts: Parts, state: StreamState, lines: Sequence[VersionLine]) -> None:
        self._parts, self._state, self._lines, self._cfg = parts, state, lines, parts.config.registry
        self._kept: list[str] = []

    def note(self, report: StepReport, outcomes: Iterable[Outcome]) -> None:
        """Take in what came of answers, and what was promoted, after a step has decided and before copies of the version before go."""
        if not self._cfg.guard_share:
            return
        by_student: dict[str, list[Outcome]] = {}
        for outcome in outcomes:
            by_student.setdefault(outcome.giver.student, []).append(outcome)
        for line in self._lines:
            decision = report.decision if line.name == MAIN else (each.decision if (each := report.lines.get(line.name)) is not None else None)
            watch = self._noted(line, decision, by_student.get(line.student_name, []))
            line.state.guard = asdict(watch)
            if line.name == MAIN and (wanted := [each for each in (watch.vouched, watch.first) if each is not None]) != self._kept:
                self._kept = wanted
                for worker in self._parts.learners().values():
                    worker.submit(Learner.keep_these, wanted)

    def _noted(self, line: VersionLine, decision: Decision | None, outcomes: Sequence[Outcome]) -> Watch:
        watch, promoted = Watch(**line.state.guard), decision is not None and decision.promote
        before = decision.live if decision is not None and promoted else line.state.live
        if watch.live not in {None, before}:  # By an operator, or another run: nobody knows what the other one's answers led to.
            watch = Watch()
        watch = Watch(**{**asdict(watch), "live": before}).after(outcomes, self._cfg)
        if decision is not None and promoted:
            watch = watch.promoted(decision.candidate, before, self._cfg)
        not_before = self._state.not_before
        if watch.vouched is not None and not_before is not None and watch.vouched < not_before:
            watch = watch.dropped()  # Nothing goes back behind a deletion.
        return watch.ended(self._cfg)

    def findings(self, held: Collection[str]) -> tuple[Guarded, ...]:
        """Return what the next plan rolls back, but for students whose versions an operator holds, and of whom another version is live by now."""
        found = [
            Watch(**line.state.guard).finding(line.student_name, self._cfg)
            for line in self._lines
            if line.student_name not in held and line.now_live() == line.state.live
        ]
        return tuple(each for each in found if each is not None)

    def carry_out(self, plan: Plan, report: StepReport) -> None:
        """Roll back what the plan says; executed again it finds that done."""
        report.guarded = plan.guarded
        for guarded in plan.guarded:
            line = next((each for each in self._lines if each.student_name == guarded.student), None)
            if line is None:
                continue
            try:
                line.go_back(guarded, plan.batch)
            except (RegistryError, Damaged) as error:  # A deletion has come first, or its files are gone.
                logger.error("%s stays live: %s", guarded.version, error)
                line.state.guard = asdict(Watch(**line.state.guard).dropped())
                continue
            logger.warning("%s is rolled back to %s: %s", guarded.version, guarded.to, guarded.reason)
            line.state.guard = asdict(Watch(**line.state.guard).went_back())
            if line.name == MAIN:
                self._state.rejected_for = guarded.reason
