from __future__ import annotations

import math

import numpy as np
import pytest

from streamrec.config import RegistryConfig
from streamrec.errors import Damaged
from streamrec.registry.gate import Decision, Gate, Health, Reason, Verdict, Window
from streamrec.registry.sequential import log_evidence
from streamrec.registry.usual import Doubts

GATE = Gate(RegistryConfig(gate_tolerance=0.1, gate_min_queries=30))
CANDIDATE, LIVE = Health("v2"), Health("v1")


def _window(candidate: float, live: float, num: int = 400) -> Window:
    """Give paired 0/1 scores with these means, the hits as independent as two permutations make them."""
    hits = np.arange(num) / num
    return Window.from_scores(2, np.random.default_rng(0).permutation(hits) < candidate, np.random.default_rng(1).permutation(hits) < live)


def _code(candidate: Health, live: Health | None, window: Window, *, is_idle: bool = False) -> tuple[Verdict, Reason]:
    decision = GATE.decide(candidate, live, window, is_idle=is_idle)
    return decision.verdict, decision.code


def test_weights_or_scores_that_are_not_finite_are_rejected() -> None:
    assert _code(Health("v2", is_finite=False), LIVE, _window(0.9, 0.1)) == (Verdict.REJECT, Reason.NOT_FINITE)
    assert _code(Health("v2", is_finite=False), None, Window(2)) == (Verdict.REJECT, Reason.NOT_FINITE)
    assert _code(CANDIDATE, LIVE, Window.from_scores(2, [math.nan] * 40, [0.1] * 40)) == (Verdict.REJECT, Reason.NOT_FINITE)


def test_failed_probes_are_rejected_with_their_detail() -> None:
    decision = GATE.decide(Health("v2", probes_pass=False, detail="probe 1 gives row 7"), LIVE, _window(0.9, 0.1))
    assert (decision.verdict, decision.code) == (Verdict.REJECT, Reason.PROBES_FAILED)
    assert "probe 1 gives row 7" in decision.reason


FEW, OTHER = {"coverage": 0.4, "overlap": 0.9, "num": 32.0}, {"coverage": 1.0, "overlap": 0.02, "num": 32.0}


def test_a_version_whose_answers_are_few_items_is_rejected_whatever_it_finds() -> None:
    decision = GATE.decide(CANDIDATE, LIVE, _window(0.9, 0.1), doubts=Doubts(like=FEW))
    said = "its answers hold 40% as many items as the live version's, on 32 histories, 50% is the least"
    assert (decision.verdict, decision.code, decision.reason) == (Verdict.REJECT, Reason.STRANGE, said)
    assert decision.numbers["coverage"] == FEW["coverage"]


def test_a_version_whose_answers_are_all_others_goes_live_only_if_it_is_measurably_better() -> None:
    other = Doubts(like=OTHER)
    for window in (_window(0.3, 0.3), _window(0.32, 0.3)):
        decision = GATE.decide(CANDIDATE, LIVE, window, doubts=other)
        assert (decision.verdict, decision.code) == (Verdict.REJECT, Reason.STRANGE)
        assert "share 2% of the live version's items, on 32 histories, 10% is the least of one that is not measurably better" in decision.reason
        assert decision.numbers["overlap"] == OTHER["overlap"]
        assert GATE.decide(CANDIDATE, LIVE, window).promote
    better = Doubts(like=OTHER, is_better=True)
    assert GATE.decide(CANDIDATE, LIVE, _window(0.32, 0.3), doubts=better).code is Reason.NOT_WORSE
    assert GATE.decide(CANDIDATE, LIVE, _window(0.9, 0.1), doubts=Doubts(like=FEW, is_better=True)).code is Reason.STRANGE


def test_before_there_are_enough_queries_one_whose_answers_are_all_others_waits_unless_no_more_come() -> None:
    few = Window.from_scores(2, [0.3] * 5, [0.3] * 5)
    assert GATE.decide(CANDIDATE, LIVE, few, doubts=Doubts(like=OTHER)).code is Reason.TOO_FEW_QUERIES
    idle = GATE.decide(CANDIDATE, LIVE, few, is_idle=True, doubts=Doubts(like=OTHER))
    assert (idle.verdict, idle.code) == (Verdict.REJECT, Reason.STRANGE)


