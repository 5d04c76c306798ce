"""Encode histories into queries, as the student does (``streamrec.models``); a contract test holds that both agree.

w = softmax(position_logits[:L]), p = Σ wᵢ v(hᵢ), q = p·pool_projection + Σ_{i < K} v(hᵢ)·last_projection[i], q ← scale · q / max(‖q‖, 1e-6).
"""

from __future__ import annotations

import math

import numpy as np

from streamrec.serving.index import MIN_NORM, Floats
from streamrec.state import Arrays

# What an encoder and the own-history bias are made of; the same for all items.
SHARED = ("position_logits", "own_bias", "pool_projection", "last_projection")


class Encoder:
    """Hold what all items of a version share.

    Args:
        arrays: ``SHARED``.
        scale: Of the scores.
    """

    def __init__(self, arrays: Arrays, scale: float) -> None:
        self.own_bias: Floats = arrays["own_bias"]
        self._scale = scale
        # All projections as one product: of the pooled history and of the K newest items, side by side. [(1 + K) dim, dim]
        self._projection: Floats = np.concatenate([arrays["pool_projection"], arrays["last_projection"]])
        self._weights = _weights_of_prefixes(arrays["position_logits"], len(self._projection) // self._projection.shape[1])

    def query(self, vectors: Floats) -> Floats:
        """Return the scaled query [dim] of a non-empty history's vectors [h, dim], newest first."""
        pooled_and_newest: Floats = self._weights[len(vectors) - 1] @ vectors  # [1 + K, dim]
        query: Floats = pooled_and_newest.reshape(-1) @ self._projection
        query *= self._scale / max(math.sqrt(query @ query), MIN_NORM)
        return query

    def parts(self, vectors: Floats) -> Floats:
        """Return what each of a history's items adds to the query [h, dim]; they sum to it.

        The query is linear in the vectors up to its norm, so each item's part is its part of the sum, by that norm.
        """
        weights = self._weights[len(vectors) - 1]
        parts: Floats = np.concatenate([weight[:, None] * vectors for weight in weights], axis=1) @ self._projection
        whole = parts.sum(0)
        parts *= self._scale / max(math.sqrt(whole @ whole), MIN_NORM)
        return parts


def _weights_of_prefixes(logits: Floats, num: int) -> list[Floats]:
    """Return for L = 1 … len(logits) softmax(logits[:L]) and rows with a 1 for each of the newest items [num, L]: no softmax per request."""
    tables: list[Floats] = []
    for length in range(1, len(logits) + 1):
        table = np.eye(num, length, -1, np.float32)
        table[0] = np.exp(logits[:length] - logits[:length].max())
        table[0] /= table[0].sum()
        tables.append(table)
    return tables
