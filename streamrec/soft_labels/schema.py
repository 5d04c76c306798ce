"""Hold teachers' scores and the soft labels mixed from them. Shapes: ``Q`` queries, ``T`` targets, ``K`` labels a query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TeacherScores:
    """Hold one teacher's answer to a batch.

    Attributes:
        version: The teacher's version.
        rows: Its best candidates, best first; -1 pads. [Q, K] int32
        logits: Their raw logits; -inf pads. [Q, K] float32
        log_norm: log Σ exp(logit / temperature) over all candidates. [Q] float32
        target_logits: Raw logit of each target; -inf where the teacher does not know it. [T] float32
        target_ranks: 0-based rank of each target. [T] int32
        temperature: The temperature that ``log_norm`` was taken at.
        probe: Mean log-likelihood of the known targets at nearby temperatures, factor → value.
    """

    version: str
    rows: NDArray[np.int32]
    logits: NDArray[np.float32]
    log_norm: NDArray[np.float32]
    target_logits: NDArray[np.float32]
    target_ranks: NDArray[np.int32]
    temperature: float
    probe: Mapping[float, float]


@dataclass(frozen=True)
class SoftLabels:
    """Hold the mixture that students learn from.

    Attributes:
        rows: Candidates, -1 pads. [Q, K] int32
        probs: Their probabilities; each row sums to 1, or to 0 where no teacher answered. [Q, K] float32
        versions: Teacher name to the version that took part.
    """

    rows: NDArray[np.int32]
    probs: NDArray[np.float32]
    versions: Mapping[str, str]

    def take(self, index: NDArray[np.int64]) -> SoftLabels:
        """Return the labels of queries ``index``."""
        return SoftLabels(self.rows[index], self.probs[index], self.versions)
