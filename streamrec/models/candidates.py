"""Compute a softmax over all items from some of them: the items of the batch and shared uniform negatives.

Shapes: ``V`` items in all, ``R`` candidates, ``M`` states, ``T`` targets.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray


def log_inclusion(share: NDArray[np.float64], num_events: int, num_negatives: int, num_items: int) -> NDArray[np.float32]:
    """Return the logarithm of how probable it is that each item is a candidate: it is in the batch, or among the negatives.

    Args:
        share: Of the events from which batches are drawn, how many are the item's. [R]
        num_events: Events of the batch.
        num_negatives: Uniform draws.
        num_items: V.

    Example:
        >>> np.exp(log_inclusion(np.array([0.5, 0.0]), 2, 3, 4)).round(3).tolist()
        [0.895, 0.578]
    """
    missed = num_events * np.log1p(-np.minimum(share, 1 - 1e-9)) + num_negatives * np.log1p(-1 / max(num_items, 2))
    return np.asarray(np.log(-np.expm1(missed)), np.float32)


class Own(NamedTuple):
    """Hold the candidates that states bring with them: as long as there is the state, they are candidates, whatever their chance is otherwise.

    Attributes:
        places: Candidates, -1 pads. [M, S] int64
        is_first: Which of them are the first of their kind in the row. [M, S] bool
        bias: What is added to each one's logit; adds up where one is there twice. [M, S]
    """

    places: torch.Tensor
    is_first: torch.Tensor
    bias: torch.Tensor

    @staticmethod
    def of(sequence: torch.Tensor, source: torch.Tensor, bias: torch.Tensor) -> Own:
        """Return what states bring that stand in sequences: candidates [B, S], -1 pads; each state's sequence [M]; bias [M, S]."""
        is_again = (sequence[:, :, None] == sequence[:, None, :]).tril(-1).any(2)
        return Own(sequence.index_select(0, source), (~is_again & (sequence >= 0)).index_select(0, source), bias)


def candidate_cross_entropy(
    states: torch.Tensor,
    vectors: torch.Tensor,
    bias: torch.Tensor,
    log_inclusion: torch.Tensor,
    state_of: torch.Tensor,
    targets: torch.Tensor,
    own: Own | None = None,
) -> torch.Tensor:
    """Compute each target's negative log-likelihood, as far as possible as if all items were candidates.

    A candidate weighs 1 / (its chance to be one) in the partition sum, which makes the sum's expectation the whole catalogue's; a target, which is
    always a candidate of its own, weighs 1, and so do the items of the state's own sequence: weighed by their chance in other batches, a
    sequence's items would be pushed away from it, and nobody would take an item again.

    **Inputs**: states [M, D]; vectors [R, D], bias [R] and log_inclusion [R] of the candidates; for each target its state [T] int64 and its
    candidate [T] int64; ``own``: the candidates that a state brings with it.

    **Relations**: with all items as candidates, log_inclusion 0, it is the full softmax's cross-entropy.

    References: Horvitz and Thompson, 1952, for the weights; Bengio and Senécal, 2008, for the softmax. **Deviation** from the usual log-q correction
    in the target's weight: Khrylchenko et al., "Correcting the LogQ Correction", RecSys 2025, arXiv:2507.09331.

    Returns:
        [T]
    """
    corrected = torch.addmm(bias - log_inclusion, states, vectors.T).float()  # [M, R]
    if own is not None:
        sure = torch.where(own.is_first, log_inclusion[own.places.clamp(min=0)], 0.0)
        corrected = corrected.scatter_add_(1, own.places.clamp(min=0), (own.bias + sure).float())
    log_norm = torch.logsumexp(corrected, 1).index_select(0, state_of)  # [T]
    # Not taken out of the [M, R], through which another gradient of that size would go back.
    target = (states.index_select(0, state_of) * vectors.index_select(0, targets)).sum(1).float() + bias[targets]
    chance = log_inclusion[targets]
    if own is not None:
        is_target = own.places.index_select(0, state_of) == targets[:, None]  # [T, S]
        target = target + torch.where(is_target, own.bias.index_select(0, state_of), 0.0).sum(1).float()
        chance = torch.where(is_target.any(1), 0.0, chance)
    # The target's share of the sum goes from 1 / chance down to 1; rounding may have put it above the sum.
    share = torch.exp((target - chance - log_norm).clamp(max=0))
    return log_norm + torch.log1p(torch.expm1(chance) * share) - target
