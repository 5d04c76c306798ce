"""Weigh the teachers by the mixture that best predicts the newest unseen events, per history length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamrec.features.examples import Examples
from streamrec.soft_labels.schema import Answer, SoftLabels, TeacherScores, padded, probability
from streamrec.state import ComponentState, Impersonal

LENGTH_BOUNDS = (1, 3, 10)
"""Histories of 1, 2 to 3, 4 to 10 and more items have mixtures of their own."""

STUDENT = "student"
CHANCE = "chance"
"""Gives every item the same probability, and teachers get credit for what they explain better. Without it a teacher of random lists would be paid for
the few targets that it hits and the student does not expect, and one that spreads its bets evenly for all of those."""
MOST_OBSERVED = 512
"""Targets of a batch that weights are fitted to: a basket of many does not crowd out the batches before."""
WINDOW = 4096
"""Newest targets that weights are fitted to."""
ENOUGH = 0.2
"""Labels count in full where teachers explain so much of what they and the student explain together. A student spreads its chances over all items and
so explains something of every target, a list nothing of what it lacks: asked to explain as much as the student, good lists would count half."""
LEAD = 0.1
"""Labels count in full where the mixture ranks a tenth better than a student on events alone."""
TIE = 0.05
"""It ranks no better by less than this."""
LEAST = 0.4
"""So much they count where it ranks no better: in full they would hold back a student that knows as much, and yet they tell it something."""
LEAD_QUERIES = 8192
"""Who ranks better is looked for among about so many newest queries; of fewer than an eighth of them nothing is concluded."""
_ITERATIONS = 10
_PRIOR = 20.0
"""Targets' worth of belief in the weights of before: a teacher that has explained nothing keeps a small weight, and can come back."""
_START_TEMPERATURES = {"linear": 0.05}


