"""Teach all students the same lessons, made once: the new queries and replayed ones, with labels mixed from the store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamrec.features.examples import Examples
from streamrec.pipeline.labelling import Labelling
from streamrec.pipeline.parts import Parts
from streamrec.pipeline.plan import Plan
from streamrec.soft_labels.schema import SoftLabels
from streamrec.student.learner import Learner
from streamrec.student.lesson import Lesson, StepMetrics
from streamrec.workers import Pending


class Students:
    """Make lessons and give them to the student and its control, which sees no labels.

    Args:
        parts: The students.
        labelling: Has the store.
    """

    def __init__(self, parts: Parts, labelling: Labelling) -> None:
        self._parts, self._labelling = parts, labelling

    def put_items(self, rows: NDArray[np.int32], words: NDArray[np.int32], namespaces: NDArray[np.int32], generations: NDArray[np.int32]) -> None:
        """Tell all of items; see `Learner.put_items`."""
        for worker in filter(None, (self._parts.student, self._parts.control)):
            worker.submit(Learner.put_items, rows, words, namespaces, generations)

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
        return asked
