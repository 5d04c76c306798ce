"""Compute ranking metrics from the ranks of the targets.

Shapes: ``Q`` queries, ``T`` targets, ``V`` rows. Ranks are 0-based; a target that is no
candidate or too far down has `UNRANKED`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from streamrec.features.examples import Examples

METRICS = ("recall@20", "recall@50", "mrr@20", "ndcg@10", "ndcg@20")
UNRANKED = np.int32(2**30)
RANK_LIMIT = 100
"""No metric looks further down a ranking."""
_AT_ONCE = 128
"""Targets whose rows are compared at a time: they stay in the processor's cache."""

PerQuery = Mapping[str, NDArray[np.float32]]


def ranks_from_scores(scores: torch.Tensor, examples: Examples) -> NDArray[np.int32]:
    """Rank each target among all rows of its query, down to `RANK_LIMIT`.

    Args:
        scores: ``-inf`` marks rows that are not candidates. [Q, V] float32
        examples: Q queries.

    Returns:
        How many other rows of the query score at least as high as the target; `UNRANKED` when these are `RANK_LIMIT` or more, or the target is
        no candidate or lies outside the V rows. Of equal scores the target comes last, so that a model that knows nothing gains nothing. [T] int32
    """
    table, query, target = scores.numpy(), examples.query_of_target, examples.target_rows
    ranks = np.full(len(target), UNRANKED, np.int32)
    inside = np.flatnonzero(target < table.shape[1])
    for start in range(0, len(inside), _AT_ONCE):
        index = inside[start : start + _AT_ONCE]
        own = table[query[index], target[index]]
        # Counted as bits, because sums of bools are widened first; without a sort of all rows.
        place = np.bitwise_count(np.packbits(table[query[index]] >= own[:, None], axis=1)).sum(1, dtype=np.int32) - 1
        ranks[index] = np.where(np.isneginf(own) | np.isnan(own) | (place >= RANK_LIMIT), UNRANKED, place)
    return ranks


def per_query_metrics(ranks: NDArray[np.int32], examples: Examples) -> dict[str, NDArray[np.float32]]:
    """Compute all `METRICS` for each query.

    Recall@k is hits / min(k, basket size); MRR@k is the reciprocal rank of the first hit; NDCG@k has binary gains.

    Args:
        ranks: 0-based rank of each target. [T] int32
        examples: Q queries.

    Returns:
        Metric name to values. [Q] float32
    """
    query, num = examples.query_of_target, len(examples)
    sizes = np.diff(examples.indptr)
    gains = 1.0 / np.log2(np.arange(2, 102))
    ideal = np.concatenate([[0.0], np.cumsum(gains)])

    def summed(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(query, values, num).astype(np.float64)

    result = {}
    for k in (20, 50):
        result[f"recall@{k}"] = summed((ranks < k).astype(float)) / np.minimum(k, sizes)
    best = np.full(num, int(UNRANKED), np.int64)
    np.minimum.at(best, query, ranks)
    result["mrr@20"] = np.where(best < 20, 1.0 / (best + 1.0), 0.0)
    for k in (10, 20):
        dcg = summed(np.where(ranks < k, gains[np.minimum(ranks, 99)], 0.0))
        result[f"ndcg@{k}"] = dcg / ideal[np.minimum(k, sizes)]
    return {name: values.astype(np.float32) for name, values in result.items()}


def known_queries(examples: Examples, num_rows: int) -> NDArray[np.int64]:
    """Return the queries that have some item below ``num_rows`` in the history and all targets below it."""
    has_history = ((examples.history >= 0) & (examples.history < num_rows)).any(1)
    unknown = np.bincount(examples.query_of_target, examples.target_rows >= num_rows, len(examples))
    return np.flatnonzero(has_history & (unknown == 0))
