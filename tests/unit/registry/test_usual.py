from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from streamrec.config import RegistryConfig
from streamrec.registry.usual import LEAST_QUERIES, MOST_OF_ONE, Found, Usual

SHARE, ERROR = 0.3, 0.05
USUAL = Usual(0.2, 5000.0)
LIVE_FINDS_NOTHING = Found(100, -3.0, 4.0)


def found(version: float, popular: float, num_users: int, rng: np.random.Generator, num_each: int = 10) -> Found:
    """Hits of both with these chances."""
    users = np.repeat(np.arange(num_users), num_each)
    return Found.of(rng.random(len(users)) < version, rng.random(len(users)) < popular, users)


def test_a_users_mean_lead_counts_as_often_as_the_user_asked_up_to_a_bound_and_steps_add_up() -> None:
    many = MOST_OF_ONE + 50
    step = Found.of([1.0, 0.0, *[1.0] * many], [0.0, 1.0, *[0.5] * many], np.array([7, 7, *[9] * many]))
    assert (step.queries, step.total, step.squares) == (2 + MOST_OF_ONE, pytest.approx(0.5 * MOST_OF_ONE), pytest.approx(0.25 * MOST_OF_ONE))
    both = step + Found.of([0.5], [0.0], np.array([7]))
    assert both.queries == 3 + MOST_OF_ONE
    assert Found.of([], [], np.zeros(0, np.int64)) == Found()


def test_steps_of_a_dozen_users_like_those_before_are_not_doubted_and_those_without_a_lead_are_nearly_always() -> None:
    rng = np.random.default_rng(3)

    def doubted(version: float, popular: float) -> int:
        return sum(bool(USUAL.doubt(found(version, popular, 12, rng), SHARE, ERROR)) for _ in range(200))

    assert doubted(0.28, 0.08) == 0
    assert doubted(0.20, 0.08) == 0
    assert doubted(0.06, 0.0) <= ERROR * 200  # At the very share.
    assert doubted(0.03, 0.08) >= 0.8 * 200


def test_users_who_are_hard_for_both_are_no_reason_to_doubt() -> None:
    hard = Found.of([0.1] * 120, [0.02] * 120, np.arange(120) % 12)
    assert not USUAL.doubt(hard, SHARE, ERROR)


def test_evidence_of_small_steps_adds_up_while_it_speaks_against_the_events() -> None:
    small, usual, num = Found.of([0.0] * 20, [0.05] * 20, np.arange(20) % 4), USUAL, 0
    while not usual.doubt(small, SHARE, ERROR):
        usual, num = usual.after(small, SHARE, is_unlike=False), num + 1
    assert 1 <= num <= 6
    for _ in range(5):
        usual = usual.after(Found.of([0.3] * 20, [0.1] * 20, np.arange(20) % 4), SHARE, is_unlike=False)
    assert usual.carried == Found()


def test_a_doubt_lasts_until_the_lead_is_half_way_back() -> None:
    usual = Usual(0.2, 5000.0, is_unlike=True)
    assert usual.doubt(Found.of([0.18] * 100, [0.08] * 100, np.arange(100)), SHARE, ERROR)
    assert not usual.doubt(Found.of([0.2] * 100, [0.08] * 100, np.arange(100)), SHARE, ERROR)


def test_nothing_is_doubted_before_it_is_known_what_is_usual_or_where_nothing_is_asked() -> None:
    none = Found.of(np.zeros(500), np.full(500, 0.1), np.arange(500))
    assert USUAL.doubt(none, RegistryConfig().usual_share, ERROR)
    assert not Usual(0.2, LEAST_QUERIES - 1.0).doubt(none, SHARE, ERROR)
    assert not USUAL.doubt(none, 0.0, ERROR)
    assert not USUAL.doubt(Found(), SHARE, ERROR)
    assert not Usual(0.001, 5000.0).doubt(none, SHARE, ERROR)  # It usually leads by nothing, so it can't lose it.


