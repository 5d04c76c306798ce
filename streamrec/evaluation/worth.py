"""Say what answers were worth: of those that each version gave from each source, the share after which the user took something that was shown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

from streamrec.state import ComponentState, Impersonal

KEPT_VERSIONS = 50
"""Versions of a student that are told apart, the newest by name; a stream makes new ones for ever, and every commit holds all that are kept."""

EARLIER = "earlier"
"""Stands for a student's versions before these."""

_Z = 1.96
_NAMES = {"student": r"[a-z0-9][a-z0-9-]{0,39}", "model_version": r"v\d{8,}(_\d{2,})?", "source": r"[a-z_]{1,32}"}
"""What a context may name: whoever may send impressions shall not fill the table with names of their own."""


class Giver(NamedTuple):
    """Say who gave an answer."""

    student: str
    version: str
    source: str

    @classmethod
    def of(cls, context: Mapping[str, str]) -> Giver | None:
        """Return who an impression's context names; None where that is no name of ours."""
        found = [context.get(name, "") for name in _NAMES]
        if not all(re.fullmatch(pattern, text) for pattern, text in zip(_NAMES.values(), found, strict=True)):
            return None
        return cls(*found)


def weight_of(context: Mapping[str, str]) -> float:
    """Return for how many answers a logged one stands: one over the share that was logged; 1 where that is not said."""
    try:
        share = float(context.get("share", "1"))
    except ValueError:
        return 1.0
    return 1.0 / share if 1e-4 <= share <= 1.0 else 1.0


@dataclass
class Tally:
    """Add up answers whose time is over.

    Attributes:
        shown: How many.
        taken: After how many of them the user took something that was shown.
        actions: How often the user did.
        weight: For how many answers they stand: a sample's count by one over the share that was logged.
        weight_taken: The same of those that were taken.
        squares: Sum of squared weights.
    """

    shown: int = 0
    taken: int = 0
    actions: int = 0
    weight: float = 0.0
    weight_taken: float = 0.0
    squares: float = 0.0

    def add(self, weight: float, actions: int) -> None:
        """Add one answer."""
        is_taken = actions > 0
        self.shown, self.taken, self.actions = self.shown + 1, self.taken + is_taken, self.actions + actions
        self.weight, self.weight_taken, self.squares = self.weight + weight, self.weight_taken + weight * is_taken, self.squares + weight * weight

    def __add__(self, other: Tally) -> Tally:
        """Return both together."""
        return Tally(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def facts(self) -> dict[str, Any]:
        """Return the counts, the rate and its interval."""
        if not self.shown:
            return {"shown": 0, "taken": 0, "actions": 0, "rate": None, "low": None, "high": None}
        rate = self.weight_taken / self.weight
        low, high = wilson(rate, self.weight**2 / self.squares)
        numbers = {"rate": rate, "low": low, "high": high}
        return {
            "shown": self.shown,
            "taken": self.taken,
            "actions": self.actions,
            "answers": round(self.weight),
            **{name: round(value, 6) for name, value in numbers.items()},
        }


def say(tally: Tally) -> str:
    """Return a tally as part of a sentence, empty while no answer's time is over.

    Example:
        >>> say(Tally(200, 13, 15, 200.0, 13.0, 200.0))
        '13 of 200 answers led to something: 6.50%, 3.84 to 10.79%'
    """
    found = tally.facts()
    if not tally.shown:
        return ""
    low, high = (f"{100 * found[name]:.2f}" for name in ("low", "high"))
    return f"{tally.taken} of {tally.shown} answers led to something: {found['rate']:.2%}, {low} to {high}%"


def wilson(rate: float, num: float, z: float = _Z) -> tuple[float, float]:
    """Return the interval of a share that was found in so many independent cases: 95 % by default.

    Answers to one user are not independent: of few users who ask much the true interval is wider.

    References:
        Wilson: Probable inference, the law of succession, and statistical inference, 1927.

    Example:
        >>> tuple(round(bound, 4) for bound in wilson(0.1, 100)), wilson(0.0, 10)[0]
        ((0.0552, 0.1744), 0.0)
    """
    squared = z * z / num
    middle, half = rate + squared / 2, z * math.sqrt(rate * (1 - rate) / num + squared / (4 * num))
    return max(0.0, (middle - half) / (1 + squared)), min(1.0, (middle + half) / (1 + squared))


class Worth(Impersonal):
    """Keep a tally of each version and source; of a student's versions those before the newest `KEPT_VERSIONS` count together. A component itself."""

    name = "worth"

    def __init__(self) -> None:
        self.tallies: dict[Giver, Tally] = {}

    def add(self, giver: Giver, weight: float, actions: int) -> None:
        """Add an answer whose time is over."""
        if giver not in self.tallies:
            earliest = self._earliest(giver.student)
            giver = giver._replace(version=EARLIER) if earliest is not None and giver.version < earliest else giver
        self.tallies.setdefault(giver, Tally()).add(weight, actions)

    def _earliest(self, student: str) -> str | None:
        """Return the oldest version that is told apart, None while there is room for another."""
        versions = sorted({each.version for each in self.tallies if each.student == student and each.version != EARLIER})
        return versions[0] if len(versions) >= KEPT_VERSIONS else None

    def bound(self) -> None:
        """Join what is no longer told apart."""
        for student in {each.student for each in self.tallies}:
            versions = sorted({each.version for each in self.tallies if each.student == student and each.version != EARLIER})
            for giver in [each for each in self.tallies if each.student == student and each.version in versions[:-KEPT_VERSIONS]]:
                earlier = giver._replace(version=EARLIER)
                self.tallies[earlier] = self.tallies.get(earlier, Tally()) + self.tallies.pop(giver)

    def of(self, student: str, version: str | None = None, source: str | None = None) -> Tally:
        """Return what a student's answers came to: all, or those of a version, or of a source."""
        mine = [
            tally
            for giver, tally in self.tallies.items()
            if giver.student == student and version in {None, giver.version} and source in {None, giver.source}
        ]
        return sum(mine, Tally())

    def by_source(self) -> dict[tuple[str, str], tuple[float, float]]:
        """Return by student and source for how many answers those stand after which the user took something, and the others."""
        found: dict[tuple[str, str], tuple[float, float]] = {}
        for giver, tally in self.tallies.items():
            taken, passed = found.get((giver.student, giver.source), (0.0, 0.0))
            found[giver.student, giver.source] = taken + tally.weight_taken, passed + tally.weight - tally.weight_taken
        return found

    def facts(self) -> list[dict[str, Any]]:
        """Return a row for each version and source, by student, newest version first."""
        order = sorted(self.tallies, key=lambda giver: (giver.student, giver.version == EARLIER, _backwards(giver.version), giver.source))
        return [{**_named(giver), **self.tallies[giver].facts()} for giver in order]

    def snapshot(self) -> ComponentState:
        """Return the whole state."""
        return ComponentState({}, {"tallies": [[*giver, *astuple(tally)] for giver, tally in sorted(self.tallies.items())]})

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`."""
        self.tallies = {Giver(*row[:3]): Tally(*row[3:]) for row in base.meta.get("tallies", ())}


def _named(giver: Giver) -> dict[str, str]:
    return {"student": giver.student, "model_version": giver.version, "source": giver.source}


def _backwards(name: str) -> tuple[int, ...]:
    return tuple(-ord(letter) for letter in name)
