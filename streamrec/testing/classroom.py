"""Teach a lone learner as a stream would: new queries and replayed ones, without a controller."""

from __future__ import annotations

import numpy as np

from streamrec.features.examples import Examples
from streamrec.soft_labels.schema import SoftLabels
from streamrec.soft_labels.store import LabelStore
from streamrec.student.learner import Learner
from streamrec.student.lesson import Lesson, StepMetrics


class Classroom:
    """Give a learner lessons and keep what it has had for replay, labels as they were.

    Args:
        learner: Who is taught.
        capacity: Queries that are kept; 0 replays none.
        width: Candidates of a label at most.
    """

    def __init__(self, learner: Learner, capacity: int, history_length: int, width: int) -> None:
        self._learner, self._width = learner, width
        self.store = LabelStore(capacity, history_length, width)

    def step(self, examples: Examples, labels: SoftLabels | None, seed: int, passes: int = 1) -> StepMetrics:
        """Teach new queries, and as many replayed ones a pass."""
        labels = labels or no_labels(len(examples), self._width)
        done = []
        for number in range(passes):
            places = self.store.draw(len(examples), seed * 1000 + number)
            together = Examples.concat([examples, self.store.examples(places)])
            joined = SoftLabels.concat([labels, self.store.labels(places)])
            done.append(self._learner.step(Lesson(together, joined, len(examples), seed, number, passes)))
        self.store.add(examples, labels, {})
        return StepMetrics.of_passes(done)


def teach(learner: Learner, examples: Examples, labels: SoftLabels | None, seed: int, passes: int = 1) -> StepMetrics:
    """Teach queries and nothing else."""
    lessons = [Lesson(examples, labels, len(examples), seed, number, passes) for number in range(passes)]
    return StepMetrics.of_passes([learner.step(lesson) for lesson in lessons])


def no_labels(num: int, width: int) -> SoftLabels:
    """Return labels of nobody."""
    return SoftLabels(np.full((num, width), -1, np.int32), np.zeros((num, width), np.float32), {})
