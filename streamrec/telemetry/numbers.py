"""Count in one process. What is taken of it is plain, so that it travels; adding to a series costs no more than adding a number."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

from streamrec.telemetry.table import BY_NAME, Kind

Labels = tuple[str, ...]
"""A series' label values, in the order of the metric's labels."""


@dataclass
class Series:
    """Hold one series.

    Attributes:
        value: Of a counter or gauge; of a histogram the sum of what it was shown.
        buckets: Of a histogram, how many fell into each bucket; the last one has no bound.
    """

    value: float = 0.0
    buckets: list[int] = field(default_factory=list)


Taken = Mapping[str, Mapping[Labels, Series]]
"""Metric to series."""


class Numbers:
    """Hold the series of one process.

    Args:
        labels: Values that all series of metrics with such a label have, such as ``replica``.

    Example:
        >>> numbers = Numbers(replica="r1")
        >>> numbers.add("streamrec_answers_total", source="student")
        >>> numbers.put("streamrec_model_age_seconds", 2.5)
        >>> numbers.taken()["streamrec_answers_total"]
        {('r1', 'student'): Series(value=1.0, buckets=[])}
    """

    def __init__(self, **labels: str) -> None:
        self._labels = labels
        self._series: dict[str, dict[Labels, Series]] = {}

    def series(self, name: str, **labels: str) -> Series:
        """Return a series, to add to it without being looked for again.

        Raises:
            KeyError: The table has no such metric, or it has other labels.
        """
        metric = BY_NAME[name]
        given = {**{label: value for label, value in self._labels.items() if label in metric.labels}, **labels}
        if given.keys() != set(metric.labels):
            msg = f"Metric: wrong labels of {name}, got {', '.join(sorted(given)) or 'none'}, allowed {', '.join(metric.labels) or 'none'}"
            raise KeyError(msg)
        held = self._series.setdefault(name, {})
        key = tuple(given[label] for label in metric.labels)
        if key not in held:
            held[key] = Series(buckets=[0] * (len(metric.buckets) + 1) if metric.kind is Kind.HISTOGRAM else [])
        return held[key]

    def add(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        self.series(name, **labels).value += value

    def put(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge, or a counter that somebody else counts."""
        self.series(name, **labels).value = value

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Show a histogram a value."""
        show(self.series(name, **labels), BY_NAME[name].buckets, value)

    def clear(self, name: str) -> None:
        """Forget a metric's series, before those that are there now are put."""
        self._series.pop(name, None)

    def taken(self) -> dict[str, dict[Labels, Series]]:
        """Return a copy."""
        return {name: {key: Series(one.value, list(one.buckets)) for key, one in held.items()} for name, held in self._series.items()}


def show(series: Series, bounds: tuple[float, ...], value: float) -> None:
    """Show a histogram's series a value; a bucket holds what is not above its bound."""
    series.value += value
    series.buckets[bisect_left(bounds, value)] += 1
