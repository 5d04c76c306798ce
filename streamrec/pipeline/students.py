"""Teach all students the same lessons, made once: the new queries and replayed ones, with labels mixed from the store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamrec.evaluation.ranking import per_query_metrics
from streamrec.features.examples import Examples
from streamrec.features.vocabulary import Vocabulary
from streamrec.pipeline.labelling import Labelling, spread
from streamrec.pipeline.parts import Parts
from streamrec.pipeline.plan import Plan
from streamrec.pipeline.stream_state import StreamState
from streamrec.soft_labels.schema import SoftLabels
from streamrec.student.learner import CURRENT, Learner
from streamrec.student.lesson import Lesson, StepMetrics
from streamrec.workers import Pending

LEAST_FOR_ROUNDS = 256
"""A step of fewer new queries is learned in one round: what is held out of it would say too little."""
HELD_OUT = 16
"""At most one of so many new queries is held out, a user's last one of the step: what rounds gain has to carry over to later events."""
_AFTERWARDS = 1000
"""Number of the round that what was held out is learned in: of no other, so that its seeds are its own."""
JUDGED_BY = "recall@20"
"""Held-out queries get likelier long after their targets have stopped to rise in the list (docs/experiments.md)."""


class _Begun(NamedTuple):
    """Hold a step's only lesson while its labels are made.

    Attributes:
        examples: New queries, then replayed ones.
        labels: Those of the replayed ones.
        control: What the control makes of it; None without one.
    """

    examples: Examples
    labels: SoftLabels
    control: Pending[StepMetrics] | None


