"""Ask the students of a backtest once more what blocks have asked: right after each was learned, and after the last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamrec.config.teacher_names import CONTROL, STUDENT
from streamrec.evaluation.forgetting import forgetting
from streamrec.evaluation.ranking import per_query_metrics
from streamrec.features.examples import Examples
from streamrec.pipeline.parts import Parts
from streamrec.student.learner import CURRENT, Learner
from streamrec.workers import LocalWorker, Pending, Worker

P = ParamSpec("P")
T = TypeVar("T")

METRIC = "recall@20"
MOST_QUERIES = 1000
"""Queries of a block that are asked again, evenly spread: asking shall cost little beside learning."""


class _Listening(LocalWorker[Learner]):
    """Remember what the student was asked to rank last."""

    asked: Examples | None = None

    def submit(self, method: Callable[Concatenate[Learner, P], T], *args: P.args, **kwargs: P.kwargs) -> Pending[T]:
        """Call now; see `LocalWorker`."""
        if method == Learner.ranks and isinstance(args[0], Examples):
            self.asked = args[0]
        return super().submit(method, *args, **kwargs)


@dataclass
class _Block:
    examples: Examples
    learned: dict[str, float]


class Retention:
    """Measure learning and retained accuracy of a student, and of its control where there is one.

    **Contract.** Asking changes no state. What a protocol masks is not masked here.

    Args:
        parts: Of a controller that lives in this process; its student is exchanged for one that is listened to.
    """

    def __init__(self, parts: Parts) -> None:
        assert isinstance(parts.student, LocalWorker)
        self._student = parts.student = _Listening(parts.student.target)
        self._models: dict[str, Worker[Learner]] = {STUDENT: self._student}
        if parts.control is not None:
            self._models[CONTROL] = parts.control
        self._blocks: list[_Block] = []

    def learned(self) -> None:
        """Note that the block that was evaluated last has been learned."""
        asked = self._student.asked
        if asked is not None and len(asked):
            index = np.unique(np.linspace(0, len(asked) - 1, min(len(asked), MOST_QUERIES)).astype(np.int64))
            examples = asked.take(index)
            self._blocks.append(_Block(examples, self._scores(examples)))

    def at_the_end(self) -> dict[str, dict[str, float]]:
        """Return ``la``, ``ra`` and ``h_mean`` of each model over the blocks that were learned; empty without any."""
        retained = [self._scores(block.examples) for block in self._blocks]
        found = {name: forgetting([block.learned[name] for block in self._blocks], [scores[name] for scores in retained]) for name in self._models}
        return {name: values._asdict() for name, values in found.items() if values is not None}

    def _scores(self, examples: Examples) -> dict[str, float]:
        ranks: dict[str, NDArray[np.int32]] = {
            name: model.submit(Learner.ranks, examples, [CURRENT]).result()[CURRENT] for name, model in self._models.items()
        }
        return {name: float(per_query_metrics(found, examples)[METRIC].mean()) for name, found in ranks.items()}