def test_answers_like_the_live_versions_and_bounds_of_nothing_let_a_version_pass() -> None:
    near = Doubts(like={"coverage": 0.95, "overlap": 0.9, "num": 32.0})
    assert GATE.decide(CANDIDATE, LIVE, _window(0.3, 0.2), doubts=near).promote
    asks_nothing = Gate(RegistryConfig(probe_coverage=0.0, probe_overlap=0.0))
    for like in (FEW, OTHER):
        assert asks_nothing.decide(CANDIDATE, LIVE, _window(0.3, 0.3), doubts=Doubts(like=like)).promote


def test_the_first_version_is_promoted_without_queries() -> None:
    assert _code(CANDIDATE, None, Window(2)) == (Verdict.PROMOTE, Reason.FIRST_VERSION)


def test_a_better_and_an_equal_version_are_promoted() -> None:
    assert _code(CANDIDATE, LIVE, _window(0.30, 0.20)) == (Verdict.PROMOTE, Reason.NOT_WORSE)
    same = np.arange(40) % 2
    assert _code(CANDIDATE, LIVE, Window.from_scores(2, same, same)) == (Verdict.PROMOTE, Reason.NOT_WORSE)


def test_a_version_that_is_clearly_worse_is_rejected_with_the_numbers() -> None:
    decision = GATE.decide(CANDIDATE, LIVE, _window(0.10, 0.40))
    assert (decision.verdict, decision.code, decision.promote) == (Verdict.REJECT, Reason.WORSE, False)
    assert decision.numbers["candidate"] == pytest.approx(0.1)
    assert decision.numbers["live"] == pytest.approx(0.4)
    assert "0.1000 against 0.4000 on 400 queries" in decision.reason


def test_worse_within_the_tolerance_is_promoted_however_sure() -> None:
    live = np.full(10_000, 0.5)
    assert _code(CANDIDATE, LIVE, Window.from_scores(2, live * 0.91, live)) == (Verdict.PROMOTE, Reason.NOT_WORSE)
    assert _code(CANDIDATE, LIVE, Window.from_scores(2, live * 0.89, live)) == (Verdict.REJECT, Reason.WORSE)


def test_worse_within_chance_is_promoted() -> None:
    few = _window(0.15, 0.20, num=40)
    assert few.candidate_sum < 0.9 * few.live_sum
    assert _code(CANDIDATE, LIVE, few) == (Verdict.PROMOTE, Reason.NOT_WORSE)
    assert _code(CANDIDATE, LIVE, _window(0.15, 0.20, num=40_000)) == (Verdict.REJECT, Reason.WORSE)


def _first_rejection(rng: np.random.Generator, candidate: float, live: float, num_looks: int = 60, num: int = 25) -> int | None:
    """Look after each step of ``num`` queries, and say after how many queries the candidate is rejected; None if it never is.

    Two versions agree on most queries: of a query that can be found at all both know.
    """
    window, gate = Window(0), Gate(RegistryConfig(gate_tolerance=0.1, gate_min_queries=10**9))
    for look in range(1, num_looks + 1):
        luck = rng.random(num)
        hits = [np.where(rng.random(num) < 0.8, luck, rng.random(num)) < share for share in (candidate, live)]
        window += Window.from_scores(look, *hits)
        if gate.decide(CANDIDATE, LIVE, window).verdict is Verdict.REJECT:
            return look * num
    return None


@pytest.mark.parametrize(("candidate", "live"), [(0.27, 0.3), (0.09, 0.1), (0.72, 0.8)])
def test_of_candidates_at_the_bound_no_more_than_the_stated_share_is_ever_rejected_though_each_is_looked_at_sixty_times(
    candidate: float, live: float
) -> None:
    rng = np.random.default_rng(7)
    rejected = sum(_first_rejection(rng, candidate, live) is not None for _ in range(300))
    assert rejected <= 0.05 * 300


def test_a_test_of_one_look_would_reject_far_more_than_its_share_when_looked_at_as_often() -> None:
    """Why the gate has another: 1.64 standard errors at each of sixty looks."""
    rng, rejected = np.random.default_rng(7), 0
    for _ in range(300):
        window = Window(0)
        for look in range(1, 61):
            window += Window.from_scores(look, rng.random(25) < 0.27, rng.random(25) < 0.3)
            numbers = window.numbers(0.1)
            if numbers["difference"] + 1.64 * numbers["standard_error"] < numbers["allowed"]:
                rejected += 1
                break
    assert rejected > 0.2 * 300


