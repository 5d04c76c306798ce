"""Tell events that are unlike those before: the live version finds hardly more in them than the popular items do, and usually finds much more.

A version that has learned from spoiled events may be no worse than the live one on more of them, so the comparison of both says nothing. What the
live version finds does: its weights stand still. But a step of a dozen users may be hard by chance. So it is compared with the popular items on the
same queries: where users are hard to tell, both find less; where labels are shuffled, popular items still find theirs, and the version nothing.
Evidence adds up from step to step for as long as it speaks against the events.

A live version that has grown old, because items have turned over since, finds nothing either. Then the candidates that follow it are measurably
better than it, and measurably find more than the popular items do: that nobody learns from shuffled labels. So the world has changed, and nothing
is held against its events.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamrec.registry.sequential import log_evidence

LOOKS_BACK = 8192
"""What is usual fades over so many queries."""
LEAST_QUERIES = 1000
"""Fewer have not shown yet what is usual."""
MOST_OF_ONE = 30
"""A user's queries of a step count as so many at most: a long session is a lot of evidence of one user."""
LEAST_LEAD = 0.01
"""A version that usually finds less than this more than the popular items do can't lose it."""
SLOWLY, SLOWLY_QUERIES = 1 / 64, 20_000
"""What is unusual becomes usual by so much at each decision, less at one of fewer queries than so many have of it: a world that has changed for
good, and in which no candidate finds its way, is accepted after some hundred."""


@dataclass(frozen=True)
class Found:
    """Hold by how much more a version found than the popular items did, as sums over queries, so that steps add up."""

    queries: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, scores: ArrayLike, popular: ArrayLike, user: NDArray[np.int64]) -> Self:
        """Sum the leads [num_queries] on a step's queries; each user's mean counts as often as the user asked, up to `MOST_OF_ONE` times."""
        _, index = np.unique(user, return_inverse=True)
        num = np.bincount(index)
        leads = np.asarray(scores, np.float64) - np.asarray(popular, np.float64)
        means = np.bincount(index, weights=leads) / num if len(num) else np.zeros(0)
        weights = np.minimum(num, MOST_OF_ONE)
        return cls(float(weights.sum()), float((weights * means).sum()), float((weights * means**2).sum()))

    def __add__(self, other: Found) -> Found:
        """Return both together."""
        return Found(self.queries + other.queries, self.total + other.total, self.squares + other.squares)

    @property
    def lead(self) -> float:
        """The mean."""
        return self.total / self.queries if self.queries else 0.0

    def is_above(self, error: float) -> bool:
        """Tell whether the mean surely lies above 0, at that chance of an error."""
        return math.isfinite(self.total) and log_evidence(self.total, self.squares) >= -math.log(error)

    def log_evidence(self, least: float) -> float:
        """Return the logarithm of the evidence that the mean lies below ``least``; see `streamrec.registry.sequential`."""
        squares = self.queries * least**2 - 2 * least * self.total + self.squares
        return log_evidence(self.queries * least - self.total, max(0.0, squares))


