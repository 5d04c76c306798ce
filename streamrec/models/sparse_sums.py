"""Add up a square matrix of which few entries are there.

Shapes: ``M`` rows and columns, ``E`` entries.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

SHIFT = 32
"""A place is its row above so many bits, and its column below them: places in order are rows in order."""

FEW = 2**16
"""New places that are looked up beside the others before they are sorted in among them: an update must not move every entry."""

KEPT = 7 / 8
"""Share of the bound that stays when entries leave, so that not every update makes some leave."""

NOTHING = 1e-5
"""What is left of an entry, relative to what was taken out of it, when nobody else has a part in it: rounding."""


def split(places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows and columns of places."""
    return places >> SHIFT, places & (2**SHIFT - 1)


class Rows(NamedTuple):
    """Hold a matrix row by row, as `torch.nn.functional.embedding_bag` takes it.

    Attributes:
        starts: Where each row's entries begin, and where the last one's end. [M + 1] int64
        columns: [E] int64
        values: [E] float32
    """

    starts: torch.Tensor
    columns: torch.Tensor
    values: torch.Tensor

    @staticmethod
    def of(rows: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[np.float32], num: int) -> Rows:
        """Make it of entries in any order, no two of one place: [E] each."""
        ordered, order = torch.sort(torch.from_numpy(rows << SHIFT | columns))
        starts = torch.searchsorted(ordered, torch.arange(num + 1) << SHIFT)
        return Rows(starts, ordered & (2**SHIFT - 1), torch.from_numpy(values)[order])

    def times(self, dense: torch.Tensor) -> torch.Tensor:
        """Return the product with a dense matrix: [M, D] → [M, D]. One that LAPACK gave lies by columns, where this takes tens of times as long."""
        return torch.nn.functional.embedding_bag(
            self.columns, dense.contiguous(), self.starts, mode="sum", per_sample_weights=self.values, include_last_offset=True
        )

    def scaled(self, by_row: torch.Tensor) -> Rows:
        """Return it with each row times a number: [M]."""
        return self._replace(values=self.values * torch.repeat_interleave(by_row, self.starts.diff()))


class SparseSums:
    """Hold sums by place, all above zero.

    **Contract.** An entry is the sum of what `add` brought it, in the order of calls. When new places are sorted in changes no bit, so neither does
    saving in between. Beyond ``max_entries`` the smallest entries leave, those on the diagonal last where ``keeps_diagonal``; one that comes
    again begins anew.

    Attributes:
        is_whole: No entry has left for want of room.
    """

    def __init__(
        self, max_entries: int, *, keeps_diagonal: bool, places: NDArray[np.int64] | None = None, values: NDArray[np.float32] | None = None
    ) -> None:
        self._max_entries = max_entries
        self._keeps_diagonal = keeps_diagonal
        self._places = np.zeros(0, np.int64) if places is None else np.array(places)
        self._values = np.zeros(0, np.float32) if values is None else np.array(values)
        self._new_places, self._new_values = self._places[:0], self._values[:0]
        self.is_whole = True

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._places) + len(self._new_places)

    def add(self, rows: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """Add values, all above zero, each at a row and a column [n]."""
        places, sums = _summed(rows, columns, values)
        for held, entries in ((self._places, self._values), (self._new_places, self._new_values)):
            at, found = _find(held, places)
            entries[at[found]] += sums[found]
            places, sums = places[~found], sums[~found]
        at = np.searchsorted(self._new_places, places)
        self._new_places, self._new_values = np.insert(self._new_places, at, places), np.insert(self._new_values, at, sums)
        if len(self._new_places) > max(FEW, len(self._places) // 8):
            self._sort_in()
        if len(self) > self._max_entries:
            self._leave_out()

    def take_out(self, rows: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """Take values out again that were added before; what has left is not there to be taken from."""
        self._sort_in()
        places, sums = _summed(rows, columns, values)
        at, found = _find(self._places, places)
        at, sums = at[found], sums[found]
        self._values[at] -= sums
        self._keep_only(at, self._values[at] > NOTHING * sums)

    def keep(self, kept: NDArray[np.int64], num: int) -> None:
        """Keep these of ``num`` rows and columns, ascending, as the first ones."""
        self._sort_in()
        number = np.full(num, -1)
        number[kept] = np.arange(len(kept))
        rows, columns = (number[part] for part in split(self._places))
        inside = (rows >= 0) & (columns >= 0)
        self._places, self._values = rows[inside] << SHIFT | columns[inside], self._values[inside]

    def entries(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return copies of (places in order, values): [E] each."""
        self._sort_in()
        return self._places.copy(), self._values.copy()

    def _sort_in(self) -> None:
        at = np.searchsorted(self._places, self._new_places)
        self._places, self._values = np.insert(self._places, at, self._new_places), np.insert(self._values, at, self._new_values)
        self._new_places, self._new_values = self._places[:0], self._values[:0]

    def _keep_only(self, at: NDArray[np.int64], stays: NDArray[np.bool_]) -> None:
        if not stays.all():
            kept = np.ones(len(self._places), bool)
            kept[at[~stays]] = False
            self._places, self._values = self._places[kept], self._values[kept]

    def _leave_out(self) -> None:
        self._sort_in()
        strength = self._values.copy()
        if self._keeps_diagonal:
            strength[np.equal(*split(self._places))] = np.inf
        num = int(KEPT * self._max_entries)
        least = np.partition(strength, len(strength) - num)[len(strength) - num]
        equal = np.flatnonzero(strength == least)
        kept = strength > least
        kept[equal[: num - int(kept.sum())]] = True
        self._places, self._values = self._places[kept], self._values[kept]
        self.is_whole = False


def _summed(rows: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return (places, ascending, each once; the sum of what is at each)."""
    places = rows << SHIFT | columns
    ordered, order = (part.numpy() for part in torch.sort(torch.from_numpy(places)))
    first = np.ones(len(places), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    number = np.empty(len(places), np.int64)
    number[order] = np.cumsum(first) - 1
    return ordered[first], np.bincount(number, values).astype(np.float32)  # Summed as they come: how equal places were sorted changes nothing.


def _find(held: NDArray[np.int64], places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return where each place is held, and which are: [n] each."""
    at = np.searchsorted(held, places)
    found = at < len(held)
    found[found] = held[at[found]] == places[found]
    return at, found
