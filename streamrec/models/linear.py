"""Define the linear item-item teacher: ridge regression from a decayed history to the next basket, in closed form.

    X [Q, M]: decay^i at the i-th newest item,  Y [Q, M]: 1 / √|basket| at each target
    B = (XᵀX + λ I)⁻¹ XᵀY,  score = x B

G = XᵀX and C = XᵀY are sums over queries, so a refresh adds the new ones and solves; it costs no pass over old data and is exact.

References: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, arXiv:1905.03375; Choi et al., "Session-aware Linear
Item-Item Models", WWW 2021, arXiv:2103.16104. **Deviation**: no zero-diagonal constraint, because buying again is real.
"""

from __future__ import annotations

import torch


def decayed_histories(history: torch.Tensor, num_slots: int, decay: float) -> torch.Tensor:
    """Spread histories over slots: history [Q, N] int64, newest first, -1 for padding and unknown items → [Q, M] float32."""
    weights = decay ** torch.arange(history.shape[1], dtype=torch.float32)
    spread = torch.zeros(len(history), num_slots)
    return spread.scatter_add(1, history.clamp(min=0), weights.expand(history.shape) * (history >= 0))


def solve_ridge(gram: torch.Tensor, cross: torch.Tensor, ridge: float) -> torch.Tensor:
    """Return B of (G + λ I) B = C by a Cholesky factorisation: gram [M, M], cross [M, M] → [M, M].

    Example:
        >>> solve_ridge(torch.eye(2), torch.eye(2), 1.0).tolist()
        [[0.5, 0.0], [0.0, 0.5]]
    """
    factor = torch.linalg.cholesky(gram + ridge * torch.eye(len(gram)))
    return torch.cholesky_solve(cross, factor)
