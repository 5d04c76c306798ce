"""Say what a student learns in one pass, and what came of it. The same lesson goes to every student; the control's has no labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamrec.features.examples import Examples
from streamrec.soft_labels.schema import SoftLabels


@dataclass(frozen=True)
class Lesson:
    """Hold the queries of one pass.

    Attributes:
        examples: New queries, then replayed ones.
        labels: Theirs; None for events alone.
        num_new: How many are new.
        seed: Of shuffling, dropout and negatives; the same for all passes of a step.
        number: Of the pass, from 0.
        num_passes: Of the step.
    """

    examples: Examples
    labels: SoftLabels | None
    num_new: int
    seed: int
    number: int = 0
    num_passes: int = 1

    def take(self, index: NDArray[np.int64]) -> Lesson:
        """Return the queries ``index``, ascending, of it."""
        labels = None if self.labels is None else self.labels.take(index)
        return replace(self, examples=self.examples.take(index), labels=labels, num_new=int((index < self.num_new).sum()))

    def num_labelled(self) -> int:
        """Return how many of the queries have labels."""
        return 0 if self.labels is None else self.labels.num_labelled()

    def labels_or_none(self, top_k: int) -> SoftLabels:
        """Return the labels; where there are none, empty ones in as much room."""
        num = len(self.examples)
        return self.labels or SoftLabels(np.full((num, top_k), -1, np.int32), np.zeros((num, top_k), np.float32), {})


@dataclass(frozen=True)
class StepMetrics:
    """Report what a student learned in a pass or a step.

    Attributes:
        num_new: New queries.
        num_trained: Queries trained on, replay and passes included.
        num_labelled: New queries with soft labels.
        hard_loss: Mean cross-entropy to the targets.
        soft_loss: Mean cross-entropy to the labels.
    """

    num_new: int
    num_trained: int
    num_labelled: int
    hard_loss: float
    soft_loss: float

    @property
    def is_finite(self) -> bool:
        """Whether something was learned by numbers: weights that are not finite never get finite again."""
        return self.num_trained == 0 or (math.isfinite(self.hard_loss) and math.isfinite(self.soft_loss))

    @staticmethod
    def of_passes(passes: Sequence[StepMetrics]) -> StepMetrics:
        """Join the passes of a step; there must be at least one."""
        trained = sum(one.num_trained for one in passes)
        hard, soft = (sum(value * one.num_trained for value, one in zip(values, passes, strict=True)) / max(trained, 1) for values in _losses(passes))
        return StepMetrics(passes[0].num_new, trained, passes[0].num_labelled, hard, soft)


def _losses(passes: Sequence[StepMetrics]) -> tuple[list[float], list[float]]:
    return [one.hard_loss for one in passes], [one.soft_loss for one in passes]
