"""Hold what has changed and is not in an index's lists yet: it is scored one by one meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamrec.serving.index import Floats, Ints, top

# Fewer enter lists at once, and so do those beyond the most: to score each of them costs a request more than to search the lists.
LEAST_WAITING, MOST_WAITING = 1_024, 32_768
# So many enter lists in a few milliseconds.
_AT_ONCE = 512


class Waiting(NamedTuple):
    """Hold slots that lists don't know, ascending.

    Attributes:
        slots: Where they are. [k]
        positions: Where a version has what they hold. [k]
        vectors: Theirs. [k, d]
        bias: Theirs. [k]
    """

    slots: Ints
    positions: Ints
    vectors: Floats
    bias: Floats

    def only(self, chosen: slice | NDArray[np.bool_]) -> Waiting:
        """Return some of them."""
        return Waiting(self.slots[chosen], self.positions[chosen], self.vectors[chosen], self.bias[chosen])

    def split(self) -> tuple[Waiting, Waiting | None]:
        """Return those that enter lists next, and the others."""
        now, rest = self.only(slice(_AT_ONCE)), self.only(slice(_AT_ONCE, None))
        return now, rest if len(rest.slots) else None

    def merged(self, newer: Waiting) -> Waiting:
        """Return these and others, which count where both have a slot: who had it is gone."""
        older = self.only(~np.isin(self.slots, newer.slots, assume_unique=True))
        order = np.argsort(np.concatenate([older.slots, newer.slots]), kind="stable")
        slots, positions, bias = (np.concatenate(parts)[order] for parts in zip(older.scalars, newer.scalars, strict=True))
        return Waiting(slots, positions, np.concatenate([older.vectors, newer.vectors])[order], bias)

    @property
    def scalars(self) -> tuple[Ints, Ints, Floats]:
        """Return all but the vectors."""
        return self.slots, self.positions, self.bias

    def owned(self, slot_of: Ints) -> NDArray[np.bool_]:
        """Return which of these a version has, by the slot of each of its positions."""
        is_known = self.positions < len(slot_of)
        is_same: NDArray[np.bool_] = slot_of.take(np.where(is_known, self.positions, 0)) == self.slots
        return is_known & is_same

    def with_best(self, found: Iterable[tuple[float, int]], query: Floats, num: int, is_allowed: NDArray[np.bool_]) -> list[tuple[float, int]]:
        """Return (score, position) of what lists gave and of the best ``num`` of these; what entered lists meanwhile is named once."""
        scores = self.vectors @ query
        scores += self.bias
        scores[~is_allowed.take(self.positions)] = -np.inf
        at, best = top(scores, num)
        mine = self.positions[at].tolist()
        known = set(mine)
        return [(score, position) for score, position in found if position not in known] + list(zip(best.tolist(), mine, strict=True))
