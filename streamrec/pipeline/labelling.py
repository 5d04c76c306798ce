"""Have teachers answer a micro-batch's examples before anyone learns from them, and mix the answers into soft labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrec.evaluation.progressive import Progressive
from streamrec.evaluation.ranking import per_query_metrics
from streamrec.features.examples import Examples
from streamrec.pipeline.ingest import Ingest
from streamrec.pipeline.parts import Parts
from streamrec.pipeline.plan import Plan
from streamrec.pipeline.report import StepReport
from streamrec.soft_labels.ensemble import Ensemble
from streamrec.soft_labels.lists import score_counted
from streamrec.soft_labels.schema import SoftLabels, TeacherScores
from streamrec.soft_labels.scorer import RowFacts, Scorer
from streamrec.student.learner import Learner
from streamrec.teachers.counted import CountedTeachers
from streamrec.workers import Pending

OBSERVED_QUERIES = 512
"""The ensemble looks at so many queries of a batch: enough for means, and the student scores them once more."""


class Labelling:
    """Own the ensemble and the counted teachers.

    **Contract.** In a step: `begin`, `finish`, then `learn`. So no label comes from a state that has seen its example; the teachers that come in
    versions were asked for before the step.

    Args:
        parts: The scorer and the student.
        ingest: Says what rows hold.
        progressive: Gets the teachers' metrics.
    """

    def __init__(self, parts: Parts, ingest: Ingest, progressive: Progressive) -> None:
        self.ensemble = Ensemble()
        self.counted = CountedTeachers(parts.config.teachers)
        self._parts, self._ingest, self._progressive = parts, ingest, progressive
        self._answers: Pending[dict[str, TeacherScores]] | None = None
        self._seen: list[NDArray[np.int32]] | None = None

    def begin(self, examples: Examples, plan: Plan, seen: list[NDArray[np.int32]] | None) -> None:
        """Ask the scorer, which answers while the students are evaluated."""
        vocabulary = self._ingest.vocabulary
        rows = RowFacts(vocabulary.namespace_of_rows().copy(), vocabulary.generation_of_rows())
        teachers = plan.teachers if len(examples) else {}
        self._seen = seen
        self._answers = self._parts.scorer.submit(Scorer.score, examples, teachers, self.ensemble.temperatures(plan.teachers), rows, seen)

    def finish(self, examples: Examples, judged: NDArray[np.int64], plan: Plan, report: StepReport) -> SoftLabels | None:
        """Mix the teachers' answers, and only then let the ensemble learn what the users did."""
        assert self._answers is not None
        config, counted = self._parts.config.soft_labels, self.counted.teachers
        temperatures = self.ensemble.temperatures(counted)
        scores = {**self._answers.result(), **score_counted(counted, examples, temperatures, config.top_k, self._seen)}
        self._answers = self._seen = None
        if not scores:
            return None
        for name, part in scores.items() if plan.evaluate else ():
            values = {metric: per_query[judged] for metric, per_query in per_query_metrics(part.target_ranks, examples).items()}
            report.metrics[f"teachers.{name}"] = self._progressive.add(f"teachers.{name}", values)
        labels = self.ensemble.mix(examples, scores, config.top_k, config.temperature)
        sample = np.unique(np.linspace(0, len(examples) - 1, min(len(examples), OBSERVED_QUERIES)).astype(np.int64))
        observed = examples.take(sample)
        student = self._parts.student.submit(Learner.target_log_probs, observed)
        self.ensemble.observe(observed, {name: part.take(examples, sample) for name, part in scores.items()}, student.result())
        report.weights = self.ensemble.weights(scores)
        return labels

    def learn(self, examples: Examples) -> None:
        """Let the counted teachers learn from the examples, which are labelled by now."""
        self.counted.update(examples)
