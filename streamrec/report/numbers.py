"""Work out what a report tells from what was counted; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.report.facts import Shares, Spread

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
HIDDEN = "(hidden)"

_LORENZ_STEPS = 20
_SECRET = re.compile(r"password|passwd|secret|token|credential|api_?key|private|jaas|account_key", re.IGNORECASE)
_PLACES = re.compile(r"(file|path|folder)$", re.IGNORECASE)
_USER_OF_URL = re.compile(r"(?<=://)[^/@\s]*@")


def spread_of(counts: Sequence[int], bounds_s: Sequence[float]) -> Spread | None:
    """Return a histogram with its quantiles, None where nothing was counted.

    Example:
        >>> spread_of([0, 4, 0], [1.0, 2.0]).quantiles_s["p50"]
        1.5
    """
    total = sum(counts)
    if not total:
        return None
    return Spread(tuple(bounds_s), tuple(counts), {name: _quantile(counts, bounds_s, share * total) for name, share in QUANTILES.items()})


def _quantile(counts: Sequence[int], bounds_s: Sequence[float], wanted: float) -> float | None:
    seen, low = 0, 0.0
    for num, high in zip(counts, bounds_s, strict=False):
        if num and seen + num >= wanted:
            return low + (high - low) * (wanted - seen) / num
        seen, low = seen + num, high
    return None


def spread_of_times(times_s: Sequence[float], bounds_s: Sequence[float]) -> Spread | None:
    """Return the histogram of single times, with their own quantiles."""
    if not times_s:
        return None
    counts = np.bincount(np.searchsorted(bounds_s, times_s), minlength=len(bounds_s) + 1).tolist()
    return Spread(tuple(bounds_s), tuple(counts), {name: float(np.quantile(times_s, share)) for name, share in QUANTILES.items()})


def shares_of(counts: NDArray[Any], num_items: int) -> Shares | None:
    """Return how evenly places went to items, None where there was no place.

    Args:
        counts: Places of each item that got any.
        num_items: That there are in all, those with none included.

    Example:
        >>> even = shares_of(np.ones(10), 10)
        >>> even.coverage, round(even.gini, 6), even.lorenz[10]
        (1.0, 0.0, 0.5)
    """
    held = np.sort(counts[counts > 0].astype(np.float64))[::-1]
    total, num_items = float(held.sum()), max(num_items, len(held))
    if not total:
        return None
    summed = np.concatenate([[0.0], np.cumsum(held), np.full(num_items - len(held), total)]) / total

    def first(share: float) -> float:
        """Return the share of places of the first items, between two items in proportion."""
        return float(np.interp(share * num_items, np.arange(num_items + 1), summed))

    gini = 2 * float((summed[:-1] + summed[1:]).sum()) / 2 / num_items - 1
    lorenz = tuple(round(first(step / _LORENZ_STEPS), 6) for step in range(_LORENZ_STEPS + 1))
    return Shares(round(total), len(held), len(held) / num_items, first(0.01), first(0.1), gini, lorenz)


def public(value: Any, name: str = "") -> Any:
    """Return a value of a configuration without what is secret: what a name says is one, and users in addresses; files that hold one are named.

    Example:
        >>> public({"sasl_password": "x", "keys_file": "/run/keys", "broker": "kafka://ann:pw@host:9"})
        {'sasl_password': '(hidden)', 'keys_file': '/run/keys', 'broker': 'kafka://(hidden)@host:9'}
    """
    if isinstance(value, Mapping):
        return {key: public(held, str(key)) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [public(held, name) for held in value]
    if isinstance(value, str):
        if value and _SECRET.search(name) and not _PLACES.search(name):
            return HIDDEN
        return _USER_OF_URL.sub(f"{HIDDEN}@", value)
    return value
