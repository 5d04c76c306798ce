"""Hold teachers' scores and the soft labels mixed from them. Shapes: ``Q`` queries, ``T`` targets, ``K`` labels and ``C`` candidates a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from streamrec.features.examples import Examples

T = TypeVar("T", bound=np.generic)

PROBE_FACTORS = (0.4, 0.64, 0.8, 1.0, 1.25, 1.56, 2.5)
"""Temperatures are tried over a wide range, because a backtest has few steps to find the right one."""

CANDIDATES_A_LABEL = 2
"""A teacher answers with so many candidates for each label that is kept of the mixture: what is second to one may be first to all together."""


@dataclass(frozen=True)
class TeacherScores:
    """Hold one teacher's answer to a batch: a list of its best candidates, which all its probability lies on.

    Its order of a few dozen items and its bets on the rest of the catalogue deserve very different trust, so one temperature can't be right for
    both. What a list leaves out, other teachers and the student account for.

    Attributes:
        version: The teacher's version.
        rows: Its best candidates, best first; -1 pads. [Q, K] int32
        logits: Their raw logits; -inf pads. [Q, K] float32
        log_norm: log Σ exp(logit / temperature) over all candidates. [Q] float32
        target_logits: Raw logit of each target; -inf where the teacher does not know it. [T] float32
        target_ranks: 0-based rank of each target, among all items where the teacher scores all. [T] int32
        temperature: The temperature that ``log_norm`` was taken at.
        probe: Mean log-likelihood of the listed targets at nearby temperatures, factor → value.
        seconds: What the answer took.
    """

    version: str
    rows: NDArray[np.int32]
    logits: NDArray[np.float32]
    log_norm: NDArray[np.float32]
    target_logits: NDArray[np.float32]
    target_ranks: NDArray[np.int32]
    temperature: float
    probe: Mapping[float, float]
    seconds: float = 0.0

    def take(self, examples: Examples, index: NDArray[np.int64]) -> TeacherScores:
        """Return the answer for queries ``index`` of ``examples``, which it was made for."""
        kept = np.isin(examples.query_of_target, index)
        return replace(
            self,
            rows=self.rows[index],
            logits=self.logits[index],
            log_norm=self.log_norm[index],
            target_logits=self.target_logits[kept],
            target_ranks=self.target_ranks[kept],
        )

    def answer(self) -> Answer:
        """Return what is kept of it."""
        chances = probability(self.logits, self.log_norm[:, None], self.temperature)
        ones = np.ones(len(self.rows), np.float32)
        return Answer((self.version,), self.rows, chances, self.temperature * ones, np.zeros(len(self.rows), np.int32), ones)


@dataclass(frozen=True)
class Answer:
    """Hold what is kept of one teacher's answers to queries, and what they counted for: enough to mix them, whenever that is.

    Logits are ``temperature * log(chances)`` up to a constant a query; the tail, what the teacher gave to all other items, is 1 less the sum.

    Attributes:
        versions: Of the teacher.
        rows: Its best candidates; -1 pads. [Q, C] int32
        chances: What it gave to each; 0 pads. [Q, C] float
        temperature: At which it did. [Q] float32
        version: Which of the versions answered; -1: none was asked. [Q] int32
        say: Its weight in the mixture, times how much the labels count. [Q] float32
    """

    versions: tuple[str, ...]
    rows: NDArray[np.int32]
    chances: NDArray[np.float64]
    temperature: NDArray[np.float32]
    version: NDArray[np.int32]
    say: NDArray[np.float32]


def answers_of(scores: Mapping[str, TeacherScores]) -> dict[str, Answer]:
    """Return what is kept of each teacher's scores."""
    return {name: part.answer() for name, part in scores.items()}


def padded(values: NDArray[T], width: int, fill: float) -> NDArray[T]:
    """Return values [Q, C] with columns to a width of at least C."""
    return values if values.shape[1] >= width else np.pad(values, ((0, 0), (0, width - values.shape[1])), constant_values=fill)


def probability(logits: NDArray[np.float32], log_norm: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """Return exp(logit / temperature - log_norm), 0 where either is not finite."""
    known = np.isfinite(logits) & np.isfinite(log_norm)
    exponent = np.where(known, logits, 0.0) / temperature - np.where(known, log_norm, 0.0)
    return np.where(known, np.exp(np.minimum(exponent, 0.0)), 0.0)


@dataclass(frozen=True)
class SoftLabels:
    """Hold the mixture that students learn from.

    Attributes:
        rows: Candidates, -1 pads. [Q, K] int32
        probs: Their probabilities, scaled so that a row's sum, between 0 and 1, says how much the labels count. [Q, K] float32
        versions: Teacher name to the version that took part.
        representations: Teacher name to its vector of each query's history, zeros where it has none; kept for new queries alone. [Q, E] float32
    """

    rows: NDArray[np.int32]
    probs: NDArray[np.float32]
    versions: Mapping[str, str]
    representations: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def num_labelled(self) -> int:
        """Return how many of the queries any teacher says something of."""
        return int((self.probs > 0).any(1).sum())

    def take(self, index: NDArray[np.int64]) -> SoftLabels:
        """Return the labels of queries ``index``."""
        representations = {name: vectors[index] for name, vectors in self.representations.items()}
        return SoftLabels(self.rows[index], self.probs[index], self.versions, representations)

    def scaled(self, factor: float) -> SoftLabels:
        """Return labels that count ``factor`` times as much, from 0 to 1."""
        return self if factor == 1.0 else replace(self, probs=self.probs * np.float32(factor))

    @staticmethod
    def concat(parts: Sequence[SoftLabels]) -> SoftLabels:
        """Join the labels of parts in order; there must be at least one."""
        versions = {name: version for part in parts for name, version in part.versions.items()}
        widths = {name: vectors.shape[1] for part in parts for name, vectors in part.representations.items()}
        representations = {
            name: np.concatenate([part.representations.get(name, np.zeros((len(part.rows), width), np.float32)) for part in parts])
            for name, width in widths.items()
        }
        return SoftLabels(np.concatenate([part.rows for part in parts]), np.concatenate([part.probs for part in parts]), versions, representations)
