"""Keep how models did over the course of a run: points of equally many steps, no more than a bound, however long the run is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.state import Arrays

MOST_POINTS = 256
"""As many as a picture can show; a commit holds all of them, 6 kB a model."""
METRIC = "recall@20"
GAIN = "gain"
"""Stands among the models for what teachers add: the student less its control, query by query."""

_AT = 1  # Column of the time, which says nothing of what was learned.


@dataclass
class Point:
    """Hold some steps that follow one another.

    Attributes:
        batch: The last of their micro-batches.
        at_ms: Processing time that it was planned for.
        num_steps: How many there are.
        num_events: Records that they read.
        sums: Model name to number, sum and sum of squares of its scores.
    """

    batch: int
    at_ms: int
    num_steps: int = 1
    num_events: int = 0
    sums: dict[str, list[float]] = field(default_factory=dict)

    def add(self, later: Point) -> None:
        """Take in what follows."""
        self.batch, self.at_ms = later.batch, later.at_ms
        self.num_steps, self.num_events = self.num_steps + later.num_steps, self.num_events + later.num_events
        for model, values in later.sums.items():
            self.sums[model] = [old + new for old, new in zip(self.sums.get(model, [0.0] * 3), values, strict=True)]

    def mean(self, model: str) -> tuple[float, float] | None:
        """Return a model's mean score and its standard error, None where it had no queries."""
        return mean_of(self.sums.get(model, [0.0] * 3))


def joined(points: list[Point], most: int, least: int) -> list[Point]:
    """Return points with enough queries each to draw them, by joining neighbours; those before the first query stay by themselves.

    Args:
        points: Oldest first; they stay as they are.
        most: So many come back, or hardly more.
        least: Queries of the model that has most of them, in each but the last.
    """

    def queries(point: Point) -> float:
        return max((sums[0] for sums in point.sums.values()), default=0.0)

    enough = max(least, sum(map(queries, points)) / most)
    result: list[Point] = []
    for point in points:
        if result and 0 < queries(result[-1]) < enough:
            result[-1].add(point)
        else:
            result.append(Point(point.batch, point.at_ms, point.num_steps, point.num_events, {name: list(sums) for name, sums in point.sums.items()}))
    return result


def mean_of(sums: list[float]) -> tuple[float, float] | None:
    """Return the mean of scores and its standard error, as if queries were independent; None without any.

    Args:
        sums: Number, sum and sum of squares.

    Example:
        >>> mean_of([4.0, 2.0, 2.0]), mean_of([0.0, 0.0, 0.0])
        ((0.5, 0.28867513459481287), None)
    """
    num, total, squares = sums
    if not num:
        return None
    mean = total / num
    return mean, math.sqrt(max(0.0, squares - num * mean * mean) / max(1.0, num - 1) / num)


class Curve:
    """Add up scores by point.

    Bounded: beyond `MOST_POINTS` neighbours are joined, and each point from then on spans twice as many steps.

    Attributes:
        points: Oldest first; the last one may have fewer steps than the others.
        span: Steps of a point.
    """

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.span = 1

    def begin(self, batch: int, at_ms: int, num_events: int) -> None:
        """Begin a step."""
        step = Point(batch, at_ms, 1, num_events)
        if self.points and self.points[-1].num_steps < self.span:
            self.points[-1].add(step)
            return
        if len(self.points) >= MOST_POINTS:
            self._join()
        self.points.append(step)

    def add(self, model: str, values: NDArray[np.float32]) -> float:
        """Add a model's scores in the step that began last, and return the standard error of their mean."""
        scores = values.astype(np.float64)
        sums = [float(len(scores)), float(scores.sum()), float((scores**2).sum())]
        if self.points:
            newest = self.points[-1]
            newest.add(Point(newest.batch, newest.at_ms, 0, 0, {model: sums}))
        found = mean_of(sums)
        return found[1] if found is not None else 0.0

    def _join(self) -> None:
        joined = self.points[::2]
        for point, later in zip(joined, self.points[1::2], strict=False):
            point.add(later)
        self.points, self.span = joined, 2 * self.span

    def models(self) -> list[str]:
        """Return the names of all models that have scores, in the order in which they came."""
        return list(dict.fromkeys(model for point in self.points for model in point.sums))

    def total(self, model: str) -> list[float]:
        """Return number, sum and sum of squares of all scores of a model."""
        return [sum(point.sums[model][at] for point in self.points if model in point.sums) for at in range(3)]

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Return arrays and meta that `restore` takes."""
        models = self.models()
        sums = np.zeros((len(self.points), len(models), 3))
        for row, point in enumerate(self.points):
            for column, model in enumerate(models):
                sums[row, column] = point.sums.get(model, 0.0)
        facts = [(point.batch, point.at_ms, point.num_steps, point.num_events) for point in self.points]
        return {"curve": sums, "points": np.array(facts, np.int64).reshape(-1, 4)}, {"models": models, "span": self.span}

    def restore(self, arrays: Arrays, meta: Mapping[str, Any]) -> None:
        """Go back to what `state` gave; a state of before there were curves begins with none."""
        models, self.span = meta.get("models", []), int(meta.get("span", 1))
        self.points = []
        facts, sums = arrays.get("points", np.zeros((0, 4), np.int64)).tolist(), arrays.get("curve", np.zeros((0, 0, 3)))
        for (batch, at_ms, num_steps, num_events), by_model in zip(facts, sums, strict=True):
            held = {model: values.tolist() for model, values in zip(models, by_model, strict=True) if values[0]}
            self.points.append(Point(batch, at_ms, num_steps, num_events, held))


def without_times(arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Return `Curve.state`'s arrays without processing times, for a digest."""
    return {name: np.delete(array, _AT, 1) if name == "points" else array for name, array in arrays.items()}
