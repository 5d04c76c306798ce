"""Define the sequential teacher: a causal pre-norm transformer over item rows.

References: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, arXiv:1808.09781.
**Deviation**: pre-norm blocks, and a softmax over items (`streamrec.models.candidates`) instead of one negative a step, after Klenitskiy
and Vasilev, "Turning Dross Into Gold Loss", RecSys 2023, arXiv:2309.07602. And a bias on the sequence's own items by how long ago they were, as the
student has one: whoever takes an item again would else be told by item vectors alone.
"""

from __future__ import annotations

import torch
from torch import nn

LOGIT_SCALE = 9.0
"""Length of every state, the student's scale. Item vectors are of length 1, so logits stay within its reach, whatever is learned by heart: a length
that is learned grows with each refresh, and what is known of users who are new fades (docs/experiments.md)."""


class Block(nn.Module):
    """Attend causally, then transform each position."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.norm_attention = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.norm_feed = nn.LayerNorm(dim)
        self.feed = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * dim, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [B, S, D] → [B, S, D]; padding is on the right, so causality alone keeps it out."""
        q, k, v = self._heads(self.qkv(self.norm_attention(x)), 3)
        rate = self.dropout if self.training else 0.0
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=rate)
        return self._transformed(x, attended)

    def at(self, x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Return what `forward` gives at one place of each sequence, and compute no other, without dropout: x [B, S, D], places [B] → [B, D]."""
        index, dim = torch.arange(len(x)), x.shape[2]
        normed = self.norm_attention(x)
        weight, bias = self.qkv.weight, self.qkv.bias
        (q,) = self._heads(nn.functional.linear(normed[index, places][:, None], weight[:dim], bias[:dim]), 1)  # [B, H, 1, D / H]
        k, v = self._heads(nn.functional.linear(normed, weight[dim:], bias[dim:]), 2)
        before = torch.arange(x.shape[1]) <= places[:, None]
        attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=before[:, None, None])
        return self._transformed(x[index, places][:, None], attended)[:, 0]

    def _heads(self, projected: torch.Tensor, num: int) -> torch.Tensor:
        """Split [B, S, num · D] → [num, B, H, S, D / H]."""
        batch, length, width = projected.shape
        return projected.view(batch, length, num, self.num_heads, width // num // self.num_heads).permute(2, 0, 3, 1, 4)

    def _transformed(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        x = x + self.out(attended.transpose(1, 2).reshape(x.shape))
        result: torch.Tensor = x + self.feed(self.norm_feed(x))
        return result


class Encoder(nn.Module):
    """Encode sequences of item vectors that are looked up elsewhere: what of the transformer does not grow with the items.

    Args:
        dim: D.
        num_layers: Blocks.
        num_heads: Heads; must divide D.
        length: S, the longest sequence.
        dropout: Rate on embeddings and inside blocks.

    Attributes:
        has_unit_states: States have the length `LOGIT_SCALE`; those of older releases' versions have any.
    """

    def __init__(self, dim: int, num_layers: int, num_heads: int, length: int, dropout: float) -> None:
        super().__init__()
        self.length = length
        self.positions = nn.Embedding(length, dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList([Block(dim, num_heads, dropout) for _ in range(num_layers)])
        self.norm = nn.LayerNorm(dim)
        self.own = nn.Parameter(torch.zeros(length))  # By how many items ago, 0 for the newest.
        for module in self.modules():
            # Small, so that a state begins near its last item and blocks move it from there.
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        self.has_unit_states = True

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the state after each position: vectors [B, S, D], oldest first, padding on the right → [B, S, D]."""
        x = self._placed(vectors)
        for block in self.blocks:
            x = block(x)
        return self._ended(x)

    def encode_at(self, vectors: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Return what `encode` gives at one place of each sequence, for less: vectors [B, S, D], places [B] → [B, D]. Without dropout."""
        x = self._placed(vectors)
        *first, last = self.blocks
        assert isinstance(last, Block)
        for block in first:
            x = block(x)
        return self._ended(last.at(x, places))

    def _ended(self, x: torch.Tensor) -> torch.Tensor:
        """Return states of the fixed length; of older releases' versions, states of any."""
        normed: torch.Tensor = self.norm(x)
        return LOGIT_SCALE * nn.functional.normalize(normed, dim=-1) if self.has_unit_states else normed

    def own_biases(self, num: int, places: torch.Tensor) -> torch.Tensor:
        """Return what each of a sequence's ``num`` items adds to its own logit after a place, 0 for what comes later: places [M] → [M, num]."""
        ago = places[:, None] - torch.arange(num, device=places.device)
        return torch.where(ago >= 0, self.own[ago.clamp(min=0)], torch.zeros((), device=places.device))

    def _placed(self, vectors: torch.Tensor) -> torch.Tensor:
        placed: torch.Tensor = self.dropout(vectors + self.positions(torch.arange(vectors.shape[1], device=vectors.device)))
        return placed


class SequentialTransformer(Encoder):
    """Encode item sequences; item vectors, of length 1, are both input and output embeddings.

    Args:
        num_items: V.
        dim: D.
        num_layers: Blocks.
        num_heads: Heads; must divide D.
        length: S, the longest sequence.
        dropout: Rate on embeddings and inside blocks.
    """

    def __init__(self, num_items: int, dim: int, num_layers: int, num_heads: int, length: int, dropout: float) -> None:
        super().__init__(dim, num_layers, num_heads, length, dropout)
        self.items = nn.Embedding(num_items, dim)
        self.bias = nn.Parameter(torch.zeros(num_items))
        nn.init.normal_(self.items.weight)
        with torch.no_grad():
            self.items.weight /= self.items.weight.norm(dim=1, keepdim=True)

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        """Return the state after each position: sequence [B, S] int64, oldest first, -1 pads on the right → [B, S, D]."""
        return self.encode(self.items(sequence.clamp(min=0)))

    def states_at(self, sequence: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Return what `forward` gives at one place of each sequence, for less: sequence [B, S], places [B] → [B, D]. Without dropout."""
        return self.encode_at(self.items(sequence.clamp(min=0)), places)

    def logits(self, states: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Score items: states [M, D], rows [C] (None for all V) → [M, C]."""
        if rows is None:
            return torch.addmm(self.bias, states, self.items.weight.T)
        return torch.addmm(self.bias[rows], states, self.items.weight[rows].T)
