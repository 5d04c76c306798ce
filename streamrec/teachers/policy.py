"""Decide from measured state whether a teacher is refreshed now, and say why."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from streamrec.config import TeachersConfig

FORGET_EARLY = 0.9
"""A refresh that must forget a user begins after this part of the time that is promised, so that a step in progress can't break the promise."""

MOST_DOUBLINGS = 6
"""A teacher that keeps failing is tried again after at most 64 times `teachers.retry_after_s`."""

Z = 1.64
"""One-sided 95 %: a fall is believed only when chance explains it in fewer than one case of twenty."""


class Reason(StrEnum):
    """Why a teacher is refreshed, or is not."""

    FORGET = "forget"
    FIRST = "first"
    LOST = "lost"
    EVENTS = "events"
    AGE = "age"
    NEW_ITEMS = "new_items"
    DROP = "drop"
    DRIFT = "drift"
    HARM = "harm"
    ASKED = "asked"
    UNDER_WAY = "under_way"
    BACKS_OFF = "backs_off"
    BUDGET = "budget"
    BEHIND = "behind"
    FEW_EVENTS = "few_events"
    NOTHING = "nothing"


CAN_WAIT = frozenset({Reason.EVENTS, Reason.NEW_ITEMS, Reason.DROP, Reason.DRIFT, Reason.HARM})
"""What a stream that is behind does not refresh for: to catch up makes answers fresher than a newer teacher does."""


@dataclass(frozen=True)
class Score:
    """Hold a version's mean score over some queries.

    Attributes:
        mean: Over the queries.
        error: Its standard error.
        num_queries: How many there were.
    """

    mean: float
    error: float
    num_queries: int


@dataclass(frozen=True)
class RefreshFacts:
    """Hold what is known of one teacher; "since" counts from the beginning of its newest refresh. Times are processing times.

    Attributes:
        teacher: Its name.
        version: The one in use, None at first.
        had_version: One was in use before; with none in use it is lost.
        is_busy: A version is being made, or is compared with the one in use.
        num_events: Interactions since.
        new_items: Items that were admitted since, as a share of those there were.
        began_ms: When the newest refresh began, or the teacher was first heard of; None when nobody knows.
        first: Score of the version in use right after it came into use, None until enough queries have come.
        recent: Its score on the newest queries.
        drift: How far the choice of items since is from the choice before, beyond chance, 0 to 1.
        spent_s: Worker-seconds that refreshes of all teachers took in the last day.
        cost_s: Worker-seconds that the newest refresh of this one took.
        forget_since_ms: When the first user asked to be forgotten since, None if nobody has.
        serves_ms: When the first user asked to be forgotten whom the version that is being made or compared does not know any more.
        num_failed: Refreshes that have failed in a row.
        retry_ms: After failures, when the next may begin.
        lag: Records that wait after this step.
        asked_ms: When somebody asked last for a new version.
        asked_by: Who that was, and why.
        is_harmful: All teachers' labels together make the student worse than it is on events alone, by more than chance.
    """

    teacher: str
    version: str | None = None
    had_version: bool = False
    is_busy: bool = False
    num_events: int = 0
    new_items: float = 0.0
    began_ms: int | None = None
    first: Score | None = None
    recent: Score | None = None
    drift: float = 0.0
    spent_s: float = 0.0
    cost_s: float = 0.0
    forget_since_ms: int | None = None
    serves_ms: int | None = None
    num_failed: int = 0
    retry_ms: int = 0
    lag: int = 0
    is_harmful: bool = False
    asked_ms: int | None = None
    asked_by: str = ""


