"""Measure how far the choice of items has moved, beyond what chance explains."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NUM_CLASSES = 1024
"""Rows are counted by their remainder: exact for so many items, and a lower bound of the drift for more."""


def class_counts(rows: NDArray[np.int32]) -> NDArray[np.float64]:
    """Count item rows [T] by class. [`NUM_CLASSES`]."""
    return np.bincount(rows % NUM_CLASSES, minlength=NUM_CLASSES).astype(np.float64)


def moved(before: NDArray[np.float64], since: NDArray[np.float64]) -> float:
    """Return the share of choices that went elsewhere: the total variation between two samples' shares, less what it is between samples of one kind.

    So of a true move a small sample tells a part, and never more than there is.

    Args:
        before: Counts by class. [C]
        since: Counts by class. [C]

    Returns:
        0 to 1; 0 where either sample is empty.

    Example:
        >>> counts = np.full(4, 1000.0)
        >>> moved(counts, counts), round(moved(counts, np.array([0.0, 0.0, 2000.0, 2000.0])), 1)
        (0.0, 0.5)
    """
    num_before, num_since = before.sum(), since.sum()
    if num_before == 0 or num_since == 0:
        return 0.0
    found = 0.5 * np.abs(before / num_before - since / num_since).sum()
    shares = (before + since) / (num_before + num_since)
    # The mean size of a difference of normal noise is √(2/π) of its standard deviation.
    chance = 0.5 * np.sqrt(2 / np.pi * shares * (1 - shares) * (1 / num_before + 1 / num_since)).sum()
    return float(max(0.0, found - chance))
