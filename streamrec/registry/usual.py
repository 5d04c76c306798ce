"""Tell events that are unlike those before: the live version finds far less in them than it usually does, or most come of one user at once.

A version that has learned from spoiled events may be no worse than the live one on more of them, so the comparison of both says nothing. What the
live version finds does: its weights stand still. Each user counts once a step, whatever they do: a bot is one user, and a session of one
user is one piece of evidence. But what a bot sends is learned by all of it, so a step that is mostly one user's is unlike those before, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamrec.registry.sequential import log_evidence

LOOKS_BACK = 1024
"""What is usual fades over so many users."""
LEAST_USERS = 100
"""Fewer have not shown yet what is usual."""
LEAST_QUERIES, MOSTLY, MUCH_MORE = 50, 0.5, 3.0
"""One user has most of so many queries, and this many times what the busiest usually has: logs of few users with long sessions are always so."""
SLOWLY = 1 / 64
"""What is unusual becomes usual by so much at each decision: a world that has changed for good is accepted after some hundred."""


@dataclass(frozen=True)
class Found:
    """Hold what the live version found of users' next items, as sums over users, so that steps add up; and each step's busiest user's queries."""

    users: float = 0.0
    total: float = 0.0
    squares: float = 0.0
    queries: float = 0.0
    busiest: float = 0.0

    @classmethod
    def of(cls, scores: ArrayLike, user: NDArray[np.int64]) -> Self:
        """Sum each user's mean score of a step [num_queries]."""
        _, index = np.unique(user, return_inverse=True)
        num = np.bincount(index)
        means = np.bincount(index, weights=np.asarray(scores, np.float64)) / num if len(num) else np.zeros(0)
        return cls(float(len(num)), float(means.sum()), float((means**2).sum()), float(num.sum()), float(num.max(initial=0)))

    def __add__(self, other: Found) -> Found:
        """Return both together."""
        return Found(
            self.users + other.users,
            self.total + other.total,
            self.squares + other.squares,
            self.queries + other.queries,
            self.busiest + other.busiest,
        )

    @property
    def share(self) -> float:
        """Which share of the queries is that of each step's busiest user."""
        return self.busiest / self.queries if self.queries else 0.0


@dataclass(frozen=True)
class Usual:
    """Hold what the live version usually finds: the mean over users, and how many there were.

    Attributes:
        mean: Of the users' scores.
        users: How many there were.
        is_unlike: Whether the events were unlike those before the last time.
        share: Of a step's queries, that of its busiest user.
    """

    mean: float = 0.0
    users: float = 0.0
    is_unlike: bool = False
    share: float = 0.0

    def doubt(self, found: Found, share: float, error: float) -> str:
        """Return why events are unlike those before, as a sentence; empty where nothing says so.

        Args:
            found: What the live version found since its candidate waits.
            share: It should be this share of what is usual.
            error: The chance that this is said of events that are like those before.

        Once said it is said until the live version finds again what lies half way back.
        """
        if not share or self.users < LEAST_USERS or not found.users or not math.isfinite(found.total):
            return ""
        bound = share * self.mean
        squares = found.users * bound**2 - 2 * bound * found.total + found.squares
        if found.queries >= LEAST_QUERIES and found.share >= max(MOSTLY, MUCH_MORE * self.share):
            return f"events are unlike those before: one user has {found.share:.0%} of the queries, where the busiest usually has {self.share:.0%}"
        mean = found.total / found.users
        is_over = not self.is_unlike or mean >= (1 + share) / 2 * self.mean
        if is_over and log_evidence(found.users * bound - found.total, max(0.0, squares)) < -math.log(error):
            return ""
        return f"events are unlike those before: the live version finds {mean:.4f} instead of {self.mean:.4f}, mean of {found.users:.0f} users"

    def after(self, found: Found, *, is_unlike: bool) -> Usual:
        """Return what is usual after a decision."""
        if not found.users or not math.isfinite(found.total):
            return replace(self, is_unlike=is_unlike)
        mean = found.total / found.users
        step = SLOWLY if is_unlike else 1 - math.exp(-found.users / min(LOOKS_BACK, max(1.0, self.users)))
        if not self.users:
            return Usual(mean, found.users, is_unlike, found.share)
        return Usual(self.mean + step * (mean - self.mean), self.users + found.users, is_unlike, self.share + step * (found.share - self.share))


@dataclass(frozen=True)
class Doubts:
    """Say what speaks against a candidate besides its scores; empty where nothing does.

    Attributes:
        unlike: The events that it is judged by, and the newest of those that it has learned, are unlike those before.
        tainted: It has learned from such events, which are over.
    """

    unlike: str = ""
    tainted: str = ""


FOUND = tuple(field.name for field in fields(Found))


def kept(found: Found) -> dict[str, float]:
    """Return what `found_in` reads."""
    return {f"found_{name}": value for name, value in asdict(found).items()}


def found_in(held: Mapping[str, float]) -> Found:
    """Return what was kept of a candidate's evidence by an earlier step."""
    return Found(**{name: held.get(f"found_{name}", 0.0) for name in FOUND})
