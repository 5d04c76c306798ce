"""Define the linear item-item teacher: ridge regression from a decayed history to the next basket, in closed form.

    X [Q, M]: decay^i at the i-th newest item,  Y [Q, M]: 1 / √|basket| at each target
    B = (XᵀX + λ I)⁻¹ XᵀY,  score = x B

G = XᵀX and C = XᵀY are sums over queries, so a refresh adds the new ones and solves; it costs no pass over old data and is exact.

References: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, arXiv:1905.03375; Choi et al., "Session-aware Linear
Item-Item Models", WWW 2021, arXiv:2103.16104. **Deviation**: no zero-diagonal constraint, because buying again is real.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

CHUNK_PAIRS = 2**19
"""Pairs of places that are added at a time; bounds memory."""


class Runs(NamedTuple):
    """Hold histories that go on from one another as one sequence each: L places in all.

    Attributes:
        slots: Oldest first, -1 for padding and unknown items. [L] int64
        ends: How many histories end at each place. [L] float32
        starts: Where a run begins. [L] bool
        length: N, of a history.
    """

    slots: torch.Tensor
    ends: torch.Tensor
    starts: torch.Tensor
    length: int

    @staticmethod
    def of(history: NDArray[np.int64]) -> Runs:
        """Join each history to the one before it, as far as it is that one and some newer items; whose they are makes no difference.

        Args:
            history: Slots, newest first, -1 for padding and unknown items. A user's histories side by side. [Q, N]
        """
        num, length = history.shape
        num_new = np.full(num, length)  # A history that goes on from none is a run of its own.
        left = np.arange(1, num)
        for shift in range(length):
            goes_on = (history[left, shift:] == history[left - 1, : length - shift]).all(1)
            num_new[left[goes_on]] = shift
            left = left[~goes_on]
            if not len(left):
                break
        past = np.cumsum(num_new)
        owner = np.repeat(np.arange(num), num_new)
        slots = history[owner, past[owner] - 1 - np.arange(len(owner))]
        ends = np.bincount(past - 1, minlength=len(owner))
        starts = np.zeros(len(owner), bool)
        starts[(past - num_new)[num_new == length]] = True
        return Runs(torch.from_numpy(slots), torch.from_numpy(ends.astype(np.float32)), torch.from_numpy(starts), length)


Entries = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Rows [n] int64, columns [n] int64 and values [n] float32; a place may come several times."""

Pairs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Slots of the older and of the newer place [n], what they add to G at (older, newer) and, where they are apart, at (newer, older) [n], and where."""


def gram_pairs(runs: Runs, decay: float) -> Iterator[Pairs]:
    """Give XᵀX in parts, from the few entries that the rows of X have.

    Two places of a run, ``gap`` apart, meet in each history that ends at most N - 1 places after the older one, with d^(2 · distance - gap). So a
    pair of places is added once, however many histories hold it.

    Args:
        runs: The histories; ``ends`` below 0 take them out again.
        decay: d, of each place further back.
    """
    length = runs.length
    step = torch.arange(length)
    powers = (2 * step[:, None] - step[None, :]).clamp(min=0)  # [distance, gap]
    weights = (decay ** powers.double()) * (step[:, None] >= step[None, :])
    size = max(1, CHUNK_PAIRS // length)
    slots = torch.cat([runs.slots, torch.full((length,), -1)])
    ends = torch.cat([runs.ends, torch.zeros(length)]).double()
    starts = torch.cat([runs.starts, torch.zeros(length, dtype=torch.bool)])
    for begin in range(0, len(runs.slots), size):
        window = torch.arange(begin, min(begin + size, len(runs.slots)))[:, None] + step  # [P, N]
        mine = starts[window].cumsum(1)
        mine = mine == mine[:, :1]  # Places of the next run are none of this one's.
        values = ((ends[window] * mine) @ weights).float()  # [P, N]
        newer = slots[window]
        older = newer[:, :1]
        inside = mine & (older >= 0) & (newer >= 0) & (values != 0)
        older, newer, values = older.expand_as(newer)[inside], newer[inside], values[inside]
        yield older, newer, values, step.expand_as(inside)[inside] > 0


def add_gram(gram: torch.Tensor, runs: Runs, decay: float) -> None:
    """Add XᵀX to ``gram``, in place: [M, M] float32, contiguous. See `gram_pairs`."""
    for older, newer, values, apart in gram_pairs(runs, decay):
        flat = gram.view(-1)
        flat.index_add_(0, older * gram.shape[1] + newer, values)
        flat.index_add_(0, (newer * gram.shape[1] + older)[apart], values[apart])


def upper(pairs: Pairs) -> Entries:
    """Return what pairs add to the upper triangle of G."""
    older, newer, values, apart = pairs
    return torch.minimum(older, newer), torch.maximum(older, newer), torch.where(apart & (older == newer), 2 * values, values)


def cross_entries(history: torch.Tensor, targets: torch.Tensor, share: torch.Tensor, decay: float) -> Entries:
    """Return XᵀY.

    Args:
        history: Slots of the history of each target's query, newest first, -1 for padding and unknown items. [T, N] int64
        targets: Slots. [T] int64
        share: Entry of Y. [T] float32
        decay: Of each place further back.
    """
    weights = decay ** torch.arange(history.shape[1], dtype=torch.float32)
    inside = history >= 0
    return history[inside], targets[:, None].expand_as(history)[inside], (share[:, None] * weights[None, :])[inside]


def add_cross(cross: torch.Tensor, history: torch.Tensor, targets: torch.Tensor, share: torch.Tensor, decay: float) -> None:
    """Add XᵀY to ``cross``, in place: [M, M] float32, contiguous. See `cross_entries`."""
    rows, columns, values = cross_entries(history, targets, share, decay)
    cross.view(-1).index_add_(0, rows * cross.shape[1] + columns, values)


def solve_ridge(gram: torch.Tensor, cross: torch.Tensor, ridge: float) -> torch.Tensor:
    """Return B of (G + λ I) B = C by a Cholesky factorisation: gram [M, M], cross [M, M] → [M, M].

    Example:
        >>> solve_ridge(torch.eye(2), torch.eye(2), 1.0).tolist()
        [[0.5, 0.0], [0.0, 0.5]]
    """
    factor = torch.linalg.cholesky(gram + ridge * torch.eye(len(gram)))
    return torch.cholesky_solve(cross, factor)
