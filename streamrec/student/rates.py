"""Judge whether a student that learns faster finds more of what comes next: what a bootstrap's first steps are for, beside learning."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamrec.evaluation.ranking import per_query_metrics
from streamrec.features.examples import Examples

JUDGED_BY = "recall@20"
STEPS = 3
"""So many steps are judged, by the last of them: early ones favour who is fast, whatever comes of it."""
LEAST_QUERIES, MOST_QUERIES = 32, 4096
MOST_ROWS = 200_000
"""With more items none is tried: it would take as much memory again."""
SLOWER = 0.7
"""By so much the faster one's rate falls at each later step of several passes, down to the configured one: later there is less far to go."""
_ERRORS = 2.0


class Verdict(NamedTuple):
    """Say what two learners found of the same queries before they learned them.

    Attributes:
        is_better: Whether the faster one found more, by more than two standard errors: who is slow catches up with the steps.
        found: Mean recall@20 of the one that is as fast as configured; not a number where there were too few.
        found_faster: That of the faster one.
    """

    is_better: bool
    found: float
    found_faster: float


def queries_of(examples: Examples, num_new: int) -> Examples:
    """Return at most `MOST_QUERIES` of a lesson's new queries, evenly spread."""
    return examples.take(np.unique(np.linspace(0, num_new - 1, min(num_new, MOST_QUERIES)).astype(np.int64)))


def verdict(examples: Examples, ranks: NDArray[np.int32], ranks_faster: NDArray[np.int32]) -> Verdict:
    """Compare by the same queries: ranks [T] of the targets by either. Fewer than `LEAST_QUERIES` say nothing."""
    if len(examples) < LEAST_QUERIES:
        return Verdict(False, math.nan, math.nan)
    found, faster = (per_query_metrics(each, examples)[JUDGED_BY] for each in (ranks, ranks_faster))
    return Verdict(t_value(faster - found) > _ERRORS, float(found.mean()), float(faster.mean()))


def t_value(differences: NDArray[np.float32]) -> float:
    """Return the mean by its standard error; where all are the same, 0 or infinity by its sign."""
    mean, error = float(differences.mean()), float(differences.std(ddof=1)) / len(differences) ** 0.5
    return mean / error if error > 0 else float(np.copysign(np.inf, mean)) if mean else 0.0
