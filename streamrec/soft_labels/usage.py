"""Count what labels cost and how often they are learned from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from streamrec.soft_labels.schema import TeacherScores


class LabelUsage:
    """Count since this process began; no part of the state, because seconds are no function of the plans.

    Attributes:
        made: Queries that got labels; those that got others later count again.
        used: Times that a student learned from a query's labels.
        asked: Teacher name to queries that it answered.
        seconds: Teacher name to the time that took, in the thread that scored.
    """

    def __init__(self) -> None:
        self.made = self.used = 0
        self.asked: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}

    def add(self, scores: Mapping[str, TeacherScores]) -> None:
        """Count teachers' answers."""
        for name, part in scores.items():
            self.asked[name] += len(part.rows)
            self.seconds[name] = self.seconds.get(name, 0.0) + part.seconds

    def facts(self) -> dict[str, Any]:
        """Return ``made``, ``used``, ``hit_rate`` and each teacher's ``seconds_per_1000``.

        The hit rate is the share of uses that asked no teacher, because the label was in the store or another student's: 0.5 with one replayed
        query beside each new one, more with more students. None before anything was used.
        """
        per_1000 = {name: 1000 * seconds / self.asked[name] for name, seconds in self.seconds.items() if self.asked[name]}
        return {
            "made": self.made,
            "used": self.used,
            "hit_rate": 1 - self.made / self.used if self.used else None,
            "seconds_per_1000": per_1000,
        }