def test_what_is_usual_follows_the_stream_and_unlike_events_only_slowly() -> None:
    lower = Found.of(np.full(500, 0.1), np.full(500, 0.08), np.arange(500))
    assert USUAL.after(lower, SHARE, is_unlike=False).lead == pytest.approx(0.02 + 0.18 * np.exp(-0.1))
    unlike = USUAL.after(lower, SHARE, is_unlike=True)
    assert unlike.lead == pytest.approx(0.2 - 0.18 / 64)
    assert unlike.is_unlike
    assert Usual().after(lower, SHARE, is_unlike=False) == Usual(pytest.approx(0.02), 500.0, False)
    num = 0
    while unlike.doubt(lower, SHARE, ERROR):
        unlike, num = unlike.after(lower, SHARE, is_unlike=True), num + 1
    assert 50 < num < 250  # A world that has changed for good is accepted.


def test_what_lies_far_below_the_popular_items_becomes_usual_no_faster_and_neither_does_what_an_odd_candidate_is_judged_by() -> None:
    nothing, far_below = (Found.of(np.zeros(500), np.full(500, popular), np.arange(500)) for popular in (0.0, 0.5))
    assert (
        USUAL.after(far_below, SHARE, is_unlike=True).lead == USUAL.after(nothing, SHARE, is_unlike=True).lead == pytest.approx(USUAL.lead * 63 / 64)
    )
    odd = USUAL.after(far_below, SHARE, is_unlike=False, is_odd=True)
    assert (odd.lead, odd.is_unlike) == (pytest.approx(USUAL.lead * 63 / 64), False)


def test_it_is_read_as_it_was_kept_and_what_an_earlier_streamrec_kept_counts_no_more() -> None:
    usual = Usual(0.2, 5000.0, True, Found(1.0, 2.0, 3.0))
    assert Usual.of(asdict(usual)) == usual
    assert Usual.of({}) == Usual.of({"mean": 0.2, "users": 500.0, "is_unlike": False, "share": 0.1}) == Usual()


def test_candidates_that_are_refused_one_after_the_other_show_together_that_the_world_is_another_one() -> None:
    """A stream of few queries a decision: no candidate shows it alone."""
    ahead, own, usual, num = Found(100, 8.0, 10.0), Found(100, 6.0, 9.0), USUAL, 0
    while not usual.is_new_world(ahead, own, ERROR):
        usual, num = usual.after(LIVE_FINDS_NOTHING, SHARE, is_unlike=True, refused=(ahead, own)), num + 1
        assert num <= 5
    assert num >= 1
    assert not USUAL.is_better(ahead, ERROR)
    promoted = usual.after(LIVE_FINDS_NOTHING, SHARE, is_unlike=False)
    assert (promoted.ahead, promoted.own) == (Found(), Found())  # What follows is held against another version.
    assert usual.after(LIVE_FINDS_NOTHING, SHARE, is_unlike=True, refused=(Found(100, -30.0, 40.0), own)).ahead == Found()
    assert not usual.is_better(Found(100, float("nan"), 10.0), ERROR)
    assert Usual.of(asdict(usual)) == usual
    assert (usual.in_new_world().carried, usual.in_new_world().is_unlike) == (Found(), False)


def test_candidates_that_only_find_the_popular_items_are_better_than_the_live_version_and_no_new_world() -> None:
    """As under shuffled labels, when the live version knows the popular items less well."""
    ahead, own = Found(1000, 80.0, 100.0), Found(1000, 0.0, 60.0)
    assert USUAL.is_better(ahead, ERROR)
    assert not USUAL.is_new_world(ahead, own, ERROR)


def test_what_is_unusual_becomes_usual_by_queries_not_by_decisions() -> None:
    def fell(queries: float) -> float:
        return USUAL.lead - USUAL.after(Found(queries, 0.0, 0.0), SHARE, is_unlike=True).lead

    assert fell(50) == pytest.approx(fell(200) / 4)
    assert fell(100_000) == fell(400_000) == pytest.approx(USUAL.lead / 64)
