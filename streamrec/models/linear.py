"""Define the linear item-item teacher: ridge regression from a decayed history to the next basket, in closed form.

    X [Q, M]: decay^i at the i-th newest item,  Y [Q, M]: 1 / √|basket| at each target
    B = (XᵀX + λ I)⁻¹ XᵀY,  score = x B

G = XᵀX and C = XᵀY are sums over queries, so a refresh adds the new ones and solves; it costs no pass over old data and is exact.

References: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, arXiv:1905.03375; Choi et al., "Session-aware Linear
Item-Item Models", WWW 2021, arXiv:2103.16104. **Deviation**: no zero-diagonal constraint, because buying again is real.
"""

from __future__ import annotations

import torch


def add_gram(gram: torch.Tensor, history: torch.Tensor, decay: float) -> None:
    """Add XᵀX to ``gram``, in place, from the few entries that the rows of X have.

    Args:
        gram: [M, M] float32, contiguous.
        history: Slots, newest first, -1 for padding and unknown items. [Q, N] int64
        decay: Of each place further back.
    """
    weights = (decay ** torch.arange(history.shape[1], dtype=torch.float32)).expand(history.shape)
    inside = history >= 0
    pairs = inside[:, :, None] & inside[:, None, :]  # [Q, N, N]
    places = (history[:, :, None] * gram.shape[1] + history[:, None, :])[pairs]
    gram.view(-1).index_add_(0, places, (weights[:, :, None] * weights[:, None, :])[pairs])


def add_cross(cross: torch.Tensor, history: torch.Tensor, targets: torch.Tensor, share: torch.Tensor, decay: float) -> None:
    """Add XᵀY to ``cross``, in place.

    Args:
        cross: [M, M] float32, contiguous.
        history: The history of each target's query, as in `add_gram`. [T, N] int64
        targets: Slots. [T] int64
        share: Entry of Y. [T] float32
        decay: Of each place further back.
    """
    weights = decay ** torch.arange(history.shape[1], dtype=torch.float32)
    inside = history >= 0
    places = (history * cross.shape[1] + targets[:, None])[inside]
    cross.view(-1).index_add_(0, places, (share[:, None] * weights[None, :])[inside])


def solve_ridge(gram: torch.Tensor, cross: torch.Tensor, ridge: float) -> torch.Tensor:
    """Return B of (G + λ I) B = C by a Cholesky factorisation: gram [M, M], cross [M, M] → [M, M].

    Example:
        >>> solve_ridge(torch.eye(2), torch.eye(2), 1.0).tolist()
        [[0.5, 0.0], [0.0, 0.5]]
    """
    factor = torch.linalg.cholesky(gram + ridge * torch.eye(len(gram)))
    return torch.cholesky_solve(cross, factor)
