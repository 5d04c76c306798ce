"""Define the repeat teacher: the chance that a user takes one of their own past items again.

An item of the history stands in a cell: how far back it was last taken, how often, and how long the history is. In each cell

    p = (taken + k p₀) / (shown + k)

where ``shown`` counts the items that stood there and ``taken`` the share of the next baskets that went to them. Both are sums over queries. p₀ is the
same ratio over all cells. So the chances of a history's items add up to the expected share of the next basket that repeats, and the
rest is mass that the teacher leaves to others.

References: Anderson et al., "The Dynamics of Repeat Consumption", WWW 2014 (recency and count decide).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrec.features.examples import Examples
from streamrec.models.lists import first_places

PLACES = (1, 2, 3, 4, 5, 6, 8, 12, 20, 35)
"""Where place buckets begin, after the first, which is the newest item alone."""
COUNTS = (2, 3, 5)
LENGTHS = (2, 3, 5, 10, 20, 40)
SHAPE = (len(LENGTHS) + 1, len(PLACES) + 1, len(COUNTS) + 1)
PRIOR = 50.0
"""A cell that has shown fewer items than this is closer to p₀ than to its own ratio."""
_QUERIES_AT_ONCE = 8192


def cells_of(history: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the distinct items of each history and the cell of each.

    Args:
        history: Newest first, -1 pads. [Q, N]

    Returns:
        (rows, in the order of their newest place, -1 where an item stands further in front or there is none [Q, N]; flat index into `SHAPE` [Q, N])
    """
    width = max(1, int((history >= 0).sum(1).max(initial=0)))
    history = history[:, :width]
    is_first = first_places(history)
    counts = np.ones(history.shape, np.int64)
    query, place = np.nonzero(is_first)
    for start in range(0, len(query), _QUERIES_AT_ONCE):
        part = slice(start, start + _QUERIES_AT_ONCE)
        counts[query[part], place[part]] = (history[query[part]] == history[query[part], place[part]][:, None]).sum(1)
    length = np.searchsorted(LENGTHS, (history >= 0).sum(1), side="right")[:, None]
    places = np.searchsorted(PLACES, np.arange(width), side="right")[None, :]
    cells = (length * SHAPE[1] + places) * SHAPE[2] + np.searchsorted(COUNTS, counts, side="right")
    return np.where(is_first, history, -1).astype(np.int32), cells


def count(examples: Examples) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what queries add to ``shown`` and ``taken``, [cells] each."""
    shown, taken = np.zeros(int(np.prod(SHAPE))), np.zeros(int(np.prod(SHAPE)))
    for start in range(0, len(examples), _QUERIES_AT_ONCE):
        part = examples.take(np.arange(start, min(start + _QUERIES_AT_ONCE, len(examples))))
        rows, cells = cells_of(part.history)
        shown += np.bincount(cells[rows >= 0], minlength=len(shown))
        query = part.query_of_target
        hits = rows[query] == part.target_rows[:, None]  # [T, N]
        target, place = np.nonzero(hits)
        share = 1.0 / np.diff(part.indptr)[query[target]]
        taken += np.bincount(cells[query[target], place], share, len(taken))
    return shown, taken


def chances(shown: NDArray[np.float64], taken: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p of each cell; 0 everywhere while nothing has been shown. [cells]."""
    overall = taken.sum() / max(float(shown.sum()), 1.0)
    return np.asarray((taken + PRIOR * overall) / (shown + PRIOR))
