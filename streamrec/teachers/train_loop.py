"""Train the sequential transformer: a plain function that runs without Ray, and under DDP when it is given a wrapper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from streamrec.config import TransformerConfig
from streamrec.errors import DataError
from streamrec.models.transformer import SequentialTransformer
from streamrec.state import ComponentState

GENERATION = "generation"
"""Array of a version that says which item of each row it learned; format 1 has none, all were the first."""


@dataclass(frozen=True)
class Place:
    """Say where a worker stands among the workers.

    Attributes:
        rank: This worker, 0-based.
        world: How many there are.
        device: Where tensors go.
        wrap: Makes the model distributed, for example `ray.train.torch.prepare_model`.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model


def train_transformer(
    window: NDArray[np.int32],
    generations: NDArray[np.int32],
    previous: ComponentState | None,
    config: TransformerConfig,
    seed: int,
    place: Place | None = None,
) -> tuple[ComponentState, list[float]]:
    """Train on sequences for a fixed number of steps, so that the result is a function of the arguments alone.

    Args:
        window: Item rows, oldest first, padded with -1 on the right, at least two items a row. [U, S]
        generations: Generation of the item of each row, -1 where it is free; rows beyond them can't be in the window. [V] int32
        previous: The last version to start from; None starts from nothing.
        config: Shape and training settings; ``batch_size`` is the total over all workers.
        seed: Of initialisation, batches, dropout and negatives.
        place: Rank, device and wrapper; None runs alone on the CPU.

    Returns:
        (the new version's arrays and meta, loss of each step)

    Raises:
        DataError: There are no sequences.

    References: see `streamrec.models.transformer`.
    """
    if len(window) == 0:
        what = "Teacher: no user has two interactions, so that there is no next item to learn"
        raise DataError(what, got="no sequences", do="send more interactions, or leave the transformer out of teachers.enabled")
    place = place or Place()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_transformer(generations, config, previous).to(place.device)
        forward = place.wrap(_Loss(model, config))
        optimiser = torch.optim.AdamW(forward.parameters(), lr=config.learning_rate, weight_decay=0.0)
        num_steps = config.refresh_steps if previous is not None else config.first_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / 20) * (1.0 - 0.9 * step / num_steps))
        torch.manual_seed(seed + 1 + place.rank)
        batches = np.random.default_rng(seed)
        losses = []
        model.train()
        for _ in range(num_steps):
            # All ranks draw the same batch and each takes its share, so the number of workers does not change the data.
            chosen = batches.integers(0, len(window), config.batch_size)[place.rank :: place.world]
            sequence = torch.from_numpy(window[chosen][:, -config.sequence_length - 1 :].astype(np.int64)).to(place.device)
            optimiser.zero_grad(set_to_none=True)
            loss = forward(sequence)
            loss.backward()
            nn.utils.clip_grad_norm_(forward.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
    model.eval()
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}
    meta = {"kind": "transformer", "num_items": len(generations), "shape": shape_of(config)}
    return ComponentState({**arrays, GENERATION: generations}, meta), losses


def shape_of(config: TransformerConfig) -> dict[str, int]:
    """Return the settings that fix the parameters' shapes."""
    return {"dim": config.dim, "num_layers": config.num_layers, "num_heads": config.num_heads, "length": config.sequence_length}


def build_transformer(generations: NDArray[np.int32], config: TransformerConfig, previous: ComponentState | None) -> SequentialTransformer:
    """Make a model for rows of the given generations [V], with all that fits taken from the previous version.

    Rows that are new or hold another item than then start as the mean of the old ones plus noise, so that they rank in the middle rather than
    at random, and nothing of an item goes over to the next one on its row.
    """
    num_items = len(generations)
    model = SequentialTransformer(num_items, config.dim, config.num_layers, config.num_heads, config.sequence_length, config.dropout)
    if previous is None or previous.meta.get("shape") != shape_of(config):
        return model
    state = model.state_dict()
    then = previous.arrays.get(GENERATION, np.zeros(len(previous.arrays["bias"]), np.int32))
    num_old = min(len(then), num_items)
    same = torch.from_numpy(np.flatnonzero(then[:num_old] == generations[:num_old]))
    for name, array in previous.arrays.items():
        old = torch.from_numpy(np.array(array))
        if name in {"items.weight", "bias"}:
            if name == "items.weight":
                state[name] += old.mean(0)
            state[name][same] = old[same]
        elif name != GENERATION:
            state[name] = old
    model.load_state_dict(state)
    return model


class _Loss(nn.Module):
    """Next-item cross-entropy over a batch of sequences; a module, so that DDP sees one forward call."""

    def __init__(self, model: SequentialTransformer, config: TransformerConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        """Return the mean loss over all next items of sequence [B, S]."""
        following = sequence[:, 1:]
        real = following >= 0
        states = self.model(sequence[:, :-1])[real]  # [M, D]
        targets = following[real]  # [M]
        num_items = len(self.model.bias)
        if num_items <= self.config.full_softmax_items:
            return nn.functional.cross_entropy(self.model.logits(states), targets)
        # Shared uniform negatives stand for the whole catalogue: each weighs V / C in the partition sum.
        rows = torch.randint(0, num_items, (self.config.num_negatives,), device=sequence.device)
        negatives = self.model.logits(states, rows) + float(np.log(num_items / len(rows)))
        negatives = negatives.masked_fill(rows[None, :] == targets[:, None], float("-inf"))
        positive = (states * self.model.items(targets)).sum(1, keepdim=True) + self.model.bias[targets][:, None]
        labels = torch.zeros(len(targets), dtype=torch.int64, device=sequence.device)
        return nn.functional.cross_entropy(torch.cat([positive, negatives], 1), labels)
