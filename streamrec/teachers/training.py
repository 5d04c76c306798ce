"""Take training steps of the sequential transformer, alone or as one of several workers.

Batches, negatives and dropout of a step are functions of (seed, step), so a training that was cut off goes on from its state as if it had not been.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from streamrec.config import TransformerConfig
from streamrec.models.candidates import Own, candidate_cross_entropy, log_inclusion
from streamrec.models.transformer import Encoder, SequentialTransformer
from streamrec.state import ComponentState
from streamrec.teachers.batches import Passes, Sequences, batch_of, num_targets_of, share_of
from streamrec.teachers.item_table import ItemTable

TABLE = {"items.weight", "bias"}
"""Parameters that have a row an item; all others are the network's."""

FAST_RATES = {"own": 10.0}
"""Factors on the learning rate of parameters that have far to go, as of the student's bias on own items."""

_LAST_RATE = 0.05
"""Learning rates fall to this share of themselves."""
_MOST_WARMING_STEPS = 100
_ALIGNED_ROWS = 64
"""On a GPU candidates are a multiple of this: bfloat16 products with an odd side take three times as long."""


class Checkpoints(Protocol):
    """Keep a training's state while it runs. All workers call `save` after the same steps."""

    def load(self) -> list[ComponentState]:
        """Return the parts of the newest state, whatever number of workers saved it; nothing at the beginning."""
        ...

    def save(self, part: ComponentState | None) -> None:
        """Keep this worker's part, None for nothing; return when the whole is durable."""
        ...