class Ensemble(Impersonal):
    """Hold one weight per teacher and history-length bucket, and one temperature per teacher.

    The weights are the mixture that best predicts the newest targets, as they were before any teacher had seen them. With w the weights and
    p_t(y) the chance that teacher t gave to target y, iterate

        r_t(y) = w_t p_t(y) / Σ w p(y),    w_t ∝ Σ_y r_t(y) + α w⁰_t

    over the last `WINDOW` targets, α being how much is believed before: of all lengths together that the n weights are equal, of one length that they
    are those of all. A teacher that knows nothing of a target gets no credit for it; a useless one fades to a floor.

    Chance takes part in the mixture, and so does the student as it is before it learns from the events: what it explains by itself, no teacher
    needs to tell it. So the teachers' common weight says how much their labels are worth (`share`), and teachers that add nothing lose their say.
    But who explains what a student does not may still rank worse, so lessons count labels less where the mixture ranks no better than a student on
    events alone (`compare`, `standing`).

    **Contract.** `observe` must get scores that were made before any teacher learned from the examples.

    References: Dempster, Laird and Rubin, "Maximum Likelihood from Incomplete Data via the EM Algorithm", JRSS B 1977.
    """

    name = "ensemble"

    def __init__(self) -> None:
        self._weights: dict[str, list[float]] = {}
        self._temperatures: dict[str, float] = {}
        self._observed = _Observed((), np.zeros((0, 0), np.float32), np.zeros(0, np.int8))
        self._found = np.zeros(3)  # Of so many queries the sums of how the mixture and the student on events alone ranked.

    def temperatures(self, teachers: Iterable[str]) -> dict[str, float]:
        """Return each teacher's temperature."""
        return {name: self._temperatures.get(name, _START_TEMPERATURES.get(name, 1.0)) for name in teachers}

    def weights(self, teachers: Iterable[str]) -> dict[str, list[float]]:
        """Return each teacher's weight per length bucket; over the given teachers they sum to 1 in each bucket."""
        names = list(teachers)
        raw = np.asarray([self._weights.get(name, [1.0] * (len(LENGTH_BOUNDS) + 1)) for name in names])
        return dict(zip(names, (raw / raw.sum(0)).tolist(), strict=True)) if names else {}

    def share(self, teachers: Iterable[str]) -> NDArray[np.float64]:
        """Return how much labels count per length bucket: 1 when teachers explain `ENOUGH`, 0 when they add nothing. [buckets]."""
        weights = self.weights(dict.fromkeys((*teachers, *self._observed.names)))
        told = np.sum([weights[name] for name in teachers], axis=0)
        return np.asarray(np.minimum(1.0, told / ENOUGH))

    def standing(self) -> float:
        """Return how much all labels count now, replayed ones too, by how the mixture ranks: from `LEAST` to 1, and 1 while nothing is known."""
        num, mixture, control = self._found.tolist()
        if num < LEAD_QUERIES / 8 or control <= 0:
            return 1.0
        return LEAST + (1 - LEAST) * min(1.0, max(0.0, (mixture / control - 1 - TIE) / (LEAD - TIE)))

    def compare(self, num: int, mixture: float, control: float) -> None:
        """Note how well the mixture and a student on events alone ranked ``num`` queries' targets before either learned from them: means."""
        self._found = self._found * np.exp(-num / LEAD_QUERIES) + num * np.array([1.0, mixture, control])

    def observe(self, examples: Examples, scores: Mapping[str, TeacherScores], student: NDArray[np.float32] | None, num_items: int) -> None:
        """Fit the weights to the newest targets, these included, and move temperatures one step towards what explains these best.

        Args:
            examples: Q queries.
            scores: Teacher name to its answer.
            student: The student's log-probability of each target, -inf where it does not know it; None leaves it out. [T]
            num_items: How many items there are to choose from.
        """
        if not scores or len(examples) == 0:
            return
        query = examples.query_of_target
        chance = 1.0 / max(num_items, 1)
        known = {name: probability(part.target_logits, part.log_norm[query], part.temperature) for name, part in scores.items()}
        likelihoods = {name: np.maximum(probability - chance, 0.0) for name, probability in known.items()}
        if student is not None:
            likelihoods[STUDENT] = np.exp(student.astype(np.float64))
        likelihoods[CHANCE] = np.full(len(query), chance)
        names, likelihood = tuple(likelihoods), np.stack(list(likelihoods.values()), 1)
        chosen = np.unique(np.linspace(0, len(query) - 1, min(len(query), MOST_OBSERVED)).astype(np.int64))
        self._observed = self._observed.followed_by(names, likelihood[chosen], _buckets(examples)[query[chosen]])
        self._fit()
        for name, part in scores.items():
            # On a tie, as when no target was known, the temperature stays.
            best = max(part.probe, key=lambda factor: (part.probe[factor], factor == 1.0))
            self._temperatures[name] = float(np.clip(part.temperature * best, 1e-3, 100.0))

    def _fit(self) -> None:
        names, likelihood, buckets = self._observed
        explained = likelihood.sum(1) > 0
        even = np.full(len(names), 1.0 / len(names))
        overall = _mixture(likelihood[explained], even, even)
        before = np.asarray(list(self.weights(names).values()))  # [names, buckets]
        fitted = [_mixture(likelihood[explained & (buckets == bucket)], overall, before[:, bucket]) for bucket in range(len(LENGTH_BOUNDS) + 1)]
        self._weights |= dict(zip(names, np.stack(fitted, 1).tolist(), strict=True))

    def weigh(self, examples: Examples, answers: Mapping[str, Answer]) -> dict[str, Answer]:
        """Return the answers with the say that each teacher has now in queries of this length."""
        if not answers:
            return {}
        buckets, weights = _buckets(examples), self.weights(answers)
        share = self.share(answers)[buckets]
        return {name: replace(answer, say=(np.asarray(weights[name])[buckets] * share).astype(np.float32)) for name, answer in answers.items()}

    def snapshot(self) -> ComponentState:
        """Return weights, temperatures, the window and how well the mixture ranks."""
        names, likelihood, buckets = self._observed
        meta = {"weights": dict(self._weights), "temperatures": dict(self._temperatures), "observed": list(names)}
        return ComponentState({"likelihood": likelihood, "bucket": buckets, "found": self._found.copy()}, meta)

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`. States of before there was a window begin with an empty one."""
        self._weights = {name: list(values) for name, values in base.meta.get("weights", {}).items()}
        self._temperatures = dict(base.meta.get("temperatures", {}))
        names = tuple(base.meta.get("observed", ()))
        likelihood, buckets = base.arrays.get("likelihood", np.zeros((0, len(names)))), base.arrays.get("bucket", np.zeros(0))
        self._observed = _Observed(names, np.asarray(likelihood, np.float32), np.asarray(buckets, np.int8))
        self._found = np.array(base.arrays.get("found", np.zeros(3)), np.float64)


def mix(answers: Mapping[str, Answer], num: int, top_k: int, temperature: float, candidates: Candidates | None = None) -> SoftLabels:
    """Mix the teachers' top candidates into one distribution per query.

    Args:
        answers: Teacher name to its answer, weighed.
        num: Q queries.
        top_k: K candidates are kept.
        temperature: Above 1 flattens the mixture.
        candidates: Of these answers, where they are mixed more than once.

    Returns:
        Labels whose sum is the probability that the teachers give to the kept candidates, times the teachers' say: a teacher that spreads its
        bets over the whole catalogue says little about the best few.
    """
    if not answers or num == 0:
        return SoftLabels(np.full((num, top_k), -1, np.int32), np.zeros((num, top_k), np.float32), {})
    says = np.stack([answer.say for answer in answers.values()], 1).astype(np.float64)
    rows, probs = (candidates or Candidates.of(answers)).mixed(says)
    order = np.argsort(-probs, axis=1, kind="stable")[:, :top_k]
    rows, probs = np.take_along_axis(rows, order, 1), np.take_along_axis(probs, order, 1)
    mass = np.minimum(1.0, probs.sum(1, keepdims=True))
    probs = probs ** (1.0 / temperature)
    total = probs.sum(1, keepdims=True)
    probs = np.divide(probs * mass, total, out=np.zeros_like(probs), where=total > 0).astype(np.float32)
    rows = np.where(probs > 0, rows, -1).astype(np.int32)
    versions = {name: answer.versions[-1] for name, answer in answers.items() if answer.versions}
    return SoftLabels(padded(rows, top_k, -1), padded(probs, top_k, 0), versions)


class _Observed(NamedTuple):
    """Hold the newest targets: what gave each of them which chance [W, names], and the length bucket of its history [W]."""

    names: tuple[str, ...]
    likelihood: NDArray[np.float32]
    buckets: NDArray[np.int8]

    def followed_by(self, names: tuple[str, ...], likelihood: NDArray[np.float64], buckets: NDArray[np.int64]) -> _Observed:
        """Return the window after more targets; what others gave to earlier ones is not known, so another set of names begins anew."""
        before = self if names == self.names else _Observed(names, np.zeros((0, len(names)), np.float32), np.zeros(0, np.int8))
        together = np.concatenate([before.likelihood, likelihood.astype(np.float32)]), np.concatenate([before.buckets, buckets.astype(np.int8)])
        return _Observed(names, together[0][-WINDOW:], together[1][-WINDOW:])


class Candidates(NamedTuple):
    """Hold all teachers' candidates of each query, those of equal rows side by side: what mixing needs whatever the weights are.

    Attributes:
        rows: -1 pads. [Q, C]
        chances: That the teacher gave to it; 0 pads. [Q, C]
        teacher: Who gave it, by place among the names. [Q, C]
        first: Whether it is the first of its row. [Q, C]
        group: Number of its row, over all queries. [Q · C]
    """

    rows: NDArray[np.int32]
    chances: NDArray[np.float64]
    teacher: NDArray[np.int64]
    first: NDArray[np.bool_]
    group: NDArray[np.int64]

    @staticmethod
    def of(answers: Mapping[str, Answer]) -> Candidates:
        """Put the candidates of at least one teacher in order."""
        rows = np.concatenate([part.rows for part in answers.values()], 1)
        chances = np.concatenate([part.chances for part in answers.values()], 1).astype(np.float64)
        order = np.argsort(rows, axis=1, kind="stable")
        ordered = np.take_along_axis(rows, order, 1)
        first = np.concatenate([np.ones((len(rows), 1), bool), np.diff(ordered, axis=1) != 0], 1)
        teacher = np.repeat(np.arange(len(answers)), [part.rows.shape[1] for part in answers.values()])[order]
        chances = np.where(ordered >= 0, np.take_along_axis(chances, order, 1), 0.0)
        return Candidates(ordered, chances, teacher, first, np.cumsum(first.ravel()) - 1)

    def mixed(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Give all of a row's probability within a query to its first place: weights [Q, teachers] → [Q, C] each."""
        probs = np.take_along_axis(weights, self.teacher, 1) * self.chances
        sums = np.bincount(self.group, probs.ravel(), minlength=int(self.group[-1]) + 1)
        return self.rows, np.where(self.first, sums[self.group].reshape(self.rows.shape), 0.0)


def _mixture(likelihood: NDArray[np.float32], prior: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights that explain targets best, beginning with ``weights``: likelihood [T, names], prior [names] → [names]."""
    if not len(likelihood):
        return prior
    for _ in range(_ITERATIONS):
        joint = likelihood * weights
        credit = (joint / joint.sum(1, keepdims=True)).sum(0) + _PRIOR * prior
        weights = credit / credit.sum()
    return weights


def _buckets(examples: Examples) -> NDArray[np.int64]:
    return np.searchsorted(LENGTH_BOUNDS, examples.lengths, side="left").astype(np.int64)
