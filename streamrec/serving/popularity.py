"""Know the most popular positions of a namespace without sorting all of them, and follow what changes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrec.serving.index import Floats, Ints

# So many are known at least, if there are as many; who wants more waits for a sort of all.
_KNOWN = 4096


class Popularity:
    """Hold how often each position was used, and the order of the most popular ones.

    Args:
        counts: [m].
        older: The same of the version before.
        changed: Where it had other counts, or none.
    """

    def __init__(self, counts: Floats, older: Popularity | None = None, changed: Ints | None = None) -> None:
        self.counts = counts
        self._floor: float
        self._best: Ints
        self._order: Ints | None = None
        if older is not None and changed is not None and len(changed) < len(counts) // 2:
            # What was neither known nor has changed has at most the old floor.
            self._floor = older._floor
            best, risen = (positions[counts[positions] > self._floor] for positions in (older._best, changed))
            self._best = self._sorted(np.union1d(best, risen).astype(np.int32))
            if len(self._best) >= min(_KNOWN, len(counts)) // 2:
                self._best = self._best[: 4 * _KNOWN]
                if len(self._best) == 4 * _KNOWN:
                    self._floor = float(counts[self._best[-1]])
                    self._best = self._best[counts[self._best] > self._floor]
                return
        if len(counts) <= _KNOWN:
            self._floor, self._best = -np.inf, self._sorted(np.arange(len(counts), dtype=np.int32))
            return
        self._floor = float(np.partition(counts, len(counts) - _KNOWN)[len(counts) - _KNOWN])
        self._best = self._sorted(np.flatnonzero(counts > self._floor).astype(np.int32))

    def best(self, num: int) -> Ints:
        """Return at least ``num`` positions, or all, best first; of equal counts the lower position first."""
        if num <= len(self._best):
            return self._best
        if self._order is None:
            self._order = self._sorted(np.arange(len(self.counts), dtype=np.int32))
        return self._order

    def _sorted(self, positions: NDArray[np.int32]) -> Ints:
        return positions[np.argsort(-self.counts[positions], kind="stable")]
