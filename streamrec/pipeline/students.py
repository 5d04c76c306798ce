"""Teach all students the same lessons, made once: the new queries and replayed ones, with labels mixed from the store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamrec.features.examples import Examples
from streamrec.features.vocabulary import Vocabulary
from streamrec.pipeline.labelling import Labelling
from streamrec.pipeline.parts import Parts
from streamrec.pipeline.plan import Plan
from streamrec.soft_labels.schema import SoftLabels
from streamrec.student.learner import Learner
from streamrec.student.lesson import Lesson, StepMetrics
from streamrec.workers import Pending


class Students:
    """Make lessons and give them to all students, to the control without labels.

    Args:
        parts: The students.
        labelling: Has the store.
        vocabulary: Knows the namespaces.
    """

    def __init__(self, parts: Parts, labelling: Labelling, vocabulary: Vocabulary) -> None:
        self._parts, self._labelling, self._vocabulary = parts, labelling, vocabulary

    def put_items(self, rows: NDArray[np.int32], words: NDArray[np.int32], namespaces: NDArray[np.int32], generations: NDArray[np.int32]) -> None:
        """Tell all of items; see `Learner.put_items`."""
        for worker in self._parts.learners().values():
            worker.submit(Learner.put_items, rows, words, namespaces, generations)

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

        Args:
            examples: New queries.
            labels: Theirs.
            plan: Says how many passes.
            meanwhile: Called while the last pass is learned, when nothing more is drawn.
        """
        passes = []
        for number in range(plan.new_passes):
            old, old_labels = self._labelling.replayed(len(examples) * plan.replay_passes, plan.seed * 1000 + number)
            together, joined = Examples.concat([examples, old]), SoftLabels.concat([labels, old_labels])
            asked = self._teach(Lesson(together, joined, len(examples), plan.seed, number, plan.new_passes))
            if number + 1 == plan.new_passes:
                meanwhile()
            done = [pending.result() for pending in asked]
            passes.append(done[0])
        return StepMetrics.of_passes(passes)

    def correct(self, rows: NDArray[np.int32], seed: int) -> int:
        """Teach once more what others did with rows that a user who is gone has moved; return in how many mini-batches, 0 when nobody did."""
        config = self._parts.config.student
        examples, labels = self._labelling.replayed_holding(rows, config.corrective_steps * config.batch_size, seed)
        for pending in self._teach(Lesson(examples, labels, len(examples), seed)):
            pending.result()
        return -(-len(examples) // config.batch_size)

    def _teach(self, lesson: Lesson) -> list[Pending[StepMetrics]]:
        """Give all a lesson, the student first."""
        asked = [self._parts.student.submit(Learner.step, lesson)]
        if self._parts.control is not None:
            asked.append(self._parts.control.submit(Learner.step, replace(lesson, labels=None)))
        for name, pupil in self._parts.students.items():
            own = lesson.take(self._chosen(name, lesson.examples)) if pupil.namespaces else lesson
            asked.append(pupil.worker.submit(Learner.step, own))
        return asked
