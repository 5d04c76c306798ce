"""Keep how a stream has fared of late, for whoever begins to look now: points in time and what happened between them; pure."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from streamrec.clock import Clock
from streamrec.telemetry.numbers import Taken

EVERY_S = 2.0
MOST_POINTS = 1800
"""An hour."""
MOST_MARKS = 200
ALARM_AGAIN_MS = 60_000
"""What is found again at each step is one alarm for so long."""
MEASURE = "recall@20"

_DIGITS = 5
# Counters whose steps are marks: metric, the mark's kind, the label that says of what, and the outcome that counts.
_MARKED = (
    ("streamrec_refreshes_total", "refresh", 0, "used"),
    ("streamrec_refreshes_total", "refresh_failed", 0, "failed"),
    ("streamrec_alarms_total", "alarm", 0, None),
    ("streamrec_returns_total", "return", None, None),
    ("streamrec_rollbacks_total", "rollback", None, None),
)
# The board sees most of the guard's rollbacks and names the version; the stream counts all of them, a moment later or earlier.
_SAME_MS = 5000


class Course:
    """Hold the newest points and marks.

    Args:
        clock: Processing time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._points: deque[tuple[int, dict[str, float]]] = deque(maxlen=MOST_POINTS)
        self._marks: deque[dict[str, Any]] = deque(maxlen=MOST_MARKS)
        self._counted: dict[tuple[str, str], float] | None = None
        self._due_s = -math.inf

    def take(self, numbers: Taken) -> None:
        """Note what a stream tells; a point at most every `EVERY_S`."""
        self._mark_steps(numbers)
        now_s = self._clock.monotonic_s()
        if now_s >= self._due_s:
            self._due_s = now_s + EVERY_S
            self._points.append((self._clock.now_ms(), point_of(numbers)))

    def mark(self, kind: str, what: str) -> None:
        """Note what happened just now; what comes again without a name is the same."""
        now_ms = self._clock.now_ms()
        if kind == "alarm" and any(mark["what"] == what and now_ms - mark["at_ms"] < ALARM_AGAIN_MS for mark in self._marks if mark["kind"] == kind):
            return
        newest = next((mark for mark in reversed(self._marks) if mark["kind"] == kind), None)
        if newest is None or (what and newest["what"]) or now_ms - newest["at_ms"] > _SAME_MS:
            self._marks.append({"at_ms": now_ms, "kind": kind, "what": what})

    def after(self, at_ms: int) -> dict[str, Any]:
        """Return what came after a time, as columns: ``at_ms``, ``series`` of as many values each, None where there is none, and ``marks``."""
        points = [point for point in self._points if point[0] > at_ms]
        names = dict.fromkeys(name for _, values in points for name in values)
        return {
            "at_ms": [at for at, _ in points],
            "series": {name: [values.get(name) for _, values in points] for name in names},
            "marks": [mark for mark in self._marks if mark["at_ms"] > at_ms],
        }

    def _mark_steps(self, numbers: Taken) -> None:
        counted: dict[tuple[str, str], float] = {}
        for metric, kind, label, outcome in _MARKED:
            for key, one in numbers.get(metric, {}).items():
                if outcome is None or outcome in key:
                    counted[kind, "" if label is None else key[label]] = one.value
        # What the first one tells is from before.
        before, self._counted = self._counted, counted
        for (kind, what), value in counted.items():
            if before is not None and value > before.get((kind, what), 0.0):
                self.mark(kind, what)


_WITHOUT_LABELS = {
    "streamrec_queries_total": "queries",
    "streamrec_teachers_gain": "gain",
    "streamrec_teachers_gain_error": "gain_error",
    "streamrec_lag_records": "lag",
}


def point_of(numbers: Taken) -> dict[str, float]:
    """Return what is drawn over time: recall of each model, of how many queries, what teachers add, their weights, versions that were promoted.

    Example:
        >>> from streamrec.telemetry.numbers import Numbers
        >>> numbers = Numbers()
        >>> numbers.put("streamrec_score", 0.25, model="student", measure="recall@20")
        >>> numbers.put("streamrec_teachers_gain", 0.01)
        >>> point_of(numbers.taken())
        {'score/student': 0.25, 'gain': 0.01}
    """
    point = {f"score/{model}": one.value for (model, measure), one in numbers.get("streamrec_score", {}).items() if measure == MEASURE}
    for metric, name in _WITHOUT_LABELS.items():
        if metric in numbers:
            point[name] = numbers[metric][()].value
    point.update({f"weight/{teacher}": one.value for (teacher,), one in numbers.get("streamrec_teacher_weight", {}).items()})
    for (student, outcome), one in numbers.get("streamrec_versions_total", {}).items():
        if outcome == "promoted":
            point[f"promoted/{student}"] = one.value
    return {name: round(value, _DIGITS) for name, value in point.items() if math.isfinite(value)}
