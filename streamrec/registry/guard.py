"""Watch what comes of a promoted version's answers, and tell when it is surely worse than what was live before.

Answers of versions up to the one that is vouched for say what is usual; those of later ones are held against it. Where versions follow each
other within seconds, all that are later count together: each is what the one before it has become. Once they are surely good enough, or
after `_TIMES` as many answers as the least, the first of them is vouched for, and it goes on with those after it.

The rate of before is taken at its lower bound (Chernoff's, for half of the error), and the e-process of `streamrec.registry.sequential` holds the
answers since against a share of that, for the other half: so of watches in which that share holds no more than the error ever ends in a
rollback, whenever somebody looks. Each user counts once a step, with the mean of their answers.

Before and since are other hours: what users do anyhow goes up and down with them. So the share is to leave room for that, as one half does, and an
answer since which nobody did anything at all says nothing. A version that is worse by less is the gate's to find.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict

from streamrec.config import RegistryConfig
from streamrec.evaluation.shown import Outcome
from streamrec.registry.gate import MOST_EVIDENCE
from streamrec.registry.sequential import log_evidence
from streamrec.registry.version import Number

_TIMES = 10
"""A watch is over after so many times the least number of answers; of before twice as many are remembered, older ones fade."""

RANKED = "student"
"""Answers of this source are a version's own; popular items say nothing of its weights."""


