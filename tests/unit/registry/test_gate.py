from __future__ import annotations

import math

import numpy as np
import pytest

from streamrec.config import RegistryConfig
from streamrec.errors import Damaged
from streamrec.registry.gate import Decision, Gate, Health, Reason, Verdict, Window

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


def test_equal_means_from_noise_are_seldom_rejected_and_a_halved_score_nearly_always() -> None:
    rng = np.random.default_rng(7)
    rejected = {1.0: 0, 0.5: 0}
    for share in rejected:
        for _ in range(400):
            live = rng.random(300) < 0.3
            candidate = rng.random(300) < 0.3 * share
            rejected[share] += GATE.decide(CANDIDATE, LIVE, Window.from_scores(2, candidate, live)).verdict is Verdict.REJECT
    assert rejected[1.0] <= 20
    assert rejected[0.5] >= 360


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
