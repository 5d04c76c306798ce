"""Define the student's losses as pure functions of log-probabilities."""

from __future__ import annotations

import torch


def multi_target_cross_entropy(log_probs: torch.Tensor, targets: torch.Tensor, query: torch.Tensor, num_queries: int) -> torch.Tensor:
    """Compute the mean negative log-likelihood of each query's targets.

    **Requirements**: ``query`` ascends and every query has at least one target.

    **Inputs**: log_probs of the candidates [B, C] float32; targets, a candidate's column each [T] int64; query of each target [T] int64.

    **Relations**: with one target a query this is the cross-entropy; with several it is the cross-entropy to the uniform distribution over
    the basket.

    Returns:
        Loss per query. [B]

    Example:
        >>> log_probs = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
        >>> float(multi_target_cross_entropy(log_probs, torch.tensor([0]), torch.tensor([0]), 1))  # doctest: +ELLIPSIS
        0.693...
    """
    picked = log_probs[query, targets]  # [T]
    total = torch.zeros(num_queries, dtype=log_probs.dtype).index_add(0, query, picked)
    count = torch.zeros(num_queries, dtype=log_probs.dtype).index_add(0, query, torch.ones_like(picked))
    return -total / count


def soft_label_cross_entropy(log_probs: torch.Tensor, columns: torch.Tensor, probs: torch.Tensor) -> torch.Tensor:
    """Compute the cross-entropy of the student to a teacher mixture on its top-K candidates.

    **Requirements**: ``probs`` is 0 on padding and sums to how much the example's labels count; temperature has been applied when the labels
    were made.

    **Inputs**: log_probs of the candidates [B, C] float32; columns of the labels [B, K] int64, 0 on padding; probs [B, K] float32.

    **Relations**: KL divergence plus the labels' entropy, which has no gradient; rows without labels give 0.

    References: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531.

    Returns:
        Loss per example. [B]
    """
    return -(probs * log_probs.gather(1, columns)).sum(1)
