"""Solve the linear item-item teacher's ridge regression where G = XᵀX is too large to factorise.

    G ≈ U Uᵀ + D,   U [M, r] from the largest r eigenpairs,  D the diagonal of what they leave
    B = (U Uᵀ + D + λ I)⁻¹ C = E C − E U (I + Uᵀ E U)⁻¹ Uᵀ E C,   E = (D + λ I)⁻¹

So what a query gets is a few sparse rows of E C less a product of width r. With r = M it is the ridge regression, with r = 0 each item alone.

References: Halko, Martinsson & Tropp, "Finding Structure with Randomness", SIAM Review 2011, arXiv:0909.4061 (subspace iteration); the inverse is
Woodbury's identity.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch

from streamrec.models.sparse_sums import Rows

ITERATIONS = 4
"""Products with G that turn random directions into those of the largest eigenvalues."""

CHUNK_ENTRIES = 2**18
"""Entries of E C that are added to scores at a time; bounds memory, and what lies in a processor's cache is added faster."""

LONG = 64
"""A row is long when one in so many of its places holds an entry: then to add all of its places, one beside the other, takes less time."""

LONG_BYTES = 2**28
"""What long rows may take as dense ones, the longest first."""

MORE = 32
"""Directions beyond the rank that are iterated and left out: the last ones converge slowly."""


class LowRank(NamedTuple):
    """Hold B as a sparse matrix less a product.

    Attributes:
        near: E C.
        left: E U. [M, r] float32
        right: (I + Uᵀ E U)⁻¹ Uᵀ E C. [r, M] float32
    """

    near: Rows
    left: torch.Tensor
    right: torch.Tensor


class Scores:
    """Score with B, its rows of many entries as they are in a dense matrix: these are added several times faster."""

    def __init__(self, held: LowRank) -> None:
        near, num = held.near, len(held.left)
        self._left, self._right = held.left, held.right
        lengths = near.starts.diff()
        most = LONG_BYTES // (4 * max(num, 1))
        long = lengths > max(num // LONG, int(lengths.sort(descending=True).values[most]) if most < num else 0)
        self._number = torch.where(long, long.cumsum(0) - 1, -1)
        self._long = torch.zeros(int(long.sum()), num)
        row = torch.repeat_interleave(torch.arange(num), lengths)
        inside = long[row]
        self._long[self._number[row[inside]], near.columns[inside]] = near.values[inside]
        self._starts = torch.cat([torch.zeros(1, dtype=torch.long), torch.where(long, 0, lengths).cumsum(0)])
        self._columns, self._values = near.columns[~inside], near.values[~inside]

    def of(self, slots: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return rows of B summed: [Q, M].

        Args:
            slots: Rows, -1 for none. [Q, N] int64
            weights: What each counts, 0 for none. [Q, N] float32
        """
        held = slots.clamp(min=0)
        pooled = torch.nn.functional.embedding_bag(held, self._left, per_sample_weights=weights, mode="sum")
        number = torch.where(slots >= 0, self._number[held], -1)
        is_long = number >= 0
        ends = torch.cat([torch.zeros(1, dtype=torch.long), is_long.sum(1).cumsum(0)])
        result = torch.nn.functional.embedding_bag(
            number[is_long], self._long, ends, per_sample_weights=weights[is_long], mode="sum", include_last_offset=True
        ).addmm_(pooled, self._right, alpha=-1)
        lengths = torch.where(slots >= 0, self._starts.diff()[held], 0)  # [Q, N]
        cuts = torch.searchsorted(lengths.sum(1).cumsum(0), torch.tensor(range(CHUNK_ENTRIES, int(lengths.sum()), CHUNK_ENTRIES))).tolist()
        for start, end in itertools.pairwise([0, *cuts, len(slots)]):
            self._add_entries(result[start:end], held[start:end], weights[start:end], lengths[start:end])
        return result

    def _add_entries(self, result: torch.Tensor, slots: torch.Tensor, weights: torch.Tensor, lengths: torch.Tensor) -> None:
        """Add the rows of few entries to scores, in place."""
        each = lengths.reshape(-1)
        first = self._starts[slots].reshape(-1) - (each.cumsum(0) - each)
        entries = torch.repeat_interleave(first, each) + torch.arange(int(each.sum()))
        query = torch.repeat_interleave(torch.arange(len(slots)) * result.shape[1], lengths.sum(1))
        values = self._values[entries] * torch.repeat_interleave(weights.reshape(-1), each)
        result.view(-1).index_add_(0, query + self._columns[entries], values)


def largest(gram: Rows, rank: int, seed: int) -> torch.Tensor:
    """Return U of the largest eigenpairs of a positive matrix, U Uᵀ its best approximation of this rank: [M, M] → [M, r], r at most M."""
    num = len(gram.starts) - 1
    width = min(num, rank + MORE)
    basis = torch.randn(num, width, generator=torch.Generator().manual_seed(seed))
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(gram.times(basis)).Q
    values, vectors = torch.linalg.eigh(basis.T @ gram.times(basis))  # Ascending.
    kept = min(rank, num)
    scaled: torch.Tensor = vectors[:, -kept:] * values[-kept:].clamp(min=0).sqrt()
    return torch.matmul(basis, scaled)


def solve_low_rank(gram: Rows, cross: Rows, cross_columns: Rows, ridge: float, rank: int, seed: int) -> LowRank:
    """Return B of (G + λ I) B = C, G by its largest eigenpairs and its diagonal.

    Args:
        gram: [M, M], symmetric.
        cross: [M, M]
        cross_columns: The same, transposed.
        ridge: λ
        rank: r
        seed: Of the directions that the iteration begins with.
    """
    directions = largest(gram, rank, seed)
    num = len(directions)
    on_diagonal = gram.columns == torch.repeat_interleave(torch.arange(num), gram.starts.diff())
    diagonal = torch.zeros(num).index_add_(0, gram.columns[on_diagonal], gram.values[on_diagonal])
    inverse = 1 / ((diagonal - directions.square().sum(1)).clamp(min=0) + ridge)
    left = inverse[:, None] * directions
    inner = torch.eye(directions.shape[1]) + directions.T @ left
    right = torch.cholesky_solve(cross_columns.times(left).T, torch.linalg.cholesky(inner))
    return LowRank(cross.scaled(inverse), left, right)
