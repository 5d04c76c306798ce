"""Hold the linear teacher's sums G = XᵀX and C = XᵀY over slots: as square matrices up to a number of items, beyond it by the entries there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from streamrec.config import LinearConfig
from streamrec.models.linear import Runs, add_cross, add_gram, cross_entries, gram_pairs, upper
from streamrec.models.sparse_sums import SHIFT, SparseSums

CHUNK_ENTRIES = 2**21
"""Entries of C that are added at a time; bounds an update's memory."""

Arrays = dict[str, NDArray[Any]]


class Queries(NamedTuple):
    """Hold queries by slots.

    Attributes:
        history: Newest first, -1 for padding and unknown items. [Q, N] int64
        targets: [T] int64
        query: Query of each target. [T] int64
        share: What each target counts. [T] float32
    """

    history: torch.Tensor
    targets: torch.Tensor
    query: torch.Tensor
    share: torch.Tensor

    def parts(self) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Return (histories, targets, shares) of so many targets at a time as memory bears."""
        size = max(1, CHUNK_ENTRIES // self.history.shape[1])
        cuts = [slice(start, start + size) for start in range(0, len(self.targets), size)]
        return [(self.history[self.query[part]], self.targets[part], self.share[part]) for part in cuts]


class Sums(Protocol):
    """G and C, in either form."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing has left for want of room."""
        ...

    def fit(self, num: int) -> None:
        """Have at least so many slots."""
        ...

    def add(self, queries: Queries, sign: int) -> None:
        """Add queries, or take them out (-1)."""
        ...

    def keep(self, kept: NDArray[np.int64], num: int) -> None:
        """Keep these of ``num`` slots, ascending, as the first ones."""
        ...

    def arrays(self, num: int) -> Arrays:
        """Return copies of what there is of the first ``num`` slots."""
        ...


class DenseSums:
    """Hold both as square matrices; arrays ``gram`` and ``cross``, [M, M] float32."""

    is_whole: Final = True

    def __init__(self, config: LinearConfig, num: int, arrays: Mapping[str, NDArray[Any]] | None = None) -> None:
        self._config = config
        self._gram, self._cross = torch.zeros(num, num), torch.zeros(num, num)
        if num and arrays is not None:
            self._gram += torch.from_numpy(np.array(arrays["gram"]))
            self._cross += torch.from_numpy(np.array(arrays["cross"]))

    def fit(self, num: int) -> None:
        """See `Sums`."""
        if num > len(self._gram):
            capacity = max(num, min(self._config.max_items, self._config.dense_items, max(256, 2 * num)))
            self._gram, self._cross = (_moved(old, torch.arange(len(old)), capacity) for old in (self._gram, self._cross))

    def add(self, queries: Queries, sign: int) -> None:
        """See `Sums`."""
        runs, decay = Runs.of(queries.history.numpy()), self._config.history_decay
        add_gram(self._gram, runs._replace(ends=runs.ends * sign), decay)
        for history, targets, share in queries.parts():
            add_cross(self._cross, history, targets, share * sign, decay)

    def keep(self, kept: NDArray[np.int64], num: int) -> None:
        """See `Sums`."""
        chosen = torch.from_numpy(kept)
        self._gram, self._cross = (_moved(old, chosen, len(old)) for old in (self._gram, self._cross))

    def arrays(self, num: int) -> Arrays:
        """See `Sums`."""
        return {"gram": self._gram[:num, :num].numpy().copy(), "cross": self._cross[:num, :num].numpy().copy()}


class EntrySums:
    """Hold the upper triangle of G, and C, by the entries that are there.

    Arrays ``gram_places`` and ``cross_places`` [E] int64, ascending, row · 2³² + column; ``gram_values`` and ``cross_values`` [E] float32.
    """

    def __init__(self, config: LinearConfig, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._config = config
        self._gram, self._cross = (
            SparseSums(config.max_entries, keeps_diagonal=name == "gram", places=arrays[f"{name}_places"], values=arrays[f"{name}_values"])
            for name in ("gram", "cross")
        )

    @staticmethod
    def of_dense(config: LinearConfig, dense: Arrays) -> EntrySums:
        """Take over square matrices."""
        arrays: Arrays = {}
        for name, matrix in (("gram", np.triu(dense["gram"])), ("cross", dense["cross"])):
            rows, columns = np.nonzero(matrix > 0)
            arrays |= {f"{name}_places": rows << SHIFT | columns, f"{name}_values": matrix[rows, columns]}
        return EntrySums(config, arrays)

    @property
    def is_whole(self) -> bool:
        """See `Sums`."""
        return self._gram.is_whole and self._cross.is_whole

    def fit(self, num: int) -> None:
        """Do nothing: entries come when they are there."""

    def add(self, queries: Queries, sign: int) -> None:
        """See `Sums`."""
        decay = self._config.history_decay
        gram, cross = (held.add if sign > 0 else held.take_out for held in (self._gram, self._cross))
        for pairs in gram_pairs(Runs.of(queries.history.numpy()), decay):
            rows, columns, values = upper(pairs)
            gram(rows.numpy(), columns.numpy(), values.numpy())
        for history, targets, share in queries.parts():
            rows, columns, values = cross_entries(history, targets, share, decay)
            cross(rows.numpy(), columns.numpy(), values.numpy())

    def keep(self, kept: NDArray[np.int64], num: int) -> None:
        """See `Sums`."""
        self._gram.keep(kept, num)
        self._cross.keep(kept, num)

    def arrays(self, num: int) -> Arrays:
        """See `Sums`."""
        (gram_places, gram_values), (cross_places, cross_values) = self._gram.entries(), self._cross.entries()
        return {"gram_places": gram_places, "gram_values": gram_values, "cross_places": cross_places, "cross_values": cross_values}


def _moved(old: torch.Tensor, kept: torch.Tensor, size: int) -> torch.Tensor:
    """Return a square matrix of this size that begins with these rows and columns of another."""
    new = torch.zeros(size, size)
    new[: len(kept), : len(kept)] = old[kept][:, kept]
    return new
