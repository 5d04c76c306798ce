"""Keep the sequential rules; see `streamrec.models.transitions`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from streamrec.config import TransitionsConfig
from streamrec.features.examples import Examples
from streamrec.models.transitions import follow, merge_rows, pairs_of
from streamrec.state import ComponentState, digest_of, merge
from streamrec.teachers.row_table import RowTable


class Transitions:
    """Answer with what follows, or comes before, the newest items.

    **Contract.** `answer` reads the rules as they are, `update` adds a batch; labels are made in that order. Each row of items takes
    ``8 * max_partners`` bytes.
    """

    name = "transitions"
    leaves_own_out = False

    def __init__(self, config: TransitionsConfig) -> None:
        self._config = config
        width = config.max_partners
        self._table = RowTable({"partners": np.full(width, -1, np.int32), "weights": np.zeros(width, np.float32)})
        self._num_queries = 0

    @property
    def num_queries(self) -> int:
        """Number of queries added so far."""
        return self._num_queries

    def answer(self, examples: Examples, top: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return each query's candidates and their scores, best first. [Q, K] each."""
        config = self._config
        return follow(examples.history, self._table["partners"], self._table["weights"], config.item_decay, config.num_items, top)

    def update(self, examples: Examples) -> None:
        """Add a batch of queries."""
        self._num_queries += len(examples)
        keys, values = pairs_of(examples, self._config.reach, self._config.way_back)
        if not len(keys):
            return
        self._table.fit(int(max(keys.max() >> 32, (keys & 0xFFFFFFFF).max())) + 1)
        rows, partners, weights = merge_rows(self._table["partners"], self._table["weights"], keys, values)
        self._write(rows, partners, weights)

    def _write(self, rows: NDArray[np.int64], partners: NDArray[np.int32], weights: NDArray[np.float32]) -> None:
        self._table["partners"][rows], self._table["weights"][rows] = partners, weights
        self._table.touch(rows)

    def snapshot(self) -> ComponentState:
        """Return all rules."""
        return ComponentState(self._table.snapshot(), {"num_queries": self._num_queries})

    def delta(self) -> ComponentState:
        """Return the rows that changed since the last snapshot or delta."""
        return ComponentState(self._table.delta(), {"num_queries": self._num_queries})

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`."""
        state = merge(base, deltas)
        self._table.restore(state)
        self._num_queries = int(state.meta.get("num_queries", 0))

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Return 0: the rules are sums over users."""
        return 0

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Remove the rows' rules, in both directions, and return how many went."""
        partners, weights = self._table["partners"], self._table["weights"]
        mine = rows[rows < self._table.num_rows]
        gone = np.isin(partners, rows)
        num = int((partners[mine] >= 0).sum() + gone.sum() - gone[mine].sum())
        self._table.clear_rows(mine)
        gone[mine] = False
        touched = np.flatnonzero(gone.any(1))
        if len(touched):
            left = np.where(gone[touched], -1, partners[touched])
            order = np.argsort(left < 0, axis=1, kind="stable")
            kept = np.where(left >= 0, weights[touched], np.float32(0))
            self._write(touched, np.take_along_axis(left, order, 1), np.take_along_axis(kept, order, 1))
        return num

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(ComponentState(self._table.state(), {"num_queries": self._num_queries}))
