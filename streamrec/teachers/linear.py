"""Keep the linear teacher's additive statistics and solve for new versions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamrec.config import LinearConfig
from streamrec.features.examples import Examples
from streamrec.models.linear import Runs, add_cross, add_gram, solve_ridge
from streamrec.state import ComponentState, digest_of

CHUNK_ENTRIES = 2**21
"""Entries of C that an update adds at a time; bounds its memory."""


class LinearStatistics:
    """Hold G = XᵀX and C = XᵀY over the first ``max_items`` items that became targets or history, most frequent first.

    An item row gets a slot when it first appears and a slot is free; within one batch the most frequent rows come first.

    **Contract.** `update` is additive: the sum over batches equals one pass over all of them up to float rounding, and the same batches in
    the same order give the same bits. `delta` holds the batches and the rows forgotten since the last snapshot, not the matrices; it is None
    before the first one.
    """

    name = "linear_statistics"

    _rows: list[int]
    _slot: NDArray[np.int64]
    _gram: torch.Tensor
    _cross: torch.Tensor
    _num_queries: int
    _unsaved: list[Examples | NDArray[np.int32]] | None

    def __init__(self, config: LinearConfig) -> None:
        self.config = config
        self.restore(ComponentState())
        self._unsaved = None

    @property
    def num_queries(self) -> int:
        """Number of queries added so far."""
        return self._num_queries

    def update(self, examples: Examples) -> None:
        """Add a batch of queries."""
        if len(examples) == 0:
            return
        self._add(examples)
        if self._unsaved is not None:
            self._unsaved.append(examples)

    def _add(self, examples: Examples) -> None:
        self._give_slots(examples)
        history = torch.from_numpy(self._slots_of(examples.history))
        targets = torch.from_numpy(self._slots_of(examples.target_rows))
        query = torch.from_numpy(examples.query_of_target)
        share = torch.from_numpy((1.0 / np.sqrt(np.diff(examples.indptr))).astype(np.float32))[query]
        known = targets >= 0
        targets, query, share = targets[known], query[known], share[known]
        decay, length = self.config.history_decay, history.shape[1]
        add_gram(self._gram, Runs.of(history.numpy()), decay)
        size = max(1, CHUNK_ENTRIES // length)
        for start in range(0, len(targets), size):
            part = slice(start, start + size)
            add_cross(self._cross, history[query[part]], targets[part], share[part], decay)
        self._num_queries += len(examples)

    def matrices(self) -> ComponentState:
        """Return copies of G, C and the slots, which a refresh solves while updates go on."""
        return self._state()

    def _give_slots(self, examples: Examples) -> None:
        rows = np.concatenate([examples.target_rows, examples.history[examples.history >= 0]])
        if int(rows.max()) >= len(self._slot):
            grown = np.full(2 * int(rows.max()) + 1, -1, np.int64)
            grown[: len(self._slot)] = self._slot
            self._slot = grown
        values, counts = np.unique(rows, return_counts=True)
        values, counts = values[self._slot[values] < 0], counts[self._slot[values] < 0]
        chosen = values[np.argsort(-counts, kind="stable")][: self.config.max_items - len(self._rows)]
        self._slot[chosen] = np.arange(len(self._rows), len(self._rows) + len(chosen))
        self._rows.extend(chosen.tolist())
        if len(self._rows) > len(self._gram):
            capacity = min(self.config.max_items, max(256, 2 * len(self._rows)))
            for name in ("_gram", "_cross"):
                old = getattr(self, name)
                new = torch.zeros(capacity, capacity)
                new[: len(old), : len(old)] = old
                setattr(self, name, new)

    def _slots_of(self, rows: NDArray[np.int32]) -> NDArray[np.int64]:
        inside = (rows >= 0) & (rows < len(self._slot))
        return np.where(inside, self._slot[np.where(inside, rows, 0)], -1)

    def snapshot(self) -> ComponentState:
        """Return the matrices and slots."""
        self._unsaved = []
        return self._state()

    def _state(self) -> ComponentState:
        size = len(self._rows)
        arrays = {
            "gram": self._gram[:size, :size].numpy().copy(),
            "cross": self._cross[:size, :size].numpy().copy(),
            "rows": np.asarray(self._rows, np.int32),
        }
        return ComponentState(arrays, {"num_queries": self._num_queries})

    def delta(self) -> ComponentState | None:
        """Return the batches added since the last snapshot or delta."""
        if self._unsaved is None:
            return None
        arrays: dict[str, NDArray[Any]] = {}
        for number, part in enumerate(self._unsaved):
            if not isinstance(part, Examples):
                arrays[f"{number}/forgotten"] = part
                continue
            arrays |= {f"{number}/history": part.history, f"{number}/indptr": part.indptr, f"{number}/targets": part.target_rows}
        state = ComponentState(arrays, {"num_batches": len(self._unsaved)})
        self._unsaved = []
        return state

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`."""
        rows = base.arrays.get("rows", np.zeros(0, np.int32))
        self._rows = rows.tolist()
        self._slot = np.full(max(1024, 2 * int(rows.max(initial=0)) + 1), -1, np.int64)
        self._slot[rows] = np.arange(len(rows))
        self._gram = torch.zeros(len(rows), len(rows))
        self._cross = torch.zeros(len(rows), len(rows))
        if len(rows):
            self._gram += torch.from_numpy(np.array(base.arrays["gram"]))
            self._cross += torch.from_numpy(np.array(base.arrays["cross"]))
        self._num_queries = int(base.meta.get("num_queries", 0))
        self._unsaved = []
        for delta in deltas:
            for number in range(delta.meta["num_batches"]):
                if f"{number}/forgotten" in delta.arrays:
                    self._forget(delta.arrays[f"{number}/forgotten"])
                    continue
                history, indptr, targets = (delta.arrays[f"{number}/{name}"] for name in ("history", "indptr", "targets"))
                num = len(history)
                zeros = np.zeros(num, np.int32)
                self._add(Examples(history, indptr, targets, np.ones(num, np.float32), zeros.astype(np.int64), zeros))

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Return 0: the statistics are sums over users."""
        return 0

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Take the rows' sums out, free their slots and return how many these were."""
        num = self._forget(rows)
        if num and self._unsaved is not None:
            self._unsaved.append(rows)
        return num

    def _forget(self, rows: NDArray[np.int32]) -> int:
        gone = np.isin(self._rows, rows)
        if not gone.any():
            return 0
        kept = torch.from_numpy(np.flatnonzero(~gone))
        for name in ("_gram", "_cross"):
            old = getattr(self, name)
            new = torch.zeros_like(old)
            new[: len(kept), : len(kept)] = old[kept][:, kept]
            setattr(self, name, new)
        self._rows = np.asarray(self._rows)[~gone].tolist()
        self._slot[:] = -1
        self._slot[self._rows] = np.arange(len(self._rows))
        return int(gone.sum())

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(self._state())


def solve_version(matrices: ComponentState, config: LinearConfig) -> ComponentState:
    """Return a version from what `LinearStatistics.matrices` gave: B [M, M], the item row of each slot [M] and its ``generation`` [M]."""
    gram, cross = (torch.tensor(matrices.arrays[name]) for name in ("gram", "cross"))
    weights = solve_ridge(gram, cross, config.ridge)
    rows = matrices.arrays["rows"]
    arrays = {"weights": weights.numpy(), "rows": rows, "generation": matrices.arrays.get("generation", np.zeros(len(rows), np.int32))}
    return ComponentState(arrays, {"kind": "linear", "decay": config.history_decay, "num_queries": matrices.meta["num_queries"]})
