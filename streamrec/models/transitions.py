"""Define sequential rules: which items follow, or come before, an item within a few steps.

    count[a, b] += 1 / d  for each event b that came d places after a, and  β / d  for the way back
    score(b) = Σ_i  δ^i  count[hᵢ, b] / Σ_b count[hᵢ, b],   hᵢ the i-th newest item

A row keeps its M heaviest partners; of equals those with the new events stay.

References: Ludewig and Jannach, "Evaluation of Session-based Recommendation Algorithms", UMUAI 2018, arXiv:1803.09587 (SR).
**Deviation**: both directions, baskets, normed by item, bounded rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrec.features.examples import Examples
from streamrec.models.lists import best_rows

_QUERIES_AT_ONCE = 1024


def pairs_of(examples: Examples, reach: int, way_back: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return (row << 32 | partner, ascending, each once; what it adds) of all rules in the queries.

    Args:
        examples: Q queries; a basket's items are all at distance 1 from the newest item of the history.
        reach: Longest distance.
        way_back: β.
    """
    history = examples.history[:, :reach][examples.query_of_target]  # [T, reach]
    weight = (1.0 / np.arange(1, history.shape[1] + 1))[None, :] / np.sqrt(np.diff(examples.indptr))[examples.query_of_target][:, None]
    target = np.broadcast_to(examples.target_rows[:, None], history.shape)
    held = (history >= 0) & (history != target)
    old, new, value = history[held].astype(np.int64), target[held].astype(np.int64), np.broadcast_to(weight, history.shape)[held]
    keys = np.concatenate([old << 32 | new, new << 32 | old])
    unique, place = np.unique(keys, return_inverse=True)
    return unique, np.bincount(place, np.concatenate([value, way_back * value]), len(unique)).astype(np.float32)


def merge_rows(
    partners: NDArray[np.int32], weights: NDArray[np.float32], keys: NDArray[np.int64], values: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Add rules to the rows that they belong to.

    Args:
        partners: -1 pads. [V, M]
        weights: [V, M]
        keys: As `pairs_of` gives them.
        values: What each adds.

    Returns:
        (rows that change, ascending [R]; their new partners [R, M], heaviest first; their new weights [R, M])
    """
    width = partners.shape[1]
    rows = np.unique(keys >> 32)
    held_row, held_place = np.nonzero(partners[rows] >= 0)
    old_keys = rows[held_row] << 32 | partners[rows[held_row], held_place].astype(np.int64)
    all_keys = np.concatenate([keys, old_keys])
    order = np.argsort(all_keys, kind="stable")
    sorted_keys = all_keys[order]
    first = np.flatnonzero(np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]]))
    sums = np.add.reduceat(np.concatenate([values, weights[rows[held_row], held_place]])[order], first)
    is_new = order[first] < len(keys)
    unique = sorted_keys[first]
    owner = np.searchsorted(rows, unique >> 32)
    order = np.lexsort((~is_new, -sums, owner))
    place = np.arange(len(order)) - np.searchsorted(owner, owner[order])  # ``owner`` ascends.
    kept = place < width
    order, place = order[kept], place[kept]
    new_partners, new_weights = np.full((len(rows), width), -1, np.int32), np.zeros((len(rows), width), np.float32)
    new_partners[owner[order], place] = (unique[order] & 0xFFFFFFFF).astype(np.int32)
    new_weights[owner[order], place] = sums[order]
    return rows, new_partners, new_weights


def follow(
    history: NDArray[np.int32], partners: NDArray[np.int32], weights: NDArray[np.float32], decay: float, num_items: int, top: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return each query's best candidates and their scores: history [Q, N], newest first → ([Q, K], [Q, K]); see `best_rows`."""
    parts = [(np.zeros((0, top), np.int32), np.zeros((0, top), np.float32))]
    fade = (decay ** np.arange(num_items)).astype(np.float32)
    for start in range(0, len(history), _QUERIES_AT_ONCE):
        recent = history[start : start + _QUERIES_AT_ONCE, :num_items]
        known = (recent >= 0) & (recent < len(partners))
        place = np.where(known, recent, 0)
        held = weights[place]  # [Q, I, M]
        total = np.maximum(held.sum(2, keepdims=True), np.float32(1e-30))
        votes = np.where(known[:, :, None], fade[None, : recent.shape[1], None] * held / total, np.float32(0))
        parts.append(best_rows(partners[place].reshape(len(recent), -1), votes.reshape(len(recent), -1), top))
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([sums for _, sums in parts])
