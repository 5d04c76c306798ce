"""Hold training and evaluation examples: a history and the basket of items that followed it.

Shapes: ``Q`` queries, ``N`` history length, ``T`` targets in all, ``W`` words per item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Examples:
    """Hold queries in CSR form: query ``i`` has the targets ``target_rows[indptr[i]:indptr[i + 1]]``.

    Attributes:
        history: Item rows, newest first, padded with -1. [Q, N] int32
        indptr: Bounds of each query's targets. [Q + 1] int64
        target_rows: Item rows, no repeats inside a query. [T] int32
        weight: Mean weight over the query's targets; an item that repeats has its first event's. [Q] float32
        user: 64-bit hash of (namespace, user). [Q] int64
        namespace: Namespace code. [Q] int32
    """

    history: NDArray[np.int32]
    indptr: NDArray[np.int64]
    target_rows: NDArray[np.int32]
    weight: NDArray[np.float32]
    user: NDArray[np.int64]
    namespace: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.history)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of items in each history. [Q] int64."""
        return np.asarray((self.history >= 0).sum(1), np.int64)

    @property
    def query_of_target(self) -> NDArray[np.int64]:
        """Index of the query that each target belongs to. [T] int64."""
        return np.repeat(np.arange(len(self)), np.diff(self.indptr))

    def take(self, index: NDArray[np.int64]) -> Examples:
        """Return the queries ``index`` [M], in that order."""
        counts = np.diff(self.indptr)[index]
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        source = np.repeat(self.indptr[index] - indptr[:-1], counts) + np.arange(indptr[-1])
        return Examples(self.history[index], indptr, self.target_rows[source], self.weight[index], self.user[index], self.namespace[index])

    @staticmethod
    def empty(history_length: int) -> Examples:
        """Return no queries at all, with histories of length ``history_length``."""
        none = np.zeros(0, np.int32)
        return Examples(np.zeros((0, history_length), np.int32), np.zeros(1, np.int64), none, np.zeros(0, np.float32), np.zeros(0, np.int64), none)

    @staticmethod
    def concat(parts: Sequence[Examples]) -> Examples:
        """Join parts in order; there must be at least one."""
        ends = np.cumsum([0] + [len(part.target_rows) for part in parts])
        indptr = [part.indptr[:-1] + start for part, start in zip(parts, ends[:-1], strict=True)]
        return Examples(
            np.concatenate([part.history for part in parts]),
            np.concatenate([*indptr, ends[-1:]]).astype(np.int64),
            np.concatenate([part.target_rows for part in parts]),
            np.concatenate([part.weight for part in parts]),
            np.concatenate([part.user for part in parts]),
            np.concatenate([part.namespace for part in parts]),
        )
