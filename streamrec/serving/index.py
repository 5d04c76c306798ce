"""Find the best rows of one namespace for a query: what an index is, and the exact one in numpy, for catalogues that are not large.

Shapes: m rows in the namespace, d dimensions, h history items. Positions count within the namespace, rows within the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

# Up to here one numpy product with a partial sort costs about what a search of inverted lists does.
EXACT_ROWS = 5_000
# Smallest norm that is divided by.
MIN_NORM = 1e-6
# So many scores at least, and so many times as many as are wanted, are narrowed down before they are sorted.
_MANY, _MANY_TIMES = 1024, 16


class Index(Protocol):
    """Search one namespace, in one version of a model.

    **Contract.** One thread at a time: buffers are reused.
    """

    def __len__(self) -> int:
        """Return m."""
        ...

    def search(self, query: Floats, own: Ints, own_bias: Floats, excluded: Ints, n: int) -> tuple[Ints, Floats]:
        """Return the best positions and their scores, best first, at most ``n``.

        Args:
            query: [d], already multiplied by the model's scale.
            own: Positions of the history's items [h]; a position may repeat.
            own_bias: What each of them adds to its item's score [h].
            excluded: Positions that may not be returned.
            n: How many are wanted.
        """
        ...

    def search_among(self, query: Floats, own: Ints, own_bias: Floats, excluded: Ints, n: int, among: Ints) -> tuple[Ints, Floats]:
        """Return the best of the positions ``among``, ascending, whether they are left out or not; see `search` for the rest."""
        ...

    def leave_out(self, mask: NDArray[np.bool_]) -> None:
        """Return no position where the mask [m] is true from now on, and all others again; a search takes no longer for it."""
        ...

    def updated(self, positions: Ints, vectors: Floats, bias: Floats, sample: Sample) -> Index:
        """Return the next version's index, which has other vectors at some positions, and more of them; this one answers as before.

        Args:
            positions: Which have changed or are new, ascending; the new ones follow the old ones without a gap. [k]
            vectors: Theirs. [k, d]
            bias: Theirs. [k]
            sample: Makes queries [num, d] for an index that has to be measured anew.
        """
        ...

    def settle(self) -> bool:
        """Do a few milliseconds' work after which searches cost less; False when none is left. Answers stay right without it.

        By the thread that calls `updated`, while another one searches.
        """
        ...

    def vectors(self, positions: Ints) -> Floats:
        """Return the vectors of some positions. [k, d]."""
        ...

    def bias(self, positions: Ints) -> Floats:
        """Return their biases. [k]."""
        ...

    def cosines(self, direction: Floats) -> Floats:
        """Return the cosine between each vector and a direction of length 1; zero for a vector without a direction. [m]."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return how it searches: its ``kind``, and what ``overlap`` with the exact best it was measured to have."""
        ...


Sample = Callable[[Index], Floats]


