"""Report what one micro-batch did."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from streamrec.evaluation.gain import Estimate
from streamrec.evaluation.worth import Tally
from streamrec.pipeline.plan import Plan
from streamrec.pipeline.quarantined import Quarantined
from streamrec.pipeline.refresh_times import Took
from streamrec.registry.gate import Decision
from streamrec.registry.guard import Guarded
from streamrec.student.lesson import StepMetrics

STAGES = ("plan", "read", "ingest", "evaluate", "label", "gate", "learn", "publish", "refresh", "checkpoint")


class StageTimer:
    """Measure where a step's wall time goes, in seconds per stage.

    Args:
        hear: Is told of each stage when it is over: its name, when it began and when it ended.
    """

    def __init__(self, hear: Callable[[str, float, float], None] | None = None) -> None:
        self._hear = hear
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time inside the block to a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            ended = time.perf_counter()
            self.seconds[name] += ended - began
            if self._hear is not None:
                self._hear(name, began, ended)


@dataclass(frozen=True)
class LineReport:
    """Hold a further student's `StepReport.decision` and `StepReport.published`."""

    decision: Decision | None = None
    published: str | None = None


@dataclass
class StepReport:
    """Hold one step's outcome.

    Attributes:
        plan: What was executed.
        books: The balance after the step; see `streamrec.pipeline.stream_state.books`.
        items: How many items have rows, and how many were admitted, left, or were kept out (events) since the stream began.
        deletions: How many users' requests to be forgotten were carried out.
        num_queries: Queries of the batch that were scored.
        metrics: Model name to metric means over this batch's queries.
        gain: What teachers add to the student, None while too few queries say so.
        learned: What the student did, None when the step did not learn.
        decision: The gate's, if one was asked.
        published: Version published by this step.
        lines: Name of a further student to what became of its versions; those of which nothing is to be said are left out.
        returned: What was quarantined before this step, because the students went back to a promoted state.
        guarded: What was rolled back before this step.
        worth: What the student's logged answers came to so far.
        activated: Teacher name to the version whose labels are used from this step on.
        challenged: Teacher name to the new version that is compared with the one in use from this step on; the plan's ``verdicts`` say how it ends.
        refreshes_started: Teacher name to version; the plan's ``decisions`` say why.
        refreshes_failed: Teacher name to reason.
        refreshes_took: Teacher name to what it took until its new version's labels are used, from this step on.
        weights: Teacher name to weight per history-length bucket.
        committed: Whether the step ended in a commit.
        is_commit_under_way: Whether that is still being written beside the stream, or could not be.
        seconds: Wall time of each stage.
    """

    plan: Plan
    books: Mapping[str, int] = field(default_factory=dict)
    items: Mapping[str, int] = field(default_factory=dict)
    deletions: int = 0
    num_queries: int = 0
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    gain: Estimate | None = None
    learned: StepMetrics | None = None
    decision: Decision | None = None
    published: str | None = None
    lines: dict[str, LineReport] = field(default_factory=dict)
    returned: Quarantined | None = None
    guarded: tuple[Guarded, ...] = ()
    worth: Tally = field(default_factory=Tally)
    activated: dict[str, str] = field(default_factory=dict)
    challenged: dict[str, str] = field(default_factory=dict)
    refreshes_started: dict[str, str] = field(default_factory=dict)
    refreshes_failed: dict[str, str] = field(default_factory=dict)
    refreshes_took: dict[str, Took] = field(default_factory=dict)
    weights: dict[str, list[float]] = field(default_factory=dict)
    committed: bool = False
    is_commit_under_way: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    def note(self, student: str, decision: Decision | None = None, published: str | None = None) -> None:
        """Add what became of a further student's versions."""
        before = self.lines.get(student, LineReport())
        after = LineReport(decision or before.decision, published or before.published)
        if after != LineReport():
            self.lines[student] = after

    def about_students(self) -> list[str]:
        """Return what became of further students' versions, a line each."""
        lines = []
        for name, line in self.lines.items():
            said = [f"published {line.published}"] if line.published else []
            said += [f"{line.decision.verdict.value} {line.decision.candidate}"] if line.decision is not None else []
            lines.append(f"student {name}: {', '.join(said)}")
        return lines

    def about_teachers(self) -> list[str]:
        """Return what became of teachers' versions, a line each, with the reason."""
        why = {decision.teacher: decision.reason for decision in self.plan.decisions}
        lines = [f"refresh of {teacher} {version} started: {why.get(teacher, 'asked for')}" for teacher, version in self.refreshes_started.items()]
        lines += [f"refresh of {teacher} failed, the version before stays: {reason}" for teacher, reason in self.refreshes_failed.items()]
        lines += [f"{each.teacher} {each.version} {each.outcome.value.replace('_', ' ')}, {each.reason}" for each in self.plan.verdicts]
        decided = {each.teacher for each in self.plan.verdicts}
        lines += [f"labels of {teacher} come from {version}" for teacher, version in self.activated.items() if teacher not in decided]
        for teacher, took in self.refreshes_took.items():
            parts = f"{took.fit_s:.1f} s to make it, {took.compared_s:.1f} s to compare it"
            lines.append(f"labels of {teacher} are fresh {took.total_s:.1f} s after its refresh began: {parts}")
        lines += [f"{teacher} {version} is compared with {self.plan.teachers[teacher]}" for teacher, version in self.challenged.items()]
        return lines

    @property
    def lag(self) -> int:
        """Records that were left in the log when the step was planned."""
        return self.plan.lag
