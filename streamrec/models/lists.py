"""Sum weighted votes for rows, query by query, and keep the best: what list-making teachers share.

Shapes: ``Q`` queries, ``C`` votes a query, ``K`` kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_VOTES_AT_ONCE = 2**16
"""Votes that are sorted at a time: they stay in the processor's cache."""
_STEPS = 2**24
"""A vote is held in so many steps of its query's largest, so that votes sort together with their rows as whole numbers."""
_PLACE_BITS = 20
"""Of a query's votes there may be a million: their sum and a place fit in 63 bits."""


def best_rows(rows: NDArray[np.int32], votes: NDArray[np.float32], top: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Sum each row's votes within a query and return the rows with the largest sums, largest first.

    Args:
        rows: Row of each vote, -1 for none. [Q, C]
        votes: Not below 0; what is 0 counts for nothing. [Q, C]
        top: K.

    Returns:
        (rows, -1 pads [Q, K] int32; their sums, 0 on padding [Q, K] float32)

    Example:
        >>> rows, sums = best_rows(np.array([[3, 5, 3, -1]]), np.array([[1.0, 1.5, 1.0, 9.0]], np.float32), 3)
        >>> rows.tolist(), sums.tolist()
        ([[3, 5, -1]], [[2.0, 1.5, 0.0]])
    """
    num, width = rows.shape
    kept_rows, kept_sums = np.full((num, top), -1, np.int32), np.zeros((num, top), np.float32)
    size = max(1, _VOTES_AT_ONCE // max(1, width))
    for start in range(0, num if width else 0, size):
        part = slice(start, start + size)
        found, sums = _best(rows[part], votes[part], min(top, width))
        kept_rows[part, : found.shape[1]], kept_sums[part, : found.shape[1]] = found, sums
    return kept_rows, kept_sums


def _best(rows: NDArray[np.int32], votes: NDArray[np.float32], top: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    votes = np.where(rows >= 0, votes, np.float32(0))
    largest = np.maximum(votes.max(1, keepdims=True), np.float32(1e-30))
    key = np.sort((rows.astype(np.int64) + 1) << 32 | (votes / largest * (_STEPS - 1)).astype(np.int64), axis=1)
    row = key >> 32
    total = np.cumsum(key & 0xFFFFFFFF, axis=1)
    ends = np.ones(row.shape, bool)
    ends[:, :-1] = row[:, 1:] != row[:, :-1]
    query, place = np.nonzero(ends)
    sums = np.diff(total[query, place], prepend=0)
    first = np.diff(query, prepend=-1) > 0
    sums[first] = total[query[first], place[first]]
    # Sum and place in one number, so that the best are found by a sort alone; of equal sums the lower row comes first.
    last = row.shape[1] - 1
    ranked = np.zeros(row.shape, np.int64)
    ranked[query, place] = np.where(row[query, place] > 0, sums, 0) << _PLACE_BITS | (last - place)
    ranked.sort(axis=1)
    chosen = ranked[:, : last - top : -1] if top <= last else ranked[:, ::-1]
    values = chosen >> _PLACE_BITS
    found = np.where(values > 0, np.take_along_axis(row, last - (chosen & (1 << _PLACE_BITS) - 1), 1) - 1, -1).astype(np.int32)
    return found, (values * (largest.astype(np.float64) / (_STEPS - 1))).astype(np.float32)


def first_places(history: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return which places hold an item for the first time, seen from the front; padding holds none. history [Q, N] → [Q, N] bool."""
    order = np.argsort(history, axis=1, kind="stable")
    ordered = np.take_along_axis(history, order, 1)
    is_first = np.ones(history.shape, bool)
    is_first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    result = np.empty(history.shape, bool)
    np.put_along_axis(result, order, is_first & (ordered >= 0), 1)
    return result
