"""Count how long records waited in the log until they were learned from; pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WAIT_BOUNDS_S = (0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0, 86_400.0)
"""Upper bounds of the buckets that are counted, inclusive; what waited longer is in one more."""

NOTHING_ARRIVED = np.zeros(0, np.int64)


def waits_of(arrived_ms: NDArray[np.int64], now_ms: int) -> list[int]:
    """Return how many records waited so long, by bucket.

    Args:
        arrived_ms: When the log got each, by its own clock; what is not above 0 says nothing and is left out.
        now_ms: When they had been learned from.

    Example:
        >>> waits_of(np.array([900, 0, 500, -1]), 1_000)[:4]
        [1, 0, 1, 0]
    """
    known = arrived_ms[arrived_ms > 0]
    places = np.searchsorted(WAIT_BOUNDS_S, np.maximum(0, now_ms - known) / 1000)
    counts: list[int] = np.bincount(places, minlength=len(WAIT_BOUNDS_S) + 1).tolist()
    return counts
