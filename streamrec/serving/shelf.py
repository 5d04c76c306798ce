"""Hold one namespace's rows in one version: an index over them, the way from row to position and back, and which can't be returned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamrec.serving.approximate_index import build_approximate
from streamrec.serving.changes import Changes
from streamrec.serving.index import ExactIndex, Floats, Index, Ints
from streamrec.serving.popularity import Popularity
from streamrec.state import Arrays

PER_ITEM = ("item_vectors", "item_bias", "popularity")
"""Arrays of a version that shelves hold."""

Sample = Callable[[Callable[[Ints], Floats], Floats], Floats]
"""Makes queries [num, d] from what gives vectors of positions, and counts; for an index that measures how to search."""


class Among(NamedTuple):
    """Say which rows may be returned.

    Attributes:
        rows: The rows; those of other namespaces do no harm.
        available: Whether those that are left out may not.
    """

    rows: NDArray[np.int32]
    available: bool = True


class Shelf:
    """Hold one namespace's rows.

    Args:
        members: The row of each position [m]; None when positions are rows.
        position_of: The position of each of the model's rows, -1 for those of others; None when positions are rows.
        index: Finds the best positions.
        popularity: Of the positions.
        absent: Positions that hold no item. [m]
    """

    def __init__(self, members: Ints | None, position_of: Ints | None, index: Index, popularity: Popularity, absent: NDArray[np.bool_]) -> None:
        self.index, self.popularity = index, popularity
        self._members, self._position_of, self.absent = members, position_of, absent
        self.left_out = absent
        index.leave_out(absent)
        self.num_items = len(absent) - int(absent.sum())

    @classmethod
    def build(cls, code: int, arrays: Arrays, exact_rows: int, sample: Sample, *, is_only: bool) -> Shelf:
        """Return the shelf of a namespace.

        Args:
            code: The namespace's.
            arrays: The version's.
            exact_rows: Up to so many rows the index is exact.
            sample: Makes queries.
            is_only: Whether no other namespace has rows, so that positions are rows.
        """
        codes = arrays["item_namespace"]
        members = None if is_only else np.flatnonzero(codes == code).astype(np.int32)
        vectors, bias, counts = (arrays[name] if members is None else arrays[name][members] for name in PER_ITEM)
        position_of = None
        if members is not None:
            position_of = np.full(len(codes), -1, np.int32)
            position_of[members] = np.arange(len(members))
        small = len(bias) <= exact_rows
        index: Index = ExactIndex(vectors, bias) if small else build_approximate(vectors, bias, lambda index: sample(index.vectors, counts))
        return cls(members, position_of, index, Popularity(np.array(counts)), codes != code if members is None else np.zeros(len(members), np.bool_))

    def updated(self, code: int, codes: Ints, changes: Changes, sample: Sample) -> Shelf | None:
        """Return the shelf after a delta that gives all arrays by rows; this one stays as it is. None when a row came that others had, or left.

        Args:
            code: The namespace's.
            codes: Afterwards, of each of the model's rows.
            changes: The delta.
            sample: Makes queries.
        """
        members, position_of, rows = self._members, self._position_of, changes.of("item_namespace")[0]
        if members is not None and position_of is not None:
            num = len(position_of)
            if np.any((position_of[rows[rows < num]] >= 0) | (codes[rows[rows < num]] == code)):
                return None
            new = np.flatnonzero(codes[num:] == code).astype(np.int32) + num
            position_of = np.concatenate([position_of, np.full(len(codes) - num, -1, np.int32)])
            position_of[new] = np.arange(len(members), len(members) + len(new))
            members = np.concatenate([members, new])
        size = len(codes) if members is None else len(members)
        absent = np.zeros(size, np.bool_)
        absent[: len(self.absent)] = self.absent
        if members is None:
            absent[rows] = codes[rows] != code
        (at, vectors), (bias_at, bias), (count_at, count) = (_placed(changes.of(name), position_of) for name in PER_ITEM)
        counts = np.empty(size, np.float32)
        counts[: len(self.absent)] = self.popularity.counts
        counts[count_at] = count
        if np.array_equal(at, bias_at):
            touched, whole, whole_bias = at, vectors, bias
        else:
            touched = np.union1d(at, bias_at).astype(np.int32)
            known = touched < len(self.absent)
            whole, whole_bias = np.empty((len(touched), vectors.shape[1]), np.float32), np.empty(len(touched), np.float32)
            whole[known], whole_bias[known] = self.index.vectors(touched[known]), self.index.bias(touched[known])
            whole[np.searchsorted(touched, at)], whole_bias[np.searchsorted(touched, bias_at)] = vectors, bias
        index = self.index.updated(touched, whole, whole_bias, lambda index: sample(index.vectors, counts))
        return Shelf(members, position_of, index, Popularity(counts, self.popularity, count_at), absent)

    @property
    def is_all(self) -> bool:
        """Return whether positions are rows."""
        return self._members is None

    def rows(self, positions: Ints) -> NDArray[np.int32]:
        """Return the rows of positions."""
        return positions if self._members is None else self._members[positions]

    def positions(self, rows: NDArray[np.int32]) -> Ints:
        """Return the rows' positions, -1 for rows of another namespace."""
        return rows if self._position_of is None else self._position_of[rows]

    def holds(self, row: int) -> bool:
        """Return whether the row has an item of this namespace."""
        position = row if self._position_of is None else int(self._position_of[row])
        return position >= 0 and not self.absent[position]

    def among(self, rows: NDArray[np.int32], *, available: bool) -> Ints:
        """Return the positions of these rows, as far as they are members, ascending; without those that are left out if ``available``."""
        positions = np.unique(self.positions(rows))
        positions = positions[positions >= 0]
        return positions[~(self.left_out if available else self.absent)[positions]]

    def leave_out(self, rows: NDArray[np.int32]) -> None:
        """Make these rows, as far as they are members, the ones that are never chosen."""
        positions, mask = self.positions(rows), self.absent.copy()
        mask[positions[positions >= 0]] = True
        if not np.array_equal(mask, self.left_out):
            self.index.leave_out(mask)
            self.left_out = mask

    def popular(self, n: int, excluded: NDArray[np.int32], among: Among | None) -> tuple[NDArray[np.int32], Floats]:
        """Return the most popular rows and their popularity, best first; see `Recommender.popular`."""
        counts = self.popularity.counts
        barred = self.left_out.copy() if among is None else np.ones(len(counts), np.bool_)
        if among is not None:
            barred[self.among(among.rows, available=among.available)] = False
        positions = self.positions(excluded)
        barred[positions[positions >= 0]] = True
        size = n + len(excluded)
        while True:
            best = self.popularity.best(size)
            chosen = best[~barred[best]][:n]
            if len(chosen) == n or len(best) == len(counts):
                return self.rows(chosen), counts[chosen]
            size = len(best) + 1

    def num_left_out(self) -> int:
        """Return how many items are left out."""
        return int(self.left_out.sum()) - (len(self.absent) - self.num_items)


def _placed(change: tuple[Ints, NDArray[Any]], position_of: Ints | None) -> tuple[Ints, NDArray[Any]]:
    """Return changed rows' values by ascending position, without those of other namespaces."""
    rows, values = change
    if position_of is None:
        return rows, values
    positions = position_of[rows]
    mine = positions >= 0
    return positions[mine], values[mine]
