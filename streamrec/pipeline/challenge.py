"""Compare a teacher's new version with the one in use, on the same queries, before either has seen what came of them."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from streamrec.registry.gate import Window
from streamrec.teachers.policy import Z

METRIC = "ndcg@20"
"""Teachers are compared, and watched for a fall, by a score that sees more than hits: fewer queries tell two versions apart."""

MARGIN = 0.1
"""A new version that is surely not worse by this part of the score is good enough before all queries that were asked for have come."""

LEAST_QUERIES = 32
"""Fewer tell nothing of their own spread."""

_SURE = 2.33
"""One-sided 99 %: who looks after every step sees chance oftener than who looks once."""


class Outcome(StrEnum):
    """What becomes of a new version."""

    TAKES_OVER = "takes_over"
    DROPPED = "dropped"


class ChallengeDecision(BaseModel):
    """Record what became of a teacher's new version, by which numbers and why.

    Attributes:
        teacher: Its name.
        version: The new version.
        against: The one that was in use.
        outcome: Takes over, or is dropped.
        reason: Why, as a sentence.
        numbers: Means of both, their paired difference, its standard error, and what it may fall short by where it ends early.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher: str
    version: str
    against: str
    outcome: Outcome
    reason: str
    numbers: dict[str, float]

    @property
    def takes_over(self) -> bool:
        """Tell whether the new version is used from now on."""
        return self.outcome is Outcome.TAKES_OVER


def decide_challenge(
    teacher: str, version: str, against: str, window: Window, num_wanted: int, *, must_forget: bool = False
) -> ChallengeDecision | None:
    """Decide whether a new version takes over; None while the queries do not tell.

    With as many queries as are wanted, it does unless it is worse by more than chance explains: the mean difference plus 1.64 standard errors lies
    below 0. Before, it is dropped when the same holds with 2.33, and takes over when it is as surely not worse by `MARGIN`: a basket of
    many items tells more than a click, and of baskets there are few. One that must not wait, because the version in use has learned from a
    user who is to be forgotten, takes over by the scores there are.

    Args:
        teacher: Its name.
        version: The new version.
        against: The one in use.
        window: Scores of both; the new one is the candidate.
        num_wanted: Queries that are enough in any case.
        must_forget: The version in use must go.
    """
    numbers = window.numbers(MARGIN)
    scores = f"{METRIC} {numbers.get('candidate', 0.0):.4f} against {numbers.get('live', 0.0):.4f} on {window.num_queries} queries"

    def decision(outcome: Outcome, reason: str) -> ChallengeDecision:
        return ChallengeDecision(teacher=teacher, version=version, against=against, outcome=outcome, reason=f"{reason}: {scores}", numbers=numbers)

    if must_forget:
        return decision(Outcome.TAKES_OVER, "the version in use knows a user who asked to be forgotten")
    if window.num_queries < min(LEAST_QUERIES, num_wanted):
        return None
    is_whole = window.num_queries >= num_wanted
    difference, chance = numbers["difference"], (Z if is_whole else _SURE) * numbers["standard_error"]
    if difference + chance < 0.0:
        return decision(Outcome.DROPPED, "worse than the version in use by more than chance")
    if is_whole or difference - chance > numbers["allowed"]:
        return decision(Outcome.TAKES_OVER, "not worse than the version in use")
    return None