class Guarded(BaseModel):
    """Say which version is rolled back, to which one, by which numbers and why.

    Attributes:
        student: Whose, by its name in the registry.
        version: Live until now.
        to: Live from now on.
        reason: A sentence.
        numbers: Rates of before and since, how many answers they rest on, the least rate, the evidence that it is missed, and how much is needed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    student: str
    version: str
    to: str
    reason: str
    numbers: Mapping[str, Number]


@dataclass(frozen=True)
class Watch:
    """Hold what came of answers of before and since; plain numbers, for a stream's state.

    Attributes:
        live: Version that was live at the last step.
        vouched: What a rollback goes to; None while too little is known.
        first: The first version that was promoted since, which is vouched for next; None while there is none.
        gone: The last version that was rolled back: answers of those up to it, and after the one that is vouched for, count for nothing.
        num_before: Answers of before.
        taken_before: How many of them led to something.
        least: What the rate since must not fall short of; None until the first answer since.
        num: Answers since.
        taken: How many led to something.
        squares: Sum of squares of the users' means.
    """

    live: str | None = None
    vouched: str | None = None
    first: str | None = None
    gone: str = ""
    num_before: float = 0.0
    taken_before: float = 0.0
    least: float | None = None
    num: float = 0.0
    taken: float = 0.0
    squares: float = 0.0

    def after(self, outcomes: Iterable[Outcome], cfg: RegistryConfig) -> Watch:
        """Take in answers whose time is over, of one student."""
        before, since = dict[int, list[bool]](), dict[int, list[bool]]()
        for outcome in outcomes:
            version = outcome.giver.version
            if outcome.giver.source != RANKED or not outcome.is_heard:
                continue
            if version <= (self.vouched or self.live or ""):
                before.setdefault(outcome.user, []).append(outcome.is_taken)
            elif self.vouched is not None and version > self.gone:
                since.setdefault(outcome.user, []).append(outcome.is_taken)
        means = [sum(each) / len(each) for each in before.values()] if self.least is None else []
        watch = replace(self, num_before=self.num_before + len(means), taken_before=self.taken_before + sum(means))
        means = [sum(each) / len(each) for each in since.values()]
        if not means:
            return watch._faded(cfg)
        least = cfg.guard_share * lower_bound(watch.taken_before, watch.num_before, cfg.guard_error / 2) if watch.least is None else watch.least
        sums = (watch.num + len(means), watch.taken + sum(means), watch.squares + sum(mean * mean for mean in means))
        return replace(watch, least=least, num=sums[0], taken=sums[1], squares=sums[2])

    def promoted(self, version: str, before: str | None, cfg: RegistryConfig) -> Watch:
        """Note that a version takes another one's place, which is vouched for by what is known of before, if that is enough."""
        watch = replace(self, live=version)
        if watch.vouched is None and before is not None and watch.num_before >= cfg.guard_min_answers:
            watch = replace(watch, vouched=before, gone="")
        return replace(watch, first=version) if watch.vouched is not None and watch.first is None else watch

    def ended(self, cfg: RegistryConfig) -> Watch:
        """Return the watch; where it is over the first version is vouched for, and the answers since are those of before. A finding stays one."""
        if self.finding("", cfg) is not None:
            return self
        is_enough = self.num >= cfg.guard_min_answers and self._evidence(-1) >= math.log(2 / cfg.guard_error)
        if not is_enough and self.num < _TIMES * cfg.guard_min_answers:
            return self
        sums = (self.num_before + self.num, self.taken_before + self.taken)
        return Watch(self.live, self.first or self.vouched, None, self.gone, *sums)._faded(cfg)

    def dropped(self) -> Watch:
        """Return a watch that vouches for nothing yet, and remembers what was before."""
        return Watch(self.live, None, None, "", self.num_before, self.taken_before)

    def went_back(self) -> Watch:
        """Return the watch after its finding was acted on."""
        return Watch(self.vouched, self.vouched, None, self.live or "", self.num_before, self.taken_before)

    def _faded(self, cfg: RegistryConfig) -> Watch:
        most = 2 * _TIMES * cfg.guard_min_answers
        fade = min(1.0, most / self.num_before) if self.num_before else 1.0
        return replace(self, num_before=fade * self.num_before, taken_before=fade * self.taken_before)

    def _evidence(self, sign: int) -> float:
        """Return the logarithm of the evidence that the rate since is below the least one (1) or above it (-1)."""
        if self.least is None:
            return 0.0
        squares = self.num * self.least**2 - 2 * self.least * self.taken + self.squares
        return log_evidence(sign * (self.num * self.least - self.taken), max(0.0, squares))

    def finding(self, student: str, cfg: RegistryConfig) -> Guarded | None:
        """Return what is to be rolled back, None while nothing is surely worse."""
        if not cfg.guard_share or self.least is None or self.vouched is None or self.num < cfg.guard_min_answers:
            return None
        evidence, needed = self._evidence(1), 2 / cfg.guard_error
        if evidence < math.log(needed):
            return None
        before, since = self.taken_before / self.num_before, self.taken / self.num
        counts = {"before": before, "num_before": self.num_before, "since": since, "num_since": self.num, "least": self.least}
        numbers = {**counts, "evidence": math.exp(min(evidence, math.log(MOST_EVIDENCE))), "needed": needed}
        rates = f"{since:.2%} of {self.num:.0f} answers since {self.vouched} led to something, {before:.2%} of {self.num_before:.0f} did before"
        reason = f"the guard: {rates}, and {self.least:.2%} is the least"
        return Guarded(student=student, version=str(self.live), to=self.vouched, reason=reason, numbers=numbers)


def lower_bound(total: float, num: float, error: float) -> float:
    """Return a rate that the true one lies below with a probability of at most ``error``, by Chernoff's inequality, for values of 0 to 1.

    Args:
        total: Sum of the values.
        num: How many; the bound holds for a number that does not depend on them.
        error: The probability.

    Example:
        >>> lower_bound(0.0, 100, 0.01), 0.03 < lower_bound(5.0, 100, 0.3) < 0.05, lower_bound(5.0, 100, 0.01) < 0.02
        (0.0, True, True)
    """
    if not num or total <= 0.0:
        return 0.0
    mean, needed = min(1.0, total / num), -math.log(error) / num
    low, high = 0.0, mean
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _divergence(mean, middle) > needed else (low, middle)
    return low


def _divergence(found: float, true: float) -> float:
    """Return the relative entropy of two coins."""
    if true <= 0.0:
        return math.inf
    part = found * math.log(found / true) if found else 0.0
    return part + ((1 - found) * math.log((1 - found) / (1 - true)) if found < 1 else 0.0)
