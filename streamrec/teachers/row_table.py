"""Keep arrays that have one entry per row, grow with the rows, and are saved by the rows that changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.state import ROWS, ChangedRows, ComponentState


class RowTable:
    """Hold columns of one length; what was never written has the column's empty value.

    Args:
        empty: Column name to a row's empty value, whose shape and type the column has.
    """

    def __init__(self, empty: Mapping[str, NDArray[Any]]) -> None:
        self._empty = dict(empty)
        self.clear()

    def clear(self) -> None:
        """Forget everything; one empty row stays, so that a look-up has something to find."""
        self.num_rows = 1
        self._columns = {name: self._made(name, 256) for name in self._empty}
        self._changed = ChangedRows()

    def _made(self, name: str, num: int) -> NDArray[Any]:
        value = self._empty[name]
        return np.full((num, *value.shape), value, value.dtype)

    def fit(self, num_rows: int) -> None:
        """Have at least so many rows."""
        if num_rows <= self.num_rows:
            return
        self._changed.mark(np.arange(self.num_rows, num_rows))  # A gap would be joined as zeros, which are no empty rows.
        self.num_rows = num_rows
        for name, old in self._columns.items():
            if num_rows > len(old):
                self._columns[name] = np.concatenate([old, self._made(name, max(num_rows, 2 * len(old)) - len(old))])

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return a column, to read it or to write rows that are told to `touch`. [num_rows, …]."""
        return self._columns[name][: self.num_rows]

    def touch(self, rows: NDArray[Any]) -> None:
        """Note that these rows were written."""
        self._changed.mark(rows)

    def clear_rows(self, rows: NDArray[Any]) -> None:
        """Give these rows their empty values."""
        for name, value in self._empty.items():
            self[name][rows] = value
        self.touch(rows)

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Return copies of all columns; the next `delta` begins here."""
        self._changed.take()
        return self.state()

    def state(self) -> dict[str, NDArray[Any]]:
        """Return copies of all columns."""
        return {name: self[name].copy() for name in self._empty}

    def delta(self) -> dict[str, NDArray[Any]]:
        """Return the rows written since the last snapshot or delta; see `streamrec.state.merge`."""
        rows = self._changed.take()
        return {ROWS: rows, **{f"{name}@values": self[name][rows] for name in self._empty}}

    def restore(self, state: ComponentState) -> None:
        """Replace the columns."""
        self.clear()
        self.fit(max((len(state.arrays[name]) for name in self._empty if name in state.arrays), default=0))
        for name in self._empty:
            if name in state.arrays:
                self[name][:] = state.arrays[name]
        self._changed.take()
