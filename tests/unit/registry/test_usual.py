from __future__ import annotations

import numpy as np
import pytest

from streamrec.config import RegistryConfig
from streamrec.registry.usual import LEAST_USERS, Found, Usual, found_in, kept


def found(share: float, num_users: int, rng: np.random.Generator, num_each: int = 1) -> Found:
    users = np.repeat(np.arange(num_users), num_each)
    return Found.of(rng.random(len(users)) < share, users)


def test_each_user_counts_once_a_step_and_steps_add_up() -> None:
    step = Found.of([1.0, 0.0, 1.0, 1.0], np.array([7, 7, 7, 9]))
    assert (step.users, step.total, step.squares, step.queries, step.busiest) == (2, pytest.approx(5 / 3), pytest.approx(13 / 9), 4, 3)
    both = step + Found.of([0.5], np.array([7]))
    assert (both.users, both.total, both.share) == (3, pytest.approx(5 / 3 + 0.5), 0.8)
    assert found_in(kept(both)) == both
    assert found_in({"num_queries": 3.0}) == Found()
    assert Found.of([], np.zeros(0, np.int64)) == Found()


def test_events_like_those_before_are_seldom_doubted_and_spoiled_ones_nearly_always() -> None:
    rng, usual = np.random.default_rng(3), Usual(0.4, 1000.0, share=0.02)
    doubted = {share: sum(bool(usual.doubt(found(share, 120, rng), 0.6, 0.05)) for _ in range(200)) for share in (0.4, 0.3, 0.24, 0.05)}
    assert doubted[0.4] == doubted[0.3] == 0
    assert doubted[0.24] <= 0.05 * 200
    assert doubted[0.05] >= 0.95 * 200


def test_by_default_nobody_is_doubted_because_a_step_of_a_dozen_users_says_too_little() -> None:
    usual, few = Usual(0.0913, 500.0, share=0.14), Found(users=16.0, total=16 * 0.0338, squares=0.1, queries=100.0, busiest=58.0)
    config = RegistryConfig()
    assert usual.doubt(few, 0.6, config.gate_error)
    assert not usual.doubt(few, config.usual_share, config.gate_error)


def test_a_doubt_lasts_until_what_is_found_is_half_way_back() -> None:
    rng = np.random.default_rng(3)
    usual = Usual(0.4, 1000.0, is_unlike=True, share=0.02)
    assert usual.doubt(found(0.28, 300, rng), 0.6, 0.05)
    assert not usual.doubt(found(0.38, 300, rng), 0.6, 0.05)


def test_a_step_that_is_mostly_one_users_is_doubted_unless_steps_usually_are() -> None:
    users = np.array([1] * 80 + list(range(2, 22)))
    bot = Found.of(np.full(100, 0.4), users)
    assert "one user has 80% of the queries, where the busiest usually has 2%" in Usual(0.4, 1000.0, share=0.02).doubt(bot, 0.6, 0.05)
    assert not Usual(0.4, 1000.0, share=0.5).doubt(bot, 0.6, 0.05)
    assert not Usual(0.4, 1000.0, share=0.02).doubt(Found.of(np.full(10, 0.4), np.ones(10, np.int64)), 0.6, 0.05)


def test_nothing_is_doubted_before_it_is_known_what_is_usual_or_where_nothing_is_asked() -> None:
    none = Found.of(np.zeros(500), np.arange(500))
    assert not Usual(0.4, LEAST_USERS - 1.0).doubt(none, 0.6, 0.05)
    assert not Usual(0.4, 1000.0).doubt(none, 0.0, 0.05)
    assert not Usual(0.4, 1000.0).doubt(Found(), 0.6, 0.05)


def test_what_is_usual_follows_the_stream_and_unlike_events_only_slowly() -> None:
    lower = Found.of(np.full(100, 0.2), np.arange(100))
    usual = Usual(0.4, 1000.0, share=0.02)
    assert usual.after(lower, is_unlike=False).mean == pytest.approx(0.2 + 0.2 * np.exp(-0.1))
    unlike = usual.after(lower, is_unlike=True)
    assert unlike.mean == pytest.approx(0.4 - 0.2 / 64)
    assert unlike.is_unlike
    assert Usual().after(lower, is_unlike=False) == Usual(pytest.approx(0.2), 100.0, False, 0.01)
    num = 0
    while unlike.doubt(lower, 0.6, 0.05):
        unlike, num = unlike.after(lower, is_unlike=True), num + 1
    assert 50 < num < 150  # A world that has changed for good is accepted.
