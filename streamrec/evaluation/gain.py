"""Measure what teachers add: the student beside the same student on events alone, on the same queries, as a live figure with its error."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamrec.state import ComponentState, Impersonal

WINDOW_QUERIES = 8192
"""The figure looks back over about so many queries: a gain of one hit in a hundred stands out of chance by then."""

ENOUGH_QUERIES = 1024
"""Fewer say nothing."""

SURE = 4.0
"""Standard errors. Who looks at each step sees chance oftener than who looks once: of 100 streams of 51,200 queries and no difference, 6 pass three
standard errors at some step, 3 three and a half, none four."""


class Estimate(NamedTuple):
    """Hold a mean of paired differences.

    Attributes:
        mean: Student less control, Recall@20.
        error: Its standard error.
        num_queries: How many queries it rests on; those further back count less.
    """

    mean: float
    error: float
    num_queries: float


class Gain(Impersonal):
    """Sum paired differences, older ones fading, and tell which of the two is to be published.

    That is the student, until it is worse than the control for sure; then the control, until the student is no longer worse. So teachers, however bad
    they are, cost at most what it takes to see it.
    """

    name = "gain"

    def __init__(self) -> None:
        self._sums = np.zeros(4)  # Of weights, of their squares, of weighted differences, of weighted squares of differences.
        self._is_harmful = False

    @property
    def is_harmful(self) -> bool:
        """Whether the student on events alone is the better one."""
        return self._is_harmful

    def add(self, student: NDArray[np.float32], control: NDArray[np.float32]) -> Estimate | None:
        """Add both students' scores on the same queries, made before either learned from them, and return the figure: [num_queries] each."""
        num = len(student)
        if num:
            difference, keep = student.astype(np.float64) - control, np.exp(-num / WINDOW_QUERIES)
            self._sums *= np.array([keep, keep**2, keep, keep])
            self._sums += np.array([num, num, difference.sum(), (difference**2).sum()])
        found = self.estimate()
        if found is not None:
            self._is_harmful = found.mean < 0 if self._is_harmful else found.mean + SURE * found.error < 0
        return found

    def estimate(self) -> Estimate | None:
        """Return the figure, None while there are too few queries."""
        weights, squares, total, total_squares = self._sums.tolist()
        if weights < ENOUGH_QUERIES:
            return None
        mean = total / weights
        variance = max(0.0, total_squares / weights - mean**2)
        return Estimate(mean, float(np.sqrt(variance * squares) / weights), weights**2 / squares)

    def snapshot(self) -> ComponentState:
        """Return the sums and which of the two is the better one."""
        return ComponentState({"sums": self._sums.copy()}, {"is_harmful": self._is_harmful})

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`. States of before there was this figure begin with none."""
        self._sums = np.array(base.arrays.get("sums", np.zeros(4)), np.float64)
        self._is_harmful = bool(base.meta.get("is_harmful", False))
