"""Find the best rows of one namespace for a query: exact, in numpy for small catalogues and in FAISS for large ones.

Shapes: m rows in the namespace, d dimensions, h history items. Positions count within the namespace, rows within the model.
"""

from __future__ import annotations

from typing import Any, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

# Up to here one numpy product with a partial sort is as fast as a FAISS call, and it needs no copy of the vectors.
EXACT_ROWS = 50_000


class Index(Protocol):
    """Search one namespace.

    **Contract.** One thread at a time: the score buffer is reused.
    """

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


class ExactIndex:
    """Score all rows into one preallocated buffer, then select.

    Args:
        vectors: [m, d].
        bias: [m].
    """

    def __init__(self, vectors: Floats, bias: Floats) -> None:
        self._vectors = vectors
        self._bias = bias
        self._candidates: Ints | None = None
        self._scores = np.empty(len(bias), np.float32)

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
        scores[among] = _product(self._vectors, query, among) + self._bias[among]
        np.add.at(scores, own, own_bias)
        scores[excluded] = -np.inf
        best, best_scores = top(scores.take(among), n)
        return among[best], best_scores

    def leave_out(self, mask: NDArray[np.bool_]) -> None:
        """See `Index.leave_out`."""
        self._candidates = np.flatnonzero(~mask).astype(np.int32) if mask.any() else None


class FaissIndex:
    """Search an exact flat inner-product index; the bias is one more dimension, so that the library ranks the whole score.

    What depends on the request (own-history bias, exclusions) touches at most h + e positions. So the best n + h + e are fetched, those
    positions are dropped from them and scored by hand, and the best n of both are exactly the best n.

    Args:
        vectors: [m, d].
        bias: [m].
    """

    def __init__(self, vectors: Floats, bias: Floats) -> None:
        self._vectors = vectors
        self._given_bias = bias
        self._bias = bias.copy()
        self._left_out = np.zeros(len(bias), np.bool_)
        # Replicas are processes; threads inside one would only take the cores of its neighbours.
        faiss.omp_set_num_threads(1)
        self._index = faiss.IndexFlatIP(vectors.shape[1] + 1)
        self._index.add(np.concatenate([vectors, bias[:, None]], axis=1))
        # The library's own memory, [m, d + 1]: it has no call that changes one number.
        self._stored = faiss.rev_swig_ptr(self._index.get_xb(), len(bias) * self._index.d).reshape(len(bias), self._index.d)

    def search(self, query: Floats, own: Ints, own_bias: Floats, excluded: Ints, n: int) -> tuple[Ints, Floats]:
        """Return the best positions and their scores; see `Index.search`."""
        return self._search(query, own, own_bias, excluded, n)

    def search_among(self, query: Floats, own: Ints, own_bias: Floats, excluded: Ints, n: int, among: Ints) -> tuple[Ints, Floats]:
        """Search under a bitmap, or score few by hand; see `Index.search_among`."""
        if len(among) > EXACT_ROWS and not self._left_out[among].any():
            mask = np.zeros(len(self._bias), np.bool_)
            mask[among] = True
            return self._search(query, own, own_bias, excluded, n, mask)
        scores = _product(self._vectors, query, among) + self._given_bias[among]
        places = np.searchsorted(among, own)
        inside = places < len(among)
        inside[inside] = among[places[inside]] == own[inside]
        np.add.at(scores, places[inside], own_bias[inside])
        scores[np.isin(among, excluded)] = -np.inf
        best, best_scores = top(scores, n)
        return among[best], best_scores

    def _search(
        self, query: Floats, own: Ints, own_bias: Floats, excluded: Ints, n: int, mask: NDArray[np.bool_] | None = None
    ) -> tuple[Ints, Floats]:
        mine, inverse = np.unique(own, return_inverse=True)
        special = np.union1d(mine, excluded)
        fetch = min(n + len(special), len(self._bias))
        wanted = None if mask is None else _under(mask)
        found_scores, found = self._index.search(np.append(query, np.float32(1.0))[None, :], fetch, params=wanted)
        # Positions that are left out are never found: -1 stands where there were no others.
        others = ~np.isin(found[0], special) & (found[0] >= 0)
        scores = self._vectors[mine] @ query + self._bias[mine]
        np.add.at(scores, inverse, own_bias)
        allowed = ~np.isin(mine, excluded)
        if mask is not None:
            allowed &= mask[mine]
        positions = np.concatenate([found[0][others].astype(np.int32), mine[allowed]])
        best, best_scores = top(np.concatenate([found_scores[0][others], scores[allowed]]), n)
        return positions[best], best_scores

    def leave_out(self, mask: NDArray[np.bool_]) -> None:
        """Give positions a bias that nothing makes up for; see `Index.leave_out`."""
        changed = np.flatnonzero(mask != self._left_out)
        self._bias[changed] = np.where(mask[changed], np.float32(-np.inf), self._given_bias[changed])
        self._stored[changed, -1] = self._bias[changed]
        self._left_out = mask


def _under(mask: NDArray[np.bool_]) -> Any:
    """Return the library's parameters of a search that finds only positions where the mask is true."""
    library: Any = faiss  # Its stubs know only the signatures of C++.
    return library.SearchParameters(sel=library.IDSelectorBitmap(np.packbits(mask, bitorder="little")))


def _product(vectors: Floats, query: Floats, among: Ints) -> Floats:
    """Return the products of the rows ``among``; most of them are not picked out first, which would copy them."""
    products: Floats = vectors[among] @ query if 4 * len(among) < len(vectors) else (vectors @ query)[among]
    return products


def build_index(vectors: Floats, bias: Floats, exact_rows: int = EXACT_ROWS) -> Index:
    """Return the index that suits the number of rows; above ``exact_rows`` it is FAISS."""
    return ExactIndex(vectors, bias) if len(bias) <= exact_rows else FaissIndex(vectors, bias)


def top(scores: Floats, n: int) -> tuple[Ints, Floats]:
    """Return the positions and values of the ``n`` largest finite scores, best first; ties go to the lower position.

    Example:
        >>> positions, values = top(np.array([1.0, 3.0, -np.inf, 3.0], np.float32), 3)
        >>> positions.tolist(), values.tolist()
        ([1, 3, 0], [3.0, 3.0, 1.0])
    """
    size = len(scores)
    if n < size:
        chosen = scores.argpartition(size - n)[size - n :].astype(np.int32)
        chosen.sort()
    else:
        chosen = np.arange(size, dtype=np.int32)
    values = scores[chosen]
    order = (-values).argsort(kind="stable")
    chosen, values = chosen[order], values[order]
    if len(values) and values[-1] == -np.inf:
        num_finite = int(np.searchsorted(-values, np.inf))
        chosen, values = chosen[:num_finite], values[:num_finite]
    return chosen, values