@pytest.mark.parametrize(("candidate", "num_queries"), [(0.15, 500), (0.03, 150), (0.22, 1500)])
def test_a_worse_candidate_is_rejected_nearly_always_and_the_sooner_the_worse_it_is(candidate: float, num_queries: int) -> None:
    rng = np.random.default_rng(7)
    found = [_first_rejection(rng, candidate, 0.3) for _ in range(200)]
    assert sum(num is not None and num <= num_queries for num in found) >= 0.9 * 200


def test_a_collapse_is_rejected_before_the_queries_are_enough_to_promote() -> None:
    gate = Gate(RegistryConfig(gate_min_queries=1000))
    decision = gate.decide(CANDIDATE, LIVE, _window(0.0, 0.5, num=60))
    assert (decision.verdict, decision.code) == (Verdict.REJECT, Reason.WORSE)
    assert decision.numbers["evidence"] > decision.numbers["needed"] == pytest.approx(20.0)  # type: ignore[operator]


def test_a_smaller_error_asks_for_more_evidence() -> None:
    window = _window(0.15, 0.3, num=400)
    verdicts = [Gate(RegistryConfig(gate_error=error)).decide(CANDIDATE, LIVE, window).verdict for error in (0.5, 1e-12)]
    assert verdicts == [Verdict.REJECT, Verdict.PROMOTE]


def test_evidence_of_parts_is_that_of_the_whole_and_as_summed_by_hand() -> None:
    rng = np.random.default_rng(3)
    candidate, live = rng.random(50), rng.random(50)
    parts = Window.from_scores(4, candidate[:20], live[:20]) + Window.from_scores(5, candidate[20:], live[20:])
    short = 0.9 * live - candidate
    assert parts.log_evidence(0.1) == pytest.approx(log_evidence(short.sum(), (short**2).sum()))


def test_too_few_queries_wait_until_they_add_up() -> None:
    window = _window(0.2, 0.2, num=20)
    assert _code(CANDIDATE, LIVE, window) == (Verdict.WAIT, Reason.TOO_FEW_QUERIES)
    assert _code(CANDIDATE, LIVE, window + window) == (Verdict.PROMOTE, Reason.NOT_WORSE)


def test_windows_add_up_to_the_window_of_all_queries() -> None:
    rng = np.random.default_rng(3)
    candidate, live = rng.random(50), rng.random(50)
    parts = Window.from_scores(4, candidate[:20], live[:20]) + Window.from_scores(5, candidate[20:], live[20:])
    whole = Window.from_scores(5, candidate, live)
    assert parts.numbers(0.1) == pytest.approx(whole.numbers(0.1))
    assert whole.numbers(0.1)["standard_error"] == pytest.approx(np.std(candidate - live, ddof=1) / math.sqrt(50))


@pytest.mark.parametrize("num", [0, 1, 5])
def test_an_idle_stream_promotes_what_is_not_measurably_worse(num: int) -> None:
    scores = np.arange(num) % 2
    assert _code(CANDIDATE, LIVE, Window.from_scores(2, scores, scores), is_idle=True) == (Verdict.PROMOTE, Reason.IDLE)


def test_where_nobody_asked_it_says_so_and_names_no_scores() -> None:
    none = np.zeros(0)
    decision = GATE.decide(CANDIDATE, LIVE, Window.from_scores(2, none, none), is_idle=True)
    assert decision.reason == "no events come in, and it is not measurably worse: there were no queries to tell them apart by"


def test_an_idle_stream_does_not_excuse_what_is_clearly_worse() -> None:
    assert _code(CANDIDATE, LIVE, Window.from_scores(2, np.zeros(20), np.ones(20)), is_idle=True) == (Verdict.REJECT, Reason.WORSE)


def test_a_broken_live_version_is_replaced() -> None:
    assert _code(CANDIDATE, Health("v1", is_finite=False), Window(2)) == (Verdict.PROMOTE, Reason.LIVE_NOT_FINITE)
    assert _code(CANDIDATE, LIVE, Window.from_scores(2, [0.1] * 3, [math.inf] * 3)) == (Verdict.PROMOTE, Reason.LIVE_NOT_FINITE)


def test_scores_that_are_not_paired_are_refused() -> None:
    with pytest.raises(ValueError, match="not paired"):
        Window.from_scores(1, [0.1, 0.2], [0.1])


def test_a_decision_comes_back_from_its_json() -> None:
    decision = GATE.decide(CANDIDATE, LIVE, Window.from_scores(2, [math.nan] * 40, [0.1] * 40))
    assert decision.numbers["candidate"] is None
    assert Decision.from_json(decision.to_json()) == decision
    with pytest.raises(Damaged):
        Decision.from_json(b"{}")
