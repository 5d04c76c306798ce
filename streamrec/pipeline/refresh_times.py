"""Measure how long it takes from a decision to refresh a teacher to the first labels of the version that came of it."""

from __future__ import annotations

from typing import NamedTuple


class Took(NamedTuple):
    """Hold a refresh's wall time and its parts, in seconds.

    Attributes:
        fit_s: From the step that began it to the one whose plan first names the version: queueing, making, storing, loading.
        compared_s: From there to the step that takes its labels; 0 where it was compared with nothing.
    """

    fit_s: float
    compared_s: float

    @property
    def total_s(self) -> float:
        """Return the sum."""
        return self.fit_s + self.compared_s


class RefreshTimes:
    """Note what refreshes take, in this process alone; of one that an earlier process began nothing is known.

    Attributes:
        last: Teacher name to its newest refresh that came into use.
    """

    def __init__(self) -> None:
        self.last: dict[str, Took] = {}
        self._noted: dict[str, tuple[str, list[float]]] = {}

    def begin(self, teacher: str, version: str, now_s: float) -> None:
        """Note that a refresh was decided on; one before it that never came into use is forgotten."""
        self._noted[teacher] = (version, [now_s])

    def name(self, teacher: str, version: str, now_s: float) -> None:
        """Note that a plan names its version for the first time."""
        known, times = self._noted.get(teacher, ("", []))
        if known == version and len(times) == 1:
            times.append(now_s)

    def use(self, teacher: str, version: str, now_s: float) -> Took | None:
        """Return what it took until its labels are used; None where that isn't known."""
        self.name(teacher, version, now_s)
        known, times = self._noted.get(teacher, ("", []))
        if known != version:
            return None
        del self._noted[teacher]
        self.last[teacher] = Took(times[1] - times[0], now_s - times[1])
        return self.last[teacher]
