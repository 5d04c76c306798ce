"""Fit what follows a history from what items say of themselves, in closed form, so that an item nobody has touched has a place.

    F [V, D]: an item's features less their mean,  h = Σ dⁱ F[i-th newest item],  y: the next item
    min over W  Σ_queries ‖h W Fᵀ - e_y‖² + ridges   ⇒   W = (HᵀH + λI)⁻¹ HᵀF[y] (FᵀF + μI)⁻¹,   score = s · h W Fᵀ + b · log popularity

So it is the item–item regression of `streamrec.models.linear` whose weights are tied by features. λ, s and b are those that explain held-out
sequences best; W = I, plain likeness, takes part, for when there is little to learn from.

References: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, arXiv:1905.03375.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

F32 = NDArray[np.float32]

_RIDGES = (0.003, 0.03, 0.3)
"""λ in parts of HᵀH's mean eigenvalue."""
_ITEM_RIDGE = 0.1
_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""s, in units of one over the scores' spread."""
_POPULARITY = (0.0, 0.5, 1.0)
_JUDGED = 512
"""Held-out queries that settings are compared on."""
_LEAST = 32
"""Examples below which nothing is fitted."""


class Projection(NamedTuple):
    """Hold a fit: weights W [D, D], popularity [V] as it is added to scores, and s."""

    weights: F32
    prior: F32
    scale: float


class _Queries(NamedTuple):
    histories: F32  # [Q, D]
    targets: NDArray[np.int64]  # [Q]


def decayed(features: F32, histories: NDArray[np.int32], decay: float) -> F32:
    """Return Σ dⁱ F[i-th newest item] of histories [Q, N], newest first, -1 for gaps; F [V, D] → [Q, D]."""
    result = np.zeros((len(histories), features.shape[1]), np.float32)
    for place in range(histories.shape[1]):
        held = np.flatnonzero(histories[:, place] >= 0)
        result[held] += np.float32(decay**place) * features[histories[held, place]]
    return result


def fit(features: F32, is_known: NDArray[np.bool_], sequences: NDArray[np.int32], decay: float, max_examples: int, seed: int) -> Projection:
    """Fit to sequences.

    Args:
        features: F, zeros where nothing is known. [V, D]
        is_known: Which rows are candidates. [V]
        sequences: Rows, oldest first, -1 pads. [U, S]
        decay: d.
        max_examples: So many next items are learned from at most.
        seed: Of which sequences these are.
    """
    order = np.random.default_rng(seed).permutation(len(sequences))
    sequences = sequences[order[: max(1, max_examples // max(1, sequences.shape[1] - 1))]]
    num_held_out = len(sequences) // 10
    learned, judged = _queries(features, is_known, sequences[num_held_out:], decay), _queries(features, is_known, sequences[:num_held_out], decay)
    counts = np.bincount(sequences[sequences >= 0], minlength=len(features)).astype(np.float32)
    # One that is new is not known to be disliked: it begins with half of an average item's chance.
    popularity = np.log(counts + max(1.0, counts.sum() / max(1, int(is_known.sum())))).astype(np.float32)
    likeness = np.eye(features.shape[1], dtype=np.float32)
    if len(learned.targets) < _LEAST or not len(judged.targets):
        return Projection(likeness, np.zeros(len(features), np.float32), 1.0)
    judged = _Queries(judged.histories[:_JUDGED], judged.targets[:_JUDGED])
    tried = [likeness, *_solutions(features, learned)]
    fits = [(*_judge(features, is_known, popularity, judged, weights), weights) for weights in tried]
    _, scale, strength, weights = max(fits, key=lambda each: each[0])
    return Projection(weights, strength * popularity, scale)


def _queries(features: F32, is_known: NDArray[np.bool_], sequences: NDArray[np.int32], decay: float) -> _Queries:
    """Cut sequences into histories and next items, as far as something is known of both."""
    state = np.zeros((len(sequences), features.shape[1]), np.float32)
    histories, targets = [], []
    for place in range(sequences.shape[1] - 1):
        item, following = sequences[:, place], sequences[:, place + 1]
        state = np.float32(decay) * state + np.where((item >= 0)[:, None], features[np.maximum(item, 0)], np.float32(0))
        held = np.flatnonzero((following >= 0) & is_known[np.maximum(following, 0)] & state.any(1))
        histories.append(state[held])
        targets.append(following[held].astype(np.int64))
    if not histories:
        return _Queries(state[:0], np.zeros(0, np.int64))
    return _Queries(np.concatenate(histories), np.concatenate(targets))


def _solutions(features: F32, learned: _Queries) -> list[F32]:
    """Return W for each of `_RIDGES`."""
    past, items = _product(learned.histories.T, learned.histories), _product(features.T, features)
    # (FᵀF + μI) is symmetric: X (FᵀF + μI)⁻¹ is the solve's transpose.
    follows = _solve(_ridged(items, _ITEM_RIDGE), _product(features[learned.targets].T, learned.histories)).T
    return [_solve(_ridged(past, ridge), follows) for ridge in _RIDGES]


# By torch: it takes as many threads as it is told, numpy as many as the environment said at its import, and the last bits depend on them.
def _product(left: F32, right: F32) -> F32:
    return np.asarray((torch.from_numpy(left) @ torch.from_numpy(right)).numpy(), np.float32)


def _solve(matrix: F32, right: F32) -> F32:
    return np.asarray(torch.linalg.solve(torch.from_numpy(matrix), torch.from_numpy(right)).numpy(), np.float32)


def _ridged(gram: F32, ridge: float) -> F32:
    size = np.float32(ridge * np.trace(gram) / len(gram) + 1e-6)
    return np.asarray(gram + size * np.eye(len(gram), dtype=np.float32))


def _judge(features: F32, is_known: NDArray[np.bool_], popularity: F32, judged: _Queries, weights: F32) -> tuple[float, float, float]:
    """Return (the held-out targets' mean log-likelihood, s, b) of the best s and b."""
    rows = np.flatnonzero(is_known)
    place = np.searchsorted(rows, judged.targets)
    scores = _product(_product(judged.histories, weights), features[rows].T)
    spread = float(scores.std()) or 1.0
    found = []
    for factor, strength in itertools.product(_SCALES, _POPULARITY):
        logits = np.float32(factor / spread) * scores + np.float32(strength) * popularity[rows]
        top = logits.max(1)
        norm = top + np.log(np.exp(logits - top[:, None]).sum(1))
        found.append((float((logits[np.arange(len(place)), place] - norm).mean()), factor / spread, strength))
    return max(found)