@dataclass(frozen=True)
class Usual:
    """Hold what the live version usually finds more than the popular items do.

    Attributes:
        lead: Mean over queries.
        queries: How many there were.
        is_unlike: Whether the events were unlike those before the last time.
        carried: What was found since evidence against the events began to add up.
        ahead: By how much more than the live version those found that were refused since it went live.
        own: And by how much more than the popular items.
    """

    lead: float = 0.0
    queries: float = 0.0
    is_unlike: bool = False
    carried: Found = field(default_factory=Found)
    ahead: Found = field(default_factory=Found)
    own: Found = field(default_factory=Found)

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Self:
        """Return what `asdict` gave; what an earlier streamrec kept is another measure, and counts no more."""
        names = {each.name for each in fields(cls)}
        if kept.keys() != names:
            return cls()
        return cls(**{**kept, **{name: Found(**kept[name]) for name in ("carried", "ahead", "own")}})

    def is_better(self, ahead: Found, error: float) -> bool:
        """Tell whether the candidates since the live version went live are better, by this one's lead over it and an error of that chance."""
        return (self.ahead + ahead).is_above(error)

    def is_new_world(self, ahead: Found, own: Found, error: float) -> bool:
        """Tell whether they are, and find more than the popular items do, by this one's lead over these: what came is to be learned from."""
        return self.is_better(ahead, error) and (self.own + own).is_above(error)

    def doubt(self, found: Found, share: float, error: float) -> str:
        """Return why events are unlike those before, as a sentence; empty where nothing says so.

        Args:
            found: What was found since the candidate waits.
            share: It should be this share of what is usual.
            error: The chance that this is said of events of which that share is found, each time that evidence begins to add up.

        Once said it is said until the lead is back above the geometric middle of that share and what is usual.
        """
        if not share or self.queries < LEAST_QUERIES or self.lead < LEAST_LEAD or not found.queries or not math.isfinite(found.total):
            return ""
        is_over = not self.is_unlike or found.lead >= math.sqrt(share) * self.lead
        if is_over and (found + self.carried).log_evidence(share * self.lead) < -math.log(error):
            return ""
        leads = f"{found.lead:.4f} more than the popular items do instead of {self.lead:.4f}"
        return f"events are unlike those before: the live version finds {leads}, on {found.queries:.0f} queries"

    def after(self, found: Found, share: float, *, is_unlike: bool, is_odd: bool = False, refused: tuple[Found, Found] | None = None) -> Usual:
        """Return what is usual after a decision.

        Args:
            found: What the version found that is held against what is usual.
            share: See `doubt`.
            is_unlike: Whether the events were unlike those before.
            is_odd: Whether the candidate was, which may be of such events.
            refused: Of a candidate that was refused its leads over the live version and over the popular items; they add up while the former
                speaks for those that are refused.
        """
        ahead, own = (Found(), Found()) if refused is None else (self.ahead + refused[0], self.own + refused[1])
        speaks = math.isfinite(ahead.total) and log_evidence(ahead.total, ahead.squares) > 0.0
        return replace(
            self._found(found, share, is_unlike=is_unlike, is_slow=is_unlike or is_odd),
            ahead=ahead if speaks else Found(),
            own=own if speaks else Found(),
        )

    def in_new_world(self) -> Usual:
        """Return the same without evidence against the events."""
        return replace(self, carried=Found(), is_unlike=False)

    def _found(self, found: Found, share: float, *, is_unlike: bool, is_slow: bool) -> Usual:
        if not found.queries or not math.isfinite(found.total):
            return replace(self, is_unlike=is_unlike)
        # Of spoiled events popular items may find far more than ever: however far below them the version is, nothing becomes usual any faster.
        lead = max(found.lead, 0.0) if is_slow else found.lead
        step = min(SLOWLY, found.queries / SLOWLY_QUERIES) if is_slow else 1 - math.exp(-found.queries / min(LOOKS_BACK, max(1.0, self.queries)))
        both = found + self.carried
        goes_on = not is_unlike and self.queries >= LEAST_QUERIES and both.log_evidence(share * self.lead) > 0.0
        carried = both if goes_on else Found()
        if not self.queries:
            return Usual(lead, found.queries, is_unlike, carried)
        return Usual(self.lead + step * (lead - self.lead), self.queries + found.queries, is_unlike, carried)


@dataclass(frozen=True)
class Doubts:
    """Say what speaks against a candidate besides its scores; empty where nothing does.

    Attributes:
        unlike: The events that it is judged by, and the newest of those that it has learned, are unlike those before.
        tainted: It has learned from such events, which are over.
        like: How like the live version's answers its own are: ``coverage``, ``overlap`` and ``num`` histories; empty where nobody has looked.
        is_better: The candidates since the live version went live are measurably better, so it is the live version's answers that are odd.
    """

    unlike: str = ""
    tainted: str = ""
    like: Mapping[str, float] = field(default_factory=dict)
    is_better: bool = False