class RefreshDecision(BaseModel):
    """Record what was decided for one teacher, by which numbers and why.

    Attributes:
        teacher: Its name.
        refresh: Whether a refresh begins.
        code: Reason by name.
        reason: Reason as a sentence.
        numbers: What it was decided by.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher: str
    refresh: bool
    code: Reason
    reason: str
    numbers: dict[str, float]

    @property
    def is_put_off(self) -> bool:
        """Tell whether something asks for a refresh that may not begin yet."""
        return self.code in {Reason.BACKS_OFF, Reason.BUDGET, Reason.BEHIND}


def decide_refresh(facts: RefreshFacts, now_ms: int, config: TeachersConfig) -> RefreshDecision:
    """Decide whether a refresh of a teacher begins now; the first that applies counts.

    A deletion whose time is nearly over comes before everything but a refresh under way and a failed one's wait. Otherwise nothing begins before
    the earliest number of events but the refresh of a version that is too old, lost or asked for, and nothing at all once the budget is spent. While
    the stream is behind, what `CAN_WAIT` waits for several times as many events: a refresh may share the stream's cores.

    Args:
        facts: What is known of the teacher.
        now_ms: Processing time.
        config: The bounds.
    """
    latest = latest_events(facts.teacher, config)
    earliest = math.ceil(config.refresh_earliest * latest)

    def decision(code: Reason, reason: str, *, refresh: bool = False) -> RefreshDecision:
        return RefreshDecision(teacher=facts.teacher, refresh=refresh, code=code, reason=reason, numbers=_numbers(facts, now_ms))

    if facts.is_busy:
        return decision(Reason.UNDER_WAY, "a version is being made or compared")
    forgets = must_forget(facts.forget_since_ms, now_ms, config)
    wanted = next(_wishes(facts, now_ms, config, earliest, latest), None)
    if forgets:
        wanted = Reason.FORGET, f"a user asked to be forgotten, and {config.forget_within_s:.0f} s are promised"
    if wanted is None:
        if facts.num_events < earliest:
            return decision(Reason.FEW_EVENTS, f"{facts.num_events} events since the last one began, of at least {earliest}")
        return decision(Reason.NOTHING, f"nothing asks for it: {facts.num_events} of {latest} events")
    code, reason = wanted
    if now_ms < facts.retry_ms:
        wait_s = (facts.retry_ms - now_ms) / 1000
        return decision(Reason.BACKS_OFF, f"{facts.num_failed} failed in a row, the next begins in {wait_s:.0f} s at the earliest ({reason})")
    spent_min, cost_min, budget_min = facts.spent_s / 60, facts.cost_s / 60, config.budget_worker_min_per_day
    if not forgets and spent_min > 0 and spent_min + cost_min > budget_min:
        spent = f"{spent_min:.1f} of {budget_min:g} worker-minutes a day are spent, and the last one took {cost_min:.1f}"
        return decision(Reason.BUDGET, f"{spent} ({reason})")
    most = round(config.refresh_behind * latest)
    if code in CAN_WAIT and facts.lag > config.refresh_lag and facts.num_events < most:
        return decision(Reason.BEHIND, f"the stream is {facts.lag} records behind; it begins after {most} events at the latest ({reason})")
    return decision(code, reason, refresh=True)


def latest_events(teacher: str, config: TeachersConfig) -> int:
    """Return after how many interactions a refresh of a teacher begins at the latest."""
    ours = {"transformer": config.transformer_refresh_events, "linear": config.linear_refresh_events, "text": config.text_refresh_events}
    return ours.get(teacher, config.plugin_refresh_events)


def must_forget(since_ms: int | None, now_ms: int, config: TeachersConfig) -> bool:
    """Return whether the time to begin a refresh without a deleted user is nearly over; that time runs whether events come or not."""
    return since_ms is not None and since_ms <= now_ms - round(FORGET_EARLY * config.forget_within_s * 1000)


def wait_after_failures_s(num_failed: int, config: TeachersConfig) -> float:
    """Return how long to wait after so many failures in a row: twice as long after each."""
    return config.retry_after_s * 2.0 ** min(num_failed - 1, MOST_DOUBLINGS)


def _wishes(facts: RefreshFacts, now_ms: int, config: TeachersConfig, earliest: int, latest: int) -> Iterator[tuple[Reason, str]]:
    """Yield what asks for a refresh, with its sentence; a deletion aside."""
    age_s = _age_s(facts, now_ms)
    if facts.num_events and facts.version is not None and age_s >= config.refresh_age_s:
        yield Reason.AGE, f"it is {age_s:.0f} s old, {config.refresh_age_s:.0f} s are the most"
    if facts.version is None and facts.had_version:
        yield Reason.LOST, "its version is lost"
    if facts.num_events and facts.asked_ms is not None and (facts.began_ms is None or facts.asked_ms > facts.began_ms):
        yield Reason.ASKED, f"it was asked for {facts.asked_by}"
    if facts.num_events < earliest:
        return
    if facts.version is None:
        yield Reason.FIRST, f"there is no version yet, and {facts.num_events} events have come"
    if facts.num_events >= latest:
        yield Reason.EVENTS, f"{facts.num_events} events since the last one began, {latest} are the most"
    if facts.new_items > config.refresh_new_items:
        yield Reason.NEW_ITEMS, f"{facts.new_items:.1%} more items than it knows, {config.refresh_new_items:.1%} are the most"
    first, recent = facts.first, facts.recent
    if first is not None and recent is not None:
        error = math.hypot(first.error, recent.error)
        if recent.mean + Z * error < (1.0 - config.refresh_drop) * first.mean:
            fell = f"its score fell from {first.mean:.4f} to {recent.mean:.4f} on the newest {recent.num_queries} queries"
            yield Reason.DROP, f"{fell}, by more than {config.refresh_drop:.0%} and chance"
    if facts.drift > config.refresh_drift:
        yield Reason.DRIFT, f"choices moved by {facts.drift:.3f} since it was made, {config.refresh_drift:g} is the most"
    if facts.is_harmful:
        yield Reason.HARM, "with teachers' labels the student is worse than on events alone"


def _age_s(facts: RefreshFacts, now_ms: int) -> float:
    return max(0.0, (now_ms - facts.began_ms) / 1000) if facts.began_ms is not None else 0.0


def _numbers(facts: RefreshFacts, now_ms: int) -> dict[str, float]:
    numbers = {
        "num_events": facts.num_events,
        "new_items": facts.new_items,
        "age_s": _age_s(facts, now_ms),
        "drift": facts.drift,
        "spent_worker_min": facts.spent_s / 60,
        "cost_worker_min": facts.cost_s / 60,
        "num_failed": facts.num_failed,
        "lag": facts.lag,
        "is_harmful": float(facts.is_harmful),
    }
    for name, score in (("score_first", facts.first), ("score_recent", facts.recent)):
        if score is not None:
            numbers |= {name: score.mean, f"{name}_error": score.error}
    if facts.forget_since_ms is not None:
        numbers["forget_waits_s"] = (now_ms - facts.forget_since_ms) / 1000
    return numbers
