"""Decide from numbers whether a candidate goes live."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict

from streamrec.config import RegistryConfig
from streamrec.migrations import number_of, read_record
from streamrec.registry.sequential import log_evidence
from streamrec.registry.usual import Doubts
from streamrec.registry.version import Number

MOST_EVIDENCE = 1e300
"""What is told of more: a number of JSON."""


SUMS = ("candidate_sum", "live_sum", "difference_squares", "candidate_squares", "live_squares")
"""What a window adds up besides its queries."""


class Verdict(StrEnum):
    """What becomes of a candidate."""

    PROMOTE = "promote"
    REJECT = "reject"
    WAIT = "wait"


class Reason(StrEnum):
    """Why."""

    NOT_FINITE = "not_finite"
    PROBES_FAILED = "probes_failed"
    WORSE = "worse"
    TOO_FEW_QUERIES = "too_few_queries"
    NOT_WORSE = "not_worse"
    FIRST_VERSION = "first_version"
    LIVE_NOT_FINITE = "live_not_finite"
    IDLE = "idle"
    HELD = "held"
    UNLIKE = "unlike"
    TAINTED = "tainted"
    LIVE_WORSE = "live_worse"
    STRANGE = "strange"


@dataclass(frozen=True)
class Health:
    """Say whether a version is sound by itself.

    Attributes:
        version: Its id.
        is_finite: All its weights are finite.
        probes_pass: It answers its probe histories as its manifest says.
        detail: What is wrong, for the reason's sentence.
    """

    version: str
    is_finite: bool = True
    probes_pass: bool = True
    detail: str = ""


@dataclass(frozen=True)
class Window:
    """Hold paired scores of a candidate and the live version on the same queries, as sums, so that windows add up.

    Attributes:
        batch: Newest batch whose events are in it.
        num_queries: Queries that both answered.
        candidate_sum: Sum of the candidate's scores, such as recall@20.
        live_sum: Sum of the live version's.
        difference_squares: Sum of (candidate − live)² per query.
        metric: Name of the score, of 0 to 1.
        candidate_squares: Sum of candidate² per query.
        live_squares: Sum of live² per query.
    """

    batch: int
    num_queries: int = 0
    candidate_sum: float = 0.0
    live_sum: float = 0.0
    difference_squares: float = 0.0
    metric: str = "recall@20"
    candidate_squares: float = 0.0
    live_squares: float = 0.0

    @classmethod
    def from_scores(cls, batch: int, candidate: ArrayLike, live: ArrayLike | None = None, metric: str = "recall@20") -> Self:
        """Sum scores [num_queries] of both on the same queries; None for live while there is none."""
        ours = np.asarray(candidate, np.float64)
        theirs = np.zeros_like(ours) if live is None else np.asarray(live, np.float64)
        if ours.ndim != 1 or ours.shape != theirs.shape:
            msg = f"Window: scores are not paired, got shapes {ours.shape} and {theirs.shape}, allowed [num_queries] twice"
            raise ValueError(msg)
        sums = (float(ours.sum()), float(theirs.sum()), float(((ours - theirs) ** 2).sum()))
        return cls(batch, len(ours), *sums, metric, float((ours**2).sum()), float((theirs**2).sum()))

    @classmethod
    def from_sums(cls, batch: int, sums: Mapping[str, float]) -> Self:
        """Return a window from what was kept of one: ``num_queries`` and `SUMS`."""
        candidate, live, difference, *squares = (sums[name] for name in SUMS)
        return cls(batch, int(sums["num_queries"]), candidate, live, difference, "recall@20", *squares)

    def __add__(self, other: Window) -> Window:
        """Return both windows' queries together."""
        return Window(
            max(self.batch, other.batch),
            self.num_queries + other.num_queries,
            self.candidate_sum + other.candidate_sum,
            self.live_sum + other.live_sum,
            self.difference_squares + other.difference_squares,
            self.metric,
            self.candidate_squares + other.candidate_squares,
            self.live_squares + other.live_squares,
        )

    def log_evidence(self, tolerance: float) -> float:
        """Return the logarithm of the evidence that the candidate is worse by more than the tolerance; see `streamrec.registry.sequential`."""
        share = 1.0 - tolerance
        products = (self.candidate_squares + self.live_squares - self.difference_squares) / 2
        squares = share**2 * self.live_squares + self.candidate_squares - 2 * share * products
        return log_evidence(share * self.live_sum - self.candidate_sum, max(0.0, squares))

    def numbers(self, tolerance: float) -> dict[str, float]:
        """Return means, their paired difference with its standard error, and the bound that the difference must not lie below."""
        num = self.num_queries
        if num == 0:
            return {"num_queries": 0}
        candidate, live = self.candidate_sum / num, self.live_sum / num
        difference = candidate - live
        # max(): rounding can leave a tiny negative variance when all differences are equal.
        variance = max(0.0, self.difference_squares - num * difference * difference) / max(1, num - 1)
        error = math.sqrt(variance / num)
        allowed = -tolerance * live
        return {"num_queries": num, "candidate": candidate, "live": live, "difference": difference, "standard_error": error, "allowed": allowed}


