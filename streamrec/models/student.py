"""Define the student: a recency-weighted encoder of the user's history, linear in the history's item vectors up to one scalar.

    w = softmax(position_logits[:L])                                  [L]
    q = (Σ wᵢ u_{hᵢ}) P + Σ_{i < K} u_{hᵢ} Rᵢ,  q ← q / max(‖q‖, ε)   [D]
    score(j) = scale · ⟨q, u_j⟩ + bias_j + Σ_{i : hᵢ = j} own_i

u = v + c: a unit-norm row of the item table plus the mean of the item's word vectors (the content part). h₀ is the newest item.
The K newest items have a projection each, because in a session what comes next depends on the order of what came last.
"""

from __future__ import annotations

import torch
from torch import nn

EPSILON = 1e-6


class StudentModel(nn.Module):
    """Hold the parameters shared by all items; item tables live with the learner, because they grow.

    Args:
        dim: D.
        history_length: N.
        word_buckets: Size of the content table.
        scale: Fixed logit scale; a learned one trains far worse (docs/experiments.md).
        ordered_items: K.
    """

    def __init__(self, dim: int, history_length: int, word_buckets: int, scale: float, ordered_items: int = 1) -> None:
        super().__init__()
        self.scale = scale
        self.position_logits = nn.Parameter(-0.1 * torch.arange(history_length, dtype=torch.float32))
        self.own_bias = nn.Parameter(torch.zeros(history_length))
        self.pool_projection = nn.Parameter(torch.eye(dim))
        self.last_projection = nn.Parameter(0.5 * torch.eye(dim))
        self.recent_projection = nn.Parameter(torch.zeros((min(ordered_items, history_length) - 1) * dim, dim))
        self.words = nn.Parameter(torch.zeros(word_buckets, dim))

    def content(self, words: torch.Tensor) -> torch.Tensor:
        """Return the mean word vector of items, zero where there are no words: words [V, W] int64, -1 pads → [V, D]."""
        if words.shape[1] == 0:
            return torch.zeros(len(words), self.words.shape[1])
        padded = torch.where(words < 0, torch.full_like(words, len(self.words)), words)
        table = torch.cat([self.words, torch.zeros(1, self.words.shape[1])])
        return nn.functional.embedding_bag(padded, table, mode="mean", padding_idx=len(self.words))

    def encode(self, vectors: torch.Tensor, history: torch.Tensor, keep: torch.Tensor | None = None, element_dropout: float = 0.0) -> torch.Tensor:
        """Encode histories into unit queries.

        Args:
            vectors: Item vectors u. [V, D]
            history: Columns into ``vectors``, newest first, -1 pads; at least one item each. [B, N] int64
            keep: False drops an item from the pool (history dropout). [B, N] bool
            element_dropout: Rate at which elements of the pooled and the newest vector are dropped.

        Returns:
            [B, D]
        """
        inside = history >= 0
        index = history.clamp(min=0)
        pooled_over = inside if keep is None else inside & keep
        # The newest item always stays, so that no pool is empty.
        pooled_over = pooled_over | (inside & (torch.arange(history.shape[1]) == 0))
        weights = torch.softmax(self.position_logits.expand_as(index).masked_fill(~pooled_over, float("-inf")), 1)  # [B, N]
        pooled = nn.functional.embedding_bag(index, vectors, per_sample_weights=weights, mode="sum")  # [B, D]
        newest = vectors[index[:, 0]]
        if element_dropout:
            pooled = nn.functional.dropout(pooled, element_dropout)
            newest = nn.functional.dropout(newest, element_dropout)
        query = pooled @ self.pool_projection + newest @ self.last_projection
        if num := len(self.recent_projection) // vectors.shape[1]:
            recent = vectors.index_select(0, index[:, 1 : 1 + num].flatten()).view(len(index), -1, vectors.shape[1])
            recent = (recent * pooled_over[:, 1 : 1 + num, None]).flatten(1)  # [B, num * D]
            query = query + nn.functional.dropout(recent, element_dropout) @ self.recent_projection[: recent.shape[1]]
        unit: torch.Tensor = query / query.norm(dim=1, keepdim=True).clamp(min=EPSILON)
        return unit

    def score(self, query: torch.Tensor, vectors: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Score shared candidates without the own-history part: query [B, D], vectors [C, D], bias [C] → [B, C]."""
        return torch.addmm(bias, query, vectors.T, alpha=self.scale)

    def add_own(self, scores: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
        """Add the own-history bias: scores [B, V], history columns [B, N] → [B, V]."""
        own = self.own_bias.expand(history.shape) * (history >= 0)
        return scores.scatter_add(1, history.clamp(min=0), own)
