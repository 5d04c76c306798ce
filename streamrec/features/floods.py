"""Leave out what a user does over and over with one item: it says nothing new of the item, and a bot has no end of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrec.features.examples import Examples


def floods(examples: Examples, most: int) -> NDArray[np.bool_]:
    """Return which targets fill so many places of their user's history already. [T].

    Args:
        examples: Queries; a history is what came strictly before its targets, so it does not matter how a log is cut into micro-batches.
        most: So many; 0 for no bound.
    """
    if not most or most > examples.history.shape[1] or not len(examples):
        return np.zeros(len(examples.target_rows), np.bool_)
    counts = (examples.history[examples.query_of_target] == examples.target_rows[:, None]).sum(1)
    return np.asarray(counts >= most)


def without(examples: Examples, targets: NDArray[np.bool_]) -> Examples:
    """Return the queries without some of their targets [T], and without those that have none left."""
    if not targets.any():
        return examples
    sizes = np.bincount(examples.query_of_target[~targets], minlength=len(examples))
    held = np.flatnonzero(sizes)
    indptr = np.concatenate([[0], np.cumsum(sizes[held])]).astype(np.int64)
    rows = examples.target_rows[~targets]
    return Examples(examples.history[held], indptr, rows, examples.weight[held], examples.user[held], examples.namespace[held])