class Decision(BaseModel):
    """Record what was decided, by which numbers and why.

    Attributes:
        verdict: Promote, reject or wait.
        code: Reason by name.
        reason: Reason as a sentence.
        candidate: Version decided on.
        live: Version that was live, if any.
        batch: Newest batch in the window.
        numbers: See `Window.numbers`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Verdict
    code: Reason
    reason: str
    candidate: str
    live: str | None
    batch: int
    numbers: Mapping[str, Number]

    @property
    def promote(self) -> bool:
        """Tell whether the candidate goes live."""
        return self.verdict is Verdict.PROMOTE

    def to_json(self) -> bytes:
        """Return the decision's JSON."""
        return json.dumps({"format": number_of("decision"), **self.model_dump(mode="json")}, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str = "its bytes") -> Decision:
        """Parse what `to_json` wrote at ``where``.

        Raises:
            Damaged: It is not a decision.
        """
        what = f"Registry: a gate's decision can't be read, {where}"
        do = "restore that file from a copy, or remove it: a step that needs the decision makes it anew, from the same facts"
        return read_record("decision", data, cls, what, do)


NO_DOUBTS = Doubts()


def held_back(candidate: str, live: str | None, window: Window, why: str, tolerance: float = 0.0) -> Decision:
    """Return the decision that a candidate waits because an operator lets nothing be promoted; its scores go on to add up."""
    numbers = window.numbers(tolerance)
    return Decision(verdict=Verdict.WAIT, code=Reason.HELD, reason=why, candidate=candidate, live=live, batch=window.batch, numbers=numbers)


def _few(like: Mapping[str, float], cfg: RegistryConfig) -> str:
    """Return that a candidate's answers hold few items beside the live version's, as a sentence; empty where they do not."""
    if like.get("coverage", 1.0) >= cfg.probe_coverage:
        return ""
    said = f"its answers hold {like['coverage']:.0%} as many items as the live version's"
    return f"{said}, on {like['num']:.0f} histories, {cfg.probe_coverage:.0%} is the least"


def _other(like: Mapping[str, float], cfg: RegistryConfig) -> str:
    """Return that a candidate's answers are others than the live version's, as a sentence; empty where they are not."""
    if like.get("overlap", 1.0) >= cfg.probe_overlap:
        return ""
    said = f"its answers share {like['overlap']:.0%} of the live version's items"
    return f"{said}, on {like['num']:.0f} histories, {cfg.probe_overlap:.0%} is the least of one that is not measurably better"