class Students:
    """Make lessons and give them to all students, to the control without labels.

    Args:
        parts: The students.
        labelling: Has the store.
        vocabulary: Knows the namespaces.
        state: Remembers whether rounds gain.
    """

    def __init__(self, parts: Parts, labelling: Labelling, vocabulary: Vocabulary, state: StreamState) -> None:
        self._parts, self._labelling, self._vocabulary, self._state = parts, labelling, vocabulary, state
        self._begun: _Begun | None = None
        self._told: tuple[NDArray[np.int32], ...] | None = None
        """What the control alone has been told of items."""
        self.broken: set[str] = set()
        """Whose loss was not finite in the last step that learned."""

    def begin(self, examples: Examples, plan: Plan) -> None:
        """Let the control learn a step of one pass before there are labels: it needs none. Where there are more passes, `learn` does it all."""
        if not len(examples) or plan.new_passes != 1 or self._in_rounds(examples, plan):
            return
        old, labels = self._labelling.replayed(len(examples) * plan.replay_passes, plan.seed * 1000)
        together, control, asked = Examples.concat([examples, old]), self._parts.control, None
        if control is not None:
            self._told = self._vocabulary.take_changed()
            control.submit(Learner.put_items, *self._told)
            asked = control.submit(Learner.step, Lesson(together, None, len(examples), plan.seed))
        self._begun = _Begun(together, labels, asked)

    def put_items(self) -> None:
        """Tell all of items that have changed; see `Learner.put_items`."""
        told, self._told = self._told, None
        changed = self._vocabulary.take_changed() if told is None else told
        for worker in self._parts.learners().values():
            if told is None or worker is not self._parts.control:
                worker.submit(Learner.put_items, *changed)

    def greet_newcomers(self) -> None:
        """Have all items told again in the next step where a further student does not know them: it is new, or was away."""
        rows = np.flatnonzero(self._vocabulary.namespace_of_rows() >= 0).astype(np.int32)
        known = [pupil.worker.submit(Learner.knows, len(self._vocabulary)).result() for pupil in self._parts.students.values()]
        if not all(known):
            self._vocabulary.tell_again(rows)

    def of(self, name: str, examples: Examples) -> Examples:
        """Return the queries that a further student is there for."""
        return examples if not self._parts.students[name].namespaces else examples.take(self._chosen(name, examples))

    def _chosen(self, name: str, examples: Examples) -> NDArray[np.int64]:
        names = self._vocabulary.namespaces
        codes = [names.index(each) for each in self._parts.students[name].namespaces if each in names]
        return np.flatnonzero(np.isin(examples.namespace, codes))

    def learn(self, examples: Examples, labels: SoftLabels, plan: Plan, meanwhile: Callable[[], None]) -> StepMetrics:
        """Teach new queries, and as many replayed ones a pass as the plan says.

        A plan of several rounds holds some users' last queries out. A round by which the student has not come to find more of their targets, by more
        than the difference's standard error, is taken back, by all who learn, and none follows: later steps have one, and hold nothing out. Then what
        was held out is learned in one pass.

        Args:
            examples: New queries.
            labels: Theirs.
            plan: Says how many passes.
            meanwhile: Called while the last pass is learned, when nothing more is drawn.
        """
        self.broken = set()
        if not self._in_rounds(examples, plan):
            return self._round(examples, labels, plan, 0, meanwhile)
        out = _last_ones(examples)
        rest = np.setdiff1d(np.arange(len(examples)), out)
        taught, asked = (examples.take(rest), labels.take(rest)), examples.take(out)
        done, found = [self._round(*taught, plan, 0)], self._found(asked)
        for number in range(1, plan.rounds):
            self._tell_all(Learner.remember)
            another, before, found = self._round(*taught, plan, number), found, self._found(asked)
            gain = found - before
            self._state.rounds_gain = bool(gain.mean() > gain.std(ddof=1) / len(gain) ** 0.5)
            if not self._state.rounds_gain:
                self._tell_all(Learner.go_back)
                break
            done.append(another)
        self._tell_all(Learner.forget_copy)
        once = plan.model_copy(update={"new_passes": 1})
        self._round(asked, labels.take(out), once, _AFTERWARDS, meanwhile)
        return StepMetrics.of_passes(done)

    def _in_rounds(self, examples: Examples, plan: Plan) -> bool:
        return plan.rounds > 1 and self._state.rounds_gain and len(examples) >= LEAST_FOR_ROUNDS

    def _tell_all(self, method: Callable[[Learner], None]) -> None:
        for worker in self._parts.learners().values():
            worker.submit(method)

    def _found(self, examples: Examples) -> NDArray[np.float32]:
        """Return how much of each query's targets the student finds. [Q]."""
        ranks = self._parts.student.submit(Learner.ranks, examples, [CURRENT]).result()[CURRENT]
        return per_query_metrics(ranks, examples)[JUDGED_BY]

    def _round(self, examples: Examples, labels: SoftLabels, plan: Plan, number: int, meanwhile: Callable[[], None] = lambda: None) -> StepMetrics:
        passes, first = [], number * plan.new_passes
        for part in range(plan.new_passes):
            begun, self._begun = self._begun, None
            if begun is None:
                old, old_labels = self._labelling.replayed(len(examples) * plan.replay_passes, plan.seed * 1000 + first + part)
                begun = _Begun(Examples.concat([examples, old]), old_labels, None)
            joined = SoftLabels.concat([labels, begun.labels])
            asked = self._teach(Lesson(begun.examples, joined, len(examples), plan.seed + 7919 * number, part, plan.new_passes), begun.control)
            if part + 1 == plan.new_passes:
                meanwhile()
            done = [pending.result() for pending in asked]
            self.broken |= {name for name, one in zip(self._names(), done, strict=True) if not one.is_finite}
            passes.append(done[0])
        return StepMetrics.of_passes(passes)

    def _names(self) -> list[str]:
        """Return who is taught, in the order of `_teach`."""
        return ["student", *(["control"] if self._parts.control is not None else []), *self._parts.students]

    def correct(self, rows: NDArray[np.int32], seed: int) -> int:
        """Teach once more what others did with rows that a user who is gone has moved; return in how many mini-batches, 0 when nobody did."""
        config = self._parts.config.student
        examples, labels = self._labelling.replayed_holding(rows, config.corrective_steps * config.batch_size, seed)
        for pending in self._teach(Lesson(examples, labels, 0, seed)):
            pending.result()
        return -(-len(examples) // config.batch_size)

    def _teach(self, lesson: Lesson, control: Pending[StepMetrics] | None = None) -> list[Pending[StepMetrics]]:
        """Give all a lesson, the student first; the control unless it has begun with it. Labels count by how the mixture ranks now."""
        if lesson.labels is not None:
            lesson = replace(lesson, labels=lesson.labels.scaled(self._labelling.ensemble.standing()))
        asked, usage = [self._parts.student.submit(Learner.step, lesson)], self._labelling.usage
        usage.used += lesson.num_labelled()
        if control is not None:
            asked.append(control)
        elif self._parts.control is not None:
            asked.append(self._parts.control.submit(Learner.step, replace(lesson, labels=None)))
        for name, pupil in self._parts.students.items():
            own = lesson.take(self._chosen(name, lesson.examples)) if pupil.namespaces else lesson
            asked.append(pupil.worker.submit(Learner.step, own))
            usage.used += own.num_labelled()
        return asked


def _last_ones(examples: Examples) -> NDArray[np.int64]:
    """Return some users' last queries, evenly spread over the users; a user's queries stand side by side, in order."""
    last = np.flatnonzero(np.append(examples.user[1:] != examples.user[:-1], True))
    return last[spread(len(last), len(examples) // HELD_OUT)]
