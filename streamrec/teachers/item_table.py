"""Hold the transformer's item rows beside its network: a step moves only the rows that it touches, between workers and in the optimiser.

Every worker draws the same batch and the same negatives, so all know which rows a step touches, and none has to ask.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed

_ROWS_AT_ONCE = 2**16
"""Of a sharded table so many rows are on one device at a time when it is put together."""

_BETA1, _BETA2, _EPSILON = 0.9, 0.98, 1e-8


class ItemTable:
    """Hold a vector and a bias a row, with Adam's moments: all rows, or with ``sharded`` every ``world``-th one from ``rank`` on.

    **Contract.** All workers call `gather`, `averaged`, `descend` and `whole` in the same order with the same rows. What these give and do does not
    depend on whether the rows are sharded.

    Attributes:
        num_rows: V.
        first: The first row of this worker's part.
        stride: From one row of it to the next.
        own: This worker's part: ``values``, Adam's ``m`` and ``v`` [n, D + 1], and how many ``steps`` each row took [n].

    Args:
        rows: Vectors, and the bias in the last column. [V, D + 1]
        rank: This worker.
        world: How many there are.
        sharded: Each keeps its own rows only.
        device: Where they are.
    """

    def __init__(self, rows: torch.Tensor, rank: int, world: int, *, sharded: bool, device: torch.device) -> None:
        self.num_rows = len(rows)
        self.first, self.stride = (rank, world) if sharded else (0, 1)
        self._world = world
        values = rows[self.first :: self.stride].to(device, copy=True)
        self.own = {"values": values, "m": torch.zeros_like(values), "v": torch.zeros_like(values)}
        self.own["steps"] = torch.zeros(len(values), dtype=torch.int32, device=device)

    @property
    def is_sharded(self) -> bool:
        """Whether others hold other rows."""
        return self.stride > 1

    @property
    def num_bytes(self) -> int:
        """Bytes that this worker holds."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.own.values())

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Return a copy of rows [R], the same for all workers, that takes gradients. [R, D + 1]."""
        if not self.is_sharded:
            return self.own["values"][rows].requires_grad_()
        block = torch.zeros(len(rows), self.own["values"].shape[1], device=rows.device)
        mine = rows % self.stride == self.first
        block[mine] = self.own["values"][rows[mine] // self.stride]
        distributed.all_reduce(block)
        return block.requires_grad_()

    def averaged(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the mean of all workers' gradients [R, D + 1]."""
        if self._world > 1:
            distributed.all_reduce(gradient)
            gradient /= self._world
        return gradient

    def descend(self, rows: torch.Tensor, gradient: torch.Tensor, learning_rate: float) -> None:
        """Descend on rows [R] by gradients [R, D + 1] that are the same for all workers, and put the vectors back on the unit sphere.

        **Deviation** from Adam (Kingma and Ba, 2015, arXiv:1412.6980): a row's moments stand still while no step touches it, and its steps are
        counted by themselves, so that a rare item's first step is as long as a frequent one's.
        """
        if self.is_sharded:
            mine = rows % self.stride == self.first
            rows, gradient = rows[mine] // self.stride, gradient[mine]
        values, m, v = (self.own[name][rows] for name in ("values", "m", "v"))
        steps = self.own["steps"][rows] + 1
        m.mul_(_BETA1).add_(gradient, alpha=1 - _BETA1)
        v.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        exponent = steps[:, None].float()
        denominator = (v / (1 - _BETA2**exponent)).sqrt_().add_(_EPSILON)
        values.addcdiv_(m / (1 - _BETA1**exponent), denominator, value=-learning_rate)
        values[:, :-1] /= values[:, :-1].norm(dim=1, keepdim=True).clamp(min=1e-6)
        for name, new in (("values", values), ("m", m), ("v", v), ("steps", steps)):
            self.own[name][rows] = new

    def whole(self) -> torch.Tensor:
        """Return all rows on the CPU; all workers call it. [V, D + 1]."""
        if not self.is_sharded:
            return self.own["values"].cpu()
        device, stops = self.own["values"].device, range(_ROWS_AT_ONCE, self.num_rows + _ROWS_AT_ONCE, _ROWS_AT_ONCE)
        parts = [torch.arange(stop - _ROWS_AT_ONCE, min(stop, self.num_rows), device=device) for stop in stops]
        return torch.cat([self.gather(part).detach().cpu() for part in parts])

    def restore(self, arrays: Mapping[str, NDArray[Any]], first: int, stride: int) -> None:
        """Take from a part that may have been cut otherwise what is this worker's."""
        rows = np.arange(first, self.num_rows, stride)
        mine = rows % self.stride == self.first
        for name, tensor in self.own.items():
            tensor[torch.from_numpy(rows[mine] // self.stride).to(tensor.device)] = torch.from_numpy(arrays[name][mine]).to(tensor.device)
