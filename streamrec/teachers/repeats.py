"""Keep the repeat teacher's sums; see `streamrec.models.repeats`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from streamrec.features.examples import Examples
from streamrec.models.repeats import SHAPE, cells_of, chances, count
from streamrec.state import ComponentState, Impersonal


class Repeats(Impersonal):
    """Answer with the user's own past items.

    **Contract.** `answer` reads the sums as they are, `update` adds a batch; labels are made in that order. The answers of a query sum to at most
    about 1, and what is left is the chance of something new.
    """

    name = "repeats"
    leaves_own_out = False

    def __init__(self) -> None:
        self.restore(ComponentState())

    @property
    def num_queries(self) -> int:
        """Number of queries added so far."""
        return self._num_queries

    def answer(self, examples: Examples, top: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return each query's own items and their chances, most likely first. [Q, K] each."""
        rows, cells = cells_of(examples.history)
        values = np.where(rows >= 0, chances(self._shown, self._taken)[cells], 0.0)
        order = np.argsort(-values, axis=1, kind="stable")[:, :top]
        rows, values = np.take_along_axis(rows, order, 1), np.take_along_axis(values, order, 1)
        return np.where(values > 0, rows, -1).astype(np.int32), values.astype(np.float32)

    def update(self, examples: Examples) -> None:
        """Add a batch of queries."""
        shown, taken = count(examples)
        self._shown += shown
        self._taken += taken
        self._num_queries += len(examples)

    def snapshot(self) -> ComponentState:
        """Return the sums."""
        return ComponentState({"shown": self._shown.copy(), "taken": self._taken.copy()}, {"num_queries": self._num_queries, "shape": list(SHAPE)})

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`. Sums over other cells than these are begun anew."""
        held = base.meta.get("shape") == list(SHAPE)
        self._shown, self._taken = (np.array(base.arrays[name]) if held else np.zeros(int(np.prod(SHAPE))) for name in ("shown", "taken"))
        self._num_queries = int(base.meta["num_queries"]) if held else 0