class Gate:
    """Decide on candidates; pure, so that the same numbers give the same decision."""

    def __init__(self, cfg: RegistryConfig) -> None:
        self._cfg = cfg

    def decide(self, candidate: Health, live: Health | None, window: Window, *, is_idle: bool = False, doubts: Doubts = NO_DOUBTS) -> Decision:
        """Decide on one candidate.

        It is rejected when it is not sound, or when the evidence that it is worse than the live version by more than ``gate_tolerance`` of the live
        score reaches ``1 / gate_error``. That holds at each look, so it may come before ``gate_min_queries``: of candidates that are not worse
        by that much, no more than a share of ``gate_error`` is ever rejected, however often they are looked at.

        One whose answers are all others than the live version's is a broken one, or the items have turned over since: it has to show, at the same
        error, that it is better.

        Args:
            candidate: The version that may go live.
            live: The version that is live, None at first.
            window: Scores of both on events that neither had learned from.
            is_idle: No events come in, so that waiting for queries would keep the newest weights back.
            doubts: What speaks against the events.
        """
        cfg = self._cfg
        numbers = self._numbers(window) | dict(doubts.like)
        scores = f"{window.metric} {numbers.get('candidate', 0.0):.4f} against {numbers.get('live', 0.0):.4f} on {window.num_queries} queries"
        if not window.num_queries:
            scores = "there were no queries to tell them apart by"

        def decision(verdict: Verdict, code: Reason, reason: str) -> Decision:
            name = live.version if live is not None else None
            return Decision(verdict=verdict, code=code, reason=reason, candidate=candidate.version, live=name, batch=window.batch, numbers=numbers)

        detail = f": {candidate.detail}" if candidate.detail else ""
        if not candidate.is_finite or not math.isfinite(window.candidate_sum):
            return decision(Verdict.REJECT, Reason.NOT_FINITE, f"its weights or scores are not finite{detail}")
        if not candidate.probes_pass:
            return decision(Verdict.REJECT, Reason.PROBES_FAILED, f"its probe histories are not answered as recorded{detail}")
        if live is None:
            return decision(Verdict.PROMOTE, Reason.FIRST_VERSION, "it is the first, nothing was live before it")
        if not live.is_finite or not math.isfinite(window.live_sum):
            return decision(Verdict.PROMOTE, Reason.LIVE_NOT_FINITE, "the live version's weights or scores are not finite")
        if few := _few(doubts.like, cfg):
            return decision(Verdict.REJECT, Reason.STRANGE, few)
        if doubts.unlike:
            return decision(Verdict.REJECT, Reason.UNLIKE, doubts.unlike)
        if numbers.get("evidence", 0.0) >= 1 / cfg.gate_error:
            return decision(Verdict.REJECT, Reason.WORSE, f"worse than live by more than {cfg.gate_tolerance:.0%} and chance: {scores}")
        is_enough = window.num_queries >= cfg.gate_min_queries
        if not is_enough and not is_idle:
            return decision(Verdict.WAIT, Reason.TOO_FEW_QUERIES, f"{window.num_queries} of {cfg.gate_min_queries} queries so far")
        if doubts.tainted:
            return decision(Verdict.REJECT, Reason.TAINTED, doubts.tainted)
        if not doubts.is_better and (other := _other(doubts.like, cfg)):
            return decision(Verdict.REJECT, Reason.STRANGE, f"{other}: {scores}")
        if not is_enough:
            return decision(Verdict.PROMOTE, Reason.IDLE, f"no events come in, and it is not measurably worse: {scores}")
        return decision(Verdict.PROMOTE, Reason.NOT_WORSE, f"not worse than live: {scores}")

    def _numbers(self, window: Window) -> dict[str, float]:
        """Return the window's numbers, the evidence that the candidate is worse, and how much of it rejects."""
        numbers = window.numbers(self._cfg.gate_tolerance)
        if window.num_queries and math.isfinite(window.candidate_sum) and math.isfinite(window.live_sum):
            evidence = min(window.log_evidence(self._cfg.gate_tolerance), math.log(MOST_EVIDENCE))
            numbers |= {"evidence": math.exp(evidence), "needed": 1 / self._cfg.gate_error}
        return numbers