class ExactIndex:
    """Score all rows into one preallocated buffer, then select.

    Args:
        vectors: [m, d].
        bias: [m].
    """

    def __init__(self, vectors: Floats, bias: Floats) -> None:
        self._vectors = vectors
        self._bias = bias
        self._left_out = np.zeros(len(bias), np.bool_)
        self._candidates: Ints | None = None
        self._scores = np.empty(len(bias), np.float32)
        self._norms: Floats | None = None

    def __len__(self) -> int:
        return len(self._bias)

    def search(self, query: Floats, own: Ints, own_bias: Floats, excluded: Ints, n: int) -> tuple[Ints, Floats]:
        """Return the best positions and their scores; see `Index.search`."""
        scores = self._scores
        np.dot(self._vectors, query, out=scores)
        scores += self._bias
        np.add.at(scores, own, own_bias)
        scores[excluded] = -np.inf
        if self._candidates is None:
            return top(scores, n)
        # Picked out and not scored as -inf: among many equal values numpy finds the best ten times as slowly.
        best, best_scores = top(scores.take(self._candidates), n)
        return self._candidates[best], best_scores

    def search_among(self, query: Floats, own: Ints, own_bias: Floats, excluded: Ints, n: int, among: Ints) -> tuple[Ints, Floats]:
        """Score only these, into their places of the buffer; see `Index.search_among`."""
        scores = self._scores
        scores[among] = product(self._vectors, query, among) + self._bias[among]
        np.add.at(scores, own, own_bias)
        scores[excluded] = -np.inf
        best, best_scores = top(scores.take(among), n)
        return among[best], best_scores

    def leave_out(self, mask: NDArray[np.bool_]) -> None:
        """See `Index.leave_out`."""
        self._left_out = mask
        self._candidates = np.flatnonzero(~mask).astype(np.int32) if mask.any() else None

    def updated(self, positions: Ints, vectors: Floats, bias: Floats, sample: Sample) -> ExactIndex:
        """Copy and change the copy; see `Index.updated`."""
        num, size = len(self), max(len(self), int(positions.max(initial=-1)) + 1)
        whole, whole_bias = np.empty((size, self._vectors.shape[1]), np.float32), np.empty(size, np.float32)
        whole[:num], whole_bias[:num] = self._vectors, self._bias
        whole[positions], whole_bias[positions] = vectors, bias
        result = ExactIndex(whole, whole_bias)
        mask = np.zeros(size, np.bool_)
        mask[:num] = self._left_out
        result.leave_out(mask)
        return result

    def settle(self) -> bool:
        """Do nothing: there is nothing to do; see `Index.settle`."""
        return False

    def vectors(self, positions: Ints) -> Floats:
        """Return the vectors of some positions. [k, d]."""
        return self._vectors.take(positions, 0)

    def bias(self, positions: Ints) -> Floats:
        """Return their biases. [k]."""
        return self._bias.take(positions)

    def cosines(self, direction: Floats) -> Floats:
        """See `Index.cosines`."""
        if self._norms is None:
            self._norms = np.linalg.norm(self._vectors, axis=1).astype(np.float32)
        return np.asarray((self._vectors @ direction) / np.maximum(self._norms, MIN_NORM), np.float32)

    def facts(self) -> dict[str, Any]:
        """See `Index.facts`."""
        return {"kind": "exact", "overlap": 1.0}


def product(vectors: Floats, query: Floats, among: Ints) -> Floats:
    """Return the products of the rows ``among``; most of them are not picked out first, which would copy them."""
    products: Floats = vectors[among] @ query if 4 * len(among) < len(vectors) else (vectors @ query)[among]
    return products


def top(scores: Floats, n: int) -> tuple[Ints, Floats]:
    """Return the positions and values of the ``n`` largest finite scores, best first; ties go to the lower position.

    Example:
        >>> positions, values = top(np.array([1.0, 3.0, -np.inf, 3.0], np.float32), 3)
        >>> positions.tolist(), values.tolist()
        ([1, 3, 0], [3.0, 3.0, 1.0])
    """
    size = len(scores)
    if n >= size:
        chosen = np.arange(size, dtype=np.int32)
    elif size < max(_MANY, _MANY_TIMES * n):
        chosen = scores.argpartition(size - n)[size - n :].astype(np.int32)
        chosen.sort()
    else:
        chosen = _promising(scores, n)
        chosen = chosen[scores.take(chosen).argpartition(len(chosen) - n)[len(chosen) - n :]]
        chosen.sort()
    values = scores[chosen]
    order = (-values).argsort(kind="stable")
    chosen, values = chosen[order], values[order]
    if len(values) and values[-1] == -np.inf:
        num_finite = int(np.searchsorted(-values, np.inf))
        chosen, values = chosen[:num_finite], values[:num_finite]
    return chosen, values


def _promising(scores: Floats, n: int) -> Ints:
    """Return positions among which the ``n`` largest scores are.

    The scores are laid out as a table. The ``n`` columns of the largest maxima hold ``n`` scores that are as large as anything elsewhere.
    """
    width = math.isqrt(len(scores) * n)
    height = len(scores) // width
    maxima = scores[: height * width].reshape(height, width).max(axis=0)
    columns = maxima.argpartition(width - n)[width - n :].astype(np.int32)
    inside = columns + np.arange(0, height * width, width, dtype=np.int32)[:, None]
    return np.concatenate([inside.reshape(-1), np.arange(height * width, len(scores), dtype=np.int32)])
