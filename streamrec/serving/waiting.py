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
    """Hold positions that lists don't know.

    Attributes:
        slots: Where they are written, ascending. [k]
        positions: Ascending, too. [k]
        vectors: Theirs. [k, d]
        bias: Theirs. [k]
    """

    slots: Ints
    positions: Ints
    vectors: Floats
    bias: Floats

    def split(self) -> tuple[Waiting, Waiting | None]:
        """Return those that enter lists next, and the others."""
        now, rest = self._part(slice(_AT_ONCE)), self._part(slice(_AT_ONCE, None))
        return now, rest if len(rest.slots) else None

    def _part(self, piece: slice) -> Waiting:
        return Waiting(self.slots[piece], self.positions[piece], self.vectors[piece], self.bias[piece])

    def without(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return a mask over all positions that is false for these."""
        rest = mask.copy()
        rest[self.positions] = False
        return rest

    def with_best(self, found: Iterable[tuple[float, int]], query: Floats, num: int, is_allowed: NDArray[np.bool_]) -> list[tuple[float, int]]:
        """Return (score, position) of what lists gave and of the best ``num`` of these; what entered lists meanwhile is named once."""
        scores = self.vectors @ query
        scores += self.bias
        scores[~is_allowed.take(self.positions)] = -np.inf
        at, best = top(scores, num)
        mine = self.positions[at].tolist()
        known = set(mine)
        return [(score, position) for score, position in found if position not in known] + list(zip(best.tolist(), mine, strict=True))
