"""Have teachers answer a micro-batch's examples before anyone learns from them, keep the answers, and mix them into soft labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamrec.config.teacher_names import CONTROL, ENSEMBLE
from streamrec.evaluation.progressive import Progressive
from streamrec.evaluation.ranking import per_query_metrics
from streamrec.features.examples import Examples
from streamrec.pipeline.challenge import METRIC
from streamrec.pipeline.ingest import Ingest
from streamrec.pipeline.parts import Parts
from streamrec.pipeline.plan import Plan
from streamrec.pipeline.refresh_state import RefreshState
from streamrec.pipeline.report import StepReport
from streamrec.soft_labels.ensemble import Candidates, Ensemble, mix
from streamrec.soft_labels.lists import list_ranks, score_counted
from streamrec.soft_labels.schema import CANDIDATES_A_LABEL, Answer, SoftLabels, TeacherScores, answers_of
from streamrec.soft_labels.scorer import RowFacts, Scorer
from streamrec.soft_labels.store import LabelStore
from streamrec.soft_labels.usage import LabelUsage
from streamrec.state import Component
from streamrec.student.learner import Learner
from streamrec.teachers.counted import CountedTeacher, CountedTeachers
from streamrec.workers import Pending

OBSERVED_QUERIES = 512
"""The ensemble looks at so many queries of a batch: enough for means, and the student scores them once more."""

CHALLENGE_QUERIES = 512
"""A new version is asked for so many queries of a batch at most: it costs a part of what the one in use does, and a few batches tell."""

_Unjudged = tuple[Examples, NDArray[np.int64], dict[str, TeacherScores], dict[str, Answer], Candidates | None]
"""Queries, which of them are judged, what teachers gave to them, the same weighed, and all candidates."""


class Labelling:
    """Own the ensemble, the counted teachers and the label store.

    **Contract.** In a step: `begin`, `finish`, `judge`, then `learn`, and `replayed` for each pass before it. So no label comes from a state that
    has seen its example; the teachers that come in versions were asked for before the step.

    Args:
        parts: The scorer and the student.
        ingest: Says what rows hold.
        progressive: Gets the teachers' metrics.
        record: Gets the scores by which versions are watched and compared.
    """

    def __init__(self, parts: Parts, ingest: Ingest, progressive: Progressive, record: RefreshState) -> None:
        self.ensemble = Ensemble()
        self.counted = CountedTeachers(parts.config.teachers)
        student, features = parts.config.student, parts.config.features
        self.store = LabelStore(student.replay_capacity, features.history_length, parts.config.soft_labels.top_k, student.replay_kind)
        self.usage = LabelUsage()
        self._parts, self._ingest, self._progressive, self._record = parts, ingest, progressive, record
        self._answers: Pending[dict[str, TeacherScores]] | None = None
        self._challenge: tuple[NDArray[np.int64], Pending[dict[str, TeacherScores]]] | None = None
        self._seen: list[NDArray[np.int32]] | None = None
        self._expected: Pending[NDArray[np.float32]] | None = None
        further = [one.completed(student) for one in parts.config.students.values()]
        self._represents = any(one.losses.on_representations for one in (student, *further))
        self._representations: Pending[dict[str, NDArray[np.float32]]] | None = None
        self._unjudged: _Unjudged | None = None
        self._unlearned: Examples | None = None
        self._unstored: list[tuple[Examples, SoftLabels, dict[str, Answer]]] = []

    def components(self) -> list[Component]:
        """Return what is kept."""
        return [self.ensemble, *self.counted.components(), self.store]

    def begin(self, examples: Examples, plan: Plan, seen: list[NDArray[np.int32]] | None) -> None:
        """Ask the scorer, which answers while the students are evaluated."""
        vocabulary = self._ingest.vocabulary
        rows = RowFacts(vocabulary.namespace_of_rows().copy(), vocabulary.generation_of_rows())
        teachers = plan.teachers if len(examples) else {}
        self._seen = seen
        temperatures, score = self.ensemble.temperatures(plan.teachers), Scorer.score
        self._expected = self._expect(examples) if len(self._lots(len(examples))) == 1 else None
        self._answers = self._parts.scorer.submit(score, examples, teachers, temperatures, rows, seen, plan.challengers)
        self._representations = self._parts.scorer.submit(Scorer.represent, examples, teachers, rows) if self._represents else None
        self._challenge, self._unstored = None, []
        if plan.challengers and plan.evaluate and len(examples):
            sample = spread(len(examples), CHALLENGE_QUERIES)
            some, some_seen = examples.take(sample), None if seen is None else [seen[query] for query in sample]
            self._challenge = sample, self._parts.scorer.submit(score, some, plan.challengers, {}, rows, some_seen, plan.teachers)

    def finish(self, examples: Examples, judged: NDArray[np.int64], plan: Plan, report: StepReport) -> SoftLabels:
        """Mix the teachers' answers into labels; ``versions`` is empty where none answered.

        A step larger than any micro-batch, as of a bootstrap or a backtest, is labelled in lots: what counts learns each lot once it is labelled, and
        the ensemble sees it then. So labels are as fresh, and weights as far, as if a stream had brought the events.
        """
        assert self._answers is not None
        lots = self._lots(len(examples))
        is_whole = plan.evaluate or len(lots) == 1
        counted = self._ask_counted(examples, self._seen) if is_whole else {}  # While the scorer is at it.
        versioned, self._answers = self._answers.result(), None
        self.usage.add(versioned)
        scores = {**versioned, **counted} if is_whole else {}
        answers = answers_of(scores)
        candidates = Candidates.of(answers) if answers else None
        if plan.evaluate:  # As they were before the step, and the ensemble too.
            self._unjudged = examples, judged, scores, self.ensemble.weigh(examples, answers), candidates
        labels = []
        for number, lot in enumerate(lots):
            part = examples if len(lots) == 1 else examples.take(lot)
            if len(lots) > 1:
                scores = {**{name: answer.take(examples, lot) for name, answer in versioned.items()}, **self._ask_counted(part)}
                answers, candidates, self._expected = answers_of(scores), None, self._expect(part)
            self._observe(part, scores)
            answers = self.ensemble.weigh(part, answers)
            labels.append(self._mix(len(part), answers, candidates))
            self.usage.made += labels[-1].num_labelled()
            self._unlearned = part
            self._unstored.append((part, labels[-1], answers))
            if number + 1 < len(lots) and plan.new_passes:
                self._count()
        report.weights = self.ensemble.weights(scores)
        representations = self._representations.result() if self._representations is not None else {}
        return replace(SoftLabels.concat(labels), representations=representations)

    def replayed(self, num: int, seed: int) -> tuple[Examples, SoftLabels]:
        """Draw earlier queries with their labels."""
        return self._at(self.store.draw(num, seed))

    def replayed_holding(self, rows: NDArray[np.int32], num: int, seed: int) -> tuple[Examples, SoftLabels]:
        """Draw earlier queries with one of the rows; see `LabelStore.draw_holding`."""
        return self._at(self.store.draw_holding(rows, num, seed))

    def _at(self, places: NDArray[np.int64]) -> tuple[Examples, SoftLabels]:
        return self.store.examples(places), self.store.labels(places)

    def _mix(self, num: int, answers: dict[str, Answer], candidates: Candidates | None = None) -> SoftLabels:
        config = self._parts.config.soft_labels
        return mix(answers, num, config.top_k, config.temperature, candidates)

    def _lots(self, num: int) -> list[NDArray[np.int64]]:
        """Cut a step's queries; a user's stand side by side, so that few users are in two lots."""
        pipeline = self._parts.config.pipeline
        size = pipeline.min_batch_events if num > pipeline.max_batch_events else max(num, 1)
        return [np.arange(start, min(start + size, num)) for start in range(0, max(num, 1), size)]

    def _ask_counted(self, examples: Examples, seen: list[NDArray[np.int32]] | None = None) -> dict[str, TeacherScores]:
        return self._score(self.counted.teachers, examples, seen)

    def _score(
        self, counted: Mapping[str, CountedTeacher], examples: Examples, seen: list[NDArray[np.int32]] | None = None
    ) -> dict[str, TeacherScores]:
        scores = score_counted(counted, examples, self.ensemble.temperatures(counted), self._parts.config.soft_labels.top_k, seen)
        self.usage.add(scores)
        return scores

    def _expect(self, examples: Examples) -> Pending[NDArray[np.float32]] | None:
        """Ask the student what it expects of the queries that the ensemble will look at."""
        if not len(examples):
            return None
        return self._parts.student.submit(Learner.target_log_probs, examples.take(spread(len(examples), OBSERVED_QUERIES)))

    def judge(self, report: StepReport) -> None:
        """Note how good the teachers were before the step that `finish` has made labels for, beside the student on events alone."""
        if self._unjudged is None:
            return
        (examples, judged, scores, answers, candidates), self._unjudged = self._unjudged, None
        ranks = {name: part.target_ranks for name, part in scores.items()}
        if len(scores) > 1:  # Its list ends where the longest of theirs does.
            config = self._parts.config.soft_labels
            mixed = mix(answers, len(examples), CANDIDATES_A_LABEL * config.top_k, config.temperature, candidates)
            ranks[ENSEMBLE] = list_ranks(mixed.rows, examples, self._seen)
        for name, found in ranks.items():
            values = {metric: per_query[judged] for metric, per_query in per_query_metrics(found, examples).items()}
            report.metrics[f"teachers.{name}"] = self._progressive.add(f"teachers.{name}", values)
            if name in scores:
                self._record.add_scores(name, scores[name].version, values[METRIC])
        control = report.metrics.get(CONTROL)
        mixture = report.metrics[f"teachers.{ENSEMBLE if len(ranks) > 1 else next(iter(ranks))}"] if ranks else None
        if control and mixture:
            self.ensemble.compare(len(judged), mixture[METRIC], control[METRIC])
        self._compare(examples, scores)

    def _compare(self, examples: Examples, scores: dict[str, TeacherScores]) -> None:
        """Note how new versions do beside the ones in use, on the same queries."""
        if self._challenge is None:
            return
        sample, pending = self._challenge
        some, self._challenge = examples.take(sample), None
        for name, new in pending.result().items():
            old = scores[name].take(examples, sample)
            pairs = [per_query_metrics(each.target_ranks, some)[METRIC] for each in (new, old)]
            self._record.add_pairs(name, new.version, *pairs)

    def _observe(self, examples: Examples, scores: dict[str, TeacherScores]) -> None:
        """Let the ensemble see what the users did before it mixes: its few weights can't leak a target, and nobody is believed without evidence."""
        expected, self._expected = self._expected, None
        if not scores or expected is None:
            return
        sample = spread(len(examples), OBSERVED_QUERIES)
        observed, student = examples.take(sample), expected.result()
        taken = {name: part.take(examples, sample) for name, part in scores.items()}
        # One that has no items yet, in a stream's first step, is no part of the mixture.
        self.ensemble.observe(observed, taken, student if np.isfinite(student).any() else None, self._ingest.vocabulary.num_items)

    def learn(self) -> None:
        """Let the counted teachers learn from what `finish` has labelled, and keep it for replay; then label anew what is due."""
        self._count()
        for unstored in self._unstored:
            self.store.add(*unstored)
        self._unstored = []
        self._relabel(self._parts.config.soft_labels.relabel)

    def _relabel(self, num: int) -> None:
        asked = {name: teacher for name, teacher in self.counted.teachers.items() if teacher.leaves_own_out and teacher.num_queries}
        if not num or not asked:
            return
        places = self.store.take_turn(num)
        examples, before = self.store.examples(places), self.store.answers(places)
        scores = self._score(asked, examples)
        # Who was not asked then has no say.
        fresh = {name: replace(answer, say=before[name].say) for name, answer in answers_of(scores).items() if name in before}
        labels = self._mix(len(examples), {**before, **fresh})
        self.store.replace(places, labels, fresh)
        self.usage.made += labels.num_labelled()

    def _count(self) -> None:
        if self._unlearned is not None:
            self.counted.update(self._unlearned)
        self._unlearned = None


def spread(num: int, most: int) -> NDArray[np.int64]:
    """Return at most so many of ``num`` queries, evenly spread and in order."""
    return np.unique(np.linspace(0, num - 1, min(num, most)).astype(np.int64))