@dataclass(frozen=True)
class Place:
    """Say where a worker stands among the workers.

    Attributes:
        rank: This worker, 0-based.
        world: How many there are.
        device: Where tensors go. On a GPU the network is compiled and multiplies in bfloat16.
        wrap: Makes the network distributed, for example `ray.train.torch.prepare_model`.
        checkpoints: Keeps the state every ``checkpoint_steps``; None keeps nothing.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model
    checkpoints: Checkpoints | None = None

    @property
    def is_fast(self) -> bool:
        """Whether the device gains from compiled code and short numbers."""
        return self.device.type == "cuda"


class Training:
    """Hold network, item table and optimiser between steps.

    Args:
        model: Where to start.
        sequences: To learn from.
        config: Its training settings.
        seed: Of batches, negatives and dropout.
        place: Among the workers.
    """

    def __init__(self, model: SequentialTransformer, sequences: Sequences, config: TransformerConfig, seed: int, place: Place) -> None:
        self._sequences, self._config, self._seed, self._place = sequences, config, seed, place
        rows = torch.cat([model.items.weight.detach(), model.bias.detach()[:, None]], 1)
        self.table = ItemTable(rows, place.rank, place.world, sharded=config.shard_items and place.world > 1, device=place.device)
        self._network = Network(config, _ALIGNED_ROWS if place.is_fast else 1)
        self._network.load_state_dict({name: value for name, value in model.state_dict().items() if name not in TABLE})
        self._network.to(place.device).train()
        made = cast("nn.Module", torch.compile(self._network, dynamic=True)) if place.is_fast else self._network
        self._loss = place.wrap(made)
        self._parameters = list(self._network.parameters())
        far = [parameter for name, parameter in self._network.named_parameters() if name in FAST_RATES]
        near = [parameter for name, parameter in self._network.named_parameters() if name not in FAST_RATES]
        groups = [{"params": near, "pace": 1.0}, {"params": far, "pace": FAST_RATES["own"]}]
        self._optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=0.0, betas=(0.9, 0.98))
        self._sizes, self._num_targets = sequences.sizes, num_targets_of(sequences)
        used = sequences.rows[sequences.rows >= 0]
        self._share = np.bincount(used, minlength=len(rows)) / len(used)
        self._is_sampled = len(rows) > config.full_softmax_items
        self._losses: list[torch.Tensor] = []

    @property
    def losses(self) -> list[float]:
        """Loss of each step so far, of this worker's share."""
        return [float(loss) for loss in self._losses]

    def run(self, passes: Passes, num_steps: int) -> None:
        """Take what is left of so many steps."""
        kept = self._place.checkpoints
        if kept is not None and (parts := kept.load()):
            self.restore(parts)
        warm = min(_MOST_WARMING_STEPS, max(1, num_steps // 10))
        for chosen in passes.batches(len(self._losses), num_steps):
            step = len(self._losses)
            self.step(chosen, min(1.0, (step + 1) / warm) * (1.0 - (1.0 - _LAST_RATE) * step / num_steps))
            done = step + 1
            if kept is not None and done < num_steps and done % self._config.checkpoint_steps == 0:
                kept.save(self.part())

    def step(self, chosen: NDArray[np.int64], pace: float = 1.0) -> None:
        """Learn from this worker's share of a batch of sequences, at ``pace`` times the learning rates."""
        place, step = self._place, len(self._losses)
        chosen = np.resize(chosen, max(len(chosen), place.world))  # Every worker has a share.
        rows, chance = self.candidates(chosen, step)
        batch = batch_of(self._sequences, share_of(chosen, self._sizes, place.rank, place.world))
        num_targets = int(self._num_targets[chosen].sum())
        is_first = np.diff(batch.source, prepend=-1) > 0  # Places ascend.
        states, state_of = batch.source[is_first], np.cumsum(is_first) - 1
        sequence = np.where(batch.rows < 0, -1, np.searchsorted(rows, batch.rows))
        places = (sequence, states, state_of, np.searchsorted(rows, batch.targets))
        index, log_chance, *inputs = (torch.from_numpy(array).to(place.device) for array in (rows, chance, *places))
        # Of dropout. `torch.manual_seed` writes down its caller for each kind of device that this process has not begun to use.
        (torch.default_generator if place.device.type == "cpu" else torch).manual_seed((self._seed * 1_000_003 + step) * 4099 + place.rank)
        block = self.table.gather(index)
        with torch.autocast(place.device.type, torch.bfloat16, enabled=place.is_fast):
            total = self._loss(block, log_chance, *inputs)
        # Workers' gradients are averaged, and their shares have different numbers of targets.
        loss = total * (place.world / max(1, num_targets))
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        assert block.grad is not None
        block.grad = self.table.averaged(block.grad)
        nn.utils.clip_grad_norm_([block, *self._parameters], 1.0)
        for group in self._optimiser.param_groups:
            group["lr"] = group["pace"] * pace * self._config.learning_rate
        self._optimiser.step()
        self.table.descend(index, block.grad, pace * self._config.item_learning_rate)
        self._losses.append(loss.detach())

    def candidates(self, chosen: NDArray[np.int64], step: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the rows that the step touches, ascending, and the logarithm of each one's chance to be among them; the same for all workers."""
        num_items = self.table.num_rows
        if not self._is_sampled:
            return np.arange(num_items), np.zeros(num_items, np.float32)
        held = self._sequences.rows[chosen]
        drawn = np.random.default_rng((self._seed, 1, step)).integers(0, num_items, self._config.num_negatives)
        rows = np.sort(np.concatenate([held[held >= 0], drawn]))  # `np.unique` takes ten times as long.
        rows = rows[np.diff(rows, prepend=-1) > 0]
        return rows, log_inclusion(self._share[rows], int(self._sizes[chosen].sum()), self._config.num_negatives, num_items)

    def write_into(self, model: SequentialTransformer) -> None:
        """Give the model what was learned; all workers call it."""
        rows = self.table.whole()
        network = {name: value.cpu() for name, value in self._network.state_dict().items()}
        model.load_state_dict({**network, "items.weight": rows[:, :-1], "bias": rows[:, -1]})

    def part(self) -> ComponentState | None:
        """Return what this worker has to keep: its item rows, and rank 0 all else; None where others have the same."""
        rank = self._place.rank
        if rank > 0 and not self.table.is_sharded:
            return None
        arrays = {f"table/{name}": tensor.cpu().numpy().copy() for name, tensor in self.table.own.items()}
        if rank == 0:
            arrays |= {f"network/{name}": value.cpu().numpy().copy() for name, value in self._network.state_dict().items()}
            arrays |= {f"moment/{name}": value.cpu().numpy().copy() for name, value in self._moments()}
            arrays["losses"] = np.asarray(self.losses, np.float32)
        return ComponentState(arrays, {"first": self.table.first, "stride": self.table.stride})

    def restore(self, parts: list[ComponentState]) -> None:
        """Go on from the parts that workers kept, however many they were."""
        for part in parts:
            rows = {name.removeprefix("table/"): array for name, array in part.arrays.items() if name.startswith("table/")}
            self.table.restore(rows, int(part.meta["first"]), int(part.meta["stride"]))
            if "losses" not in part.arrays:
                continue
            held = {name: torch.from_numpy(np.array(array)) for name, array in part.arrays.items()}
            self._network.load_state_dict({name: held[f"network/{name}"] for name in self._network.state_dict()})
            self._losses = list(held["losses"])
            for index, parameter in enumerate(self._parameters):
                names = ("step", "exp_avg", "exp_avg_sq")
                moments = {name: held[f"moment/{index}.{name}"] for name in names}
                self._optimiser.state[parameter] = {name: moments[name].to(parameter.device if name != "step" else "cpu") for name in names}

    def _moments(self) -> Iterator[tuple[str, torch.Tensor]]:
        for index, parameter in enumerate(self._parameters):
            yield from ((f"{index}.{name}", value) for name, value in self._optimiser.state[parameter].items())


class Network(Encoder):
    """Compute a batch's loss from the rows that it touches; its parameters are what all workers share whole.

    Args:
        config: Shape.
        aligned_rows: Candidates that have no chance are added up to a multiple of this.
    """

    def __init__(self, config: TransformerConfig, aligned_rows: int = 1) -> None:
        super().__init__(config.dim, config.num_layers, config.num_heads, config.sequence_length, config.dropout)
        self._aligned_rows = aligned_rows

    def forward(
        self,
        block: torch.Tensor,
        log_chance: torch.Tensor,
        sequence: torch.Tensor,
        states: torch.Tensor,
        state_of: torch.Tensor,
        targets: torch.Tensor,
    ) -> torch.Tensor:
        """Return the sum of the targets' losses.

        Args:
            block: Vectors and biases of the touched rows. [R, D + 1]
            log_chance: Logarithm of each row's chance to be among them. [R]
            sequence: Place in the block of each item, -1 pads; the last one is a target only. [B, S + 1]
            states: Places in [B, S] of the states that predict something. [M]
            state_of: Which of them predicts each target. [T]
            targets: Place in the block of each target. [T]
        """
        if num_more := -len(block) % self._aligned_rows:
            block = nn.functional.pad(block, (0, 0, 0, num_more))
            log_chance = nn.functional.pad(log_chance, (0, num_more), value=torch.inf)  # Their weight in the softmax is 0.
        vectors, bias = block[:, :-1], block[:, -1]
        length = sequence.shape[1] - 1
        inputs = nn.functional.embedding(sequence[:, :-1].clamp(min=0), vectors)
        encoded = self.encode(inputs).flatten(0, 1).index_select(0, states)  # [M, D]
        own = Own.of(sequence, states // length, self.own_biases(sequence.shape[1], states % length))
        return candidate_cross_entropy(encoded, vectors, bias, log_chance, state_of, targets, own).sum()
