"""Hold growing item tables with row-wise Adam, so that a step costs what it touches and not what exists."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamrec.state import Arrays, ChangedRows
from streamrec.student.buffers import Buffers

BIAS_RATE = 0.1
"""Item biases follow popularity slowly: fast ones learn the training set's by heart and cost sessions a point of recall (docs/experiments.md)."""

EMPTY = {"words": -1, "namespace": -1, "generation": -1}
"""What a row without an item holds; 0 elsewhere."""

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class ItemTables:
    """Hold unit-norm item vectors, biases, their Adam moments and item facts for ``num_rows`` rows.

    A new item's vector depends on (seed, row, generation) alone, not on when or with what it was added. A row without an item has namespace
    and generation -1 and zeros elsewhere.
    """

    def __init__(self, dim: int, words_per_item: int, seed: int) -> None:
        self.dim = dim
        self.seed = seed
        self.num_rows = 0
        self.changed = ChangedRows()
        self._buffers = Buffers()
        self.tensors = {
            "vectors": torch.zeros(0, dim), "vectors_m": torch.zeros(0, dim), "vectors_v": torch.zeros(0, dim),
            "bias": torch.zeros(0), "bias_m": torch.zeros(0), "bias_v": torch.zeros(0),
            "words": torch.zeros(0, words_per_item, dtype=torch.int64), "namespace": torch.zeros(0, dtype=torch.int32),
            "generation": torch.zeros(0, dtype=torch.int32),
        }  # fmt: skip

    def put_items(
        self, rows: NDArray[np.int32], words: NDArray[np.int32], namespaces: NDArray[np.int32], generations: NDArray[np.int32] | None = None
    ) -> None:
        """Add or describe items: rows [n], words [n, W], namespaces [n], generations [n] (None: 0). Another generation begins anew."""
        if len(rows) == 0:
            return
        first, end = self.num_rows, max(self.num_rows, int(rows.max()) + 1)
        if end > len(self.tensors["bias"]):
            self._grow(max(1024, end + end // 2))
        self.num_rows = end
        self._clear(torch.arange(first, end))
        self.changed.mark(rows)
        index = torch.from_numpy(rows.astype(np.int64))
        generation = torch.from_numpy(np.zeros(len(rows), np.int32) if generations is None else np.array(generations))
        is_new = self.tensors["generation"][index] != generation
        self._clear(index[is_new])
        # The first generation's seed has two numbers, as it had before rows came back.
        seeds = [
            [self.seed, row, number][: 3 if number else 2] for row, number in zip(index[is_new].tolist(), generation[is_new].tolist(), strict=True)
        ]
        if seeds:
            unit = torch.from_numpy(np.stack([np.random.default_rng(seed).standard_normal(self.dim) for seed in seeds])).float()
            self.tensors["vectors"][index[is_new]] = unit / unit.norm(dim=1, keepdim=True)
        self.tensors["generation"][index] = generation
        self.tensors["words"][index] = torch.from_numpy(words.astype(np.int64))
        self.tensors["namespace"][index] = torch.from_numpy(np.array(namespaces))

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Clear rows whose items have left and return how many of them held one."""
        index = torch.from_numpy(rows[rows < self.num_rows].astype(np.int64))
        num = int((self.tensors["generation"][index] >= 0).sum())
        self._clear(index)
        return num

    def take_back(self, arrays: Arrays) -> None:
        """Replace what was learned by what `state` gave earlier. Items stay those of now: one that was not known then begins anew."""
        words, namespaces, generations = (self.rows(name).numpy().copy() for name in ("words", "namespace", "generation"))
        num = self.num_rows
        self.restore(arrays)
        if num > len(self.tensors["bias"]):
            self._grow(num + num // 2)
        self._clear(torch.arange(self.num_rows, num))
        self.num_rows = num
        rows = np.arange(num, dtype=np.int32)
        is_item = generations >= 0
        self._clear(torch.from_numpy(rows[~is_item].astype(np.int64)))
        self.put_items(rows[is_item], words[is_item].astype(np.int32), namespaces[is_item], generations[is_item])
        self.changed.mark_first(num)

    def _clear(self, index: torch.Tensor) -> None:
        self.changed.mark(index.numpy())
        for name, tensor in self.tensors.items():
            tensor[index] = EMPTY.get(name, 0)

    def _grow(self, capacity: int) -> None:
        for name, old in self.tensors.items():
            new = _zeros(capacity, old)
            new[: len(old)] = old
            self.tensors[name] = new

    def rows(self, name: str) -> torch.Tensor:
        """Return the used part of a tensor; a view."""
        return self.tensors[name][: self.num_rows]

    def step(self, rows: torch.Tensor | None, vectors_grad: torch.Tensor, bias_grad: torch.Tensor, learning_rate: float, step: int) -> None:
        """Descend on rows (None for all) and put their vectors back on the unit sphere: gradients [R, D] and [R].

        **Deviation** from Adam (Kingma and Ba, 2015, arXiv:1412.6980): moments of rows that a step does not touch stand still.
        """
        if rows is None:
            self.changed.mark_first(self.num_rows)
        else:
            self.changed.mark(rows.numpy())
        for name, grad in (("vectors", vectors_grad), ("bias", bias_grad)):
            parts = [self.tensors[f"{name}{suffix}"] for suffix in ("", "_m", "_v")]
            held = [part[: self.num_rows] if rows is None else part.index_select(0, rows) for part in parts]
            rate = learning_rate * (BIAS_RATE if name == "bias" else 1.0)
            adam_step(held[0], grad, held[1], held[2], rate, step)
            if name == "vectors":
                held[0] /= held[0].norm(dim=1, keepdim=True).clamp(min=1e-6)
            if rows is not None:
                for part, new in zip(parts, held, strict=True):
                    part.index_copy_(0, rows, new)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return copies of the used parts."""
        return {name: self.rows(name).numpy().copy() for name in self.tensors}

    def pick(self, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Return copies of some rows [R] of every tensor; their memory comes back to the next copy when they are let go of."""
        copies = {name: self._buffers.lend(name, (len(rows), *tensor.shape[1:]), tensor.numpy().dtype) for name, tensor in self.tensors.items()}
        for name, copy in copies.items():
            self.tensors[name].numpy().take(rows, axis=0, out=copy, mode="clip")  # Any other mode copies twice; all rows are there.
        return copies

    def restore(self, arrays: Arrays) -> None:
        """Replace everything by what `state` gave; tables without generations, as they once were, hold every row's first item."""
        self.num_rows, self.changed = len(arrays["bias"]), ChangedRows()
        for name, old in self.tensors.items():
            new = _zeros(max(1024, self.num_rows + self.num_rows // 2), old)
            held = arrays.get(name, ())
            if len(held):
                new.numpy()[: len(held)] = held
            self.tensors[name] = new


def _zeros(num_rows: int, like: torch.Tensor) -> torch.Tensor:
    # numpy's zeros are pages that do not exist before they are written to; torch's are.
    return torch.from_numpy(np.zeros((num_rows, *like.shape[1:]), like.numpy().dtype))


def adam_step(param: torch.Tensor, grad: torch.Tensor, m: torch.Tensor, v: torch.Tensor, learning_rate: float, step: int) -> None:
    """Make one Adam step in place; ``step`` counts from 1. All tensors have one shape."""
    m.mul_(_BETA1).add_(grad, alpha=1 - _BETA1)
    v.mul_(_BETA2).addcmul_(grad, grad, value=1 - _BETA2)
    denominator = (v.sqrt() / (1 - _BETA2**step) ** 0.5).add_(_EPSILON)
    param.addcdiv_(m, denominator, value=-learning_rate / (1 - _BETA1**step))
