"""The linear teacher beyond its dense bound: the same sums by the entries that there are, and a solve of low rank."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from streamrec.config import LinearConfig, TeachersConfig
from streamrec.features.examples import Examples
from streamrec.models.sparse_sums import SHIFT
from streamrec.state import ComponentState, digest_of, from_bytes, to_bytes
from streamrec.teachers.linear import LinearStatistics
from streamrec.teachers.linear_version import LINEAR, LinearTeacher, solve_version

NUM_ITEMS, LENGTH, OWN = 40, 6, 7 * 2**40 + 5
DENSE = LinearConfig(ridge=2.0, history_decay=0.9)
BOUNDED = LinearConfig(ridge=2.0, history_decay=0.9, dense_items=8, rank=NUM_ITEMS)


def some_examples(num: int, seed: int, num_items: int = NUM_ITEMS, user: int | None = None) -> Examples:
    """Queries of five users, or of one; each on what it likes best of the items."""
    rng = np.random.default_rng(seed)
    history = (num_items * rng.random((num, LENGTH)) ** 2).astype(np.int32)
    history = np.where(np.arange(LENGTH)[None, :] < rng.integers(1, LENGTH + 1, num)[:, None], history, -1).astype(np.int32)
    baskets = [rng.choice(num_items, rng.integers(1, 4), replace=False) for _ in range(num)]
    indptr = np.concatenate([[0], np.cumsum([len(basket) for basket in baskets])]).astype(np.int64)
    users = np.full(num, user) if user is not None else rng.integers(1, 6, num) << 33 | 9
    return Examples(history, indptr, np.concatenate(baskets).astype(np.int32), np.ones(num, np.float32), users, np.zeros(num, np.int32))


def matrices_of(statistics: LinearStatistics) -> dict[str, np.ndarray]:
    """G and C by item rows, whichever form they are in."""
    arrays = statistics.matrices().arrays
    rows = arrays["rows"]
    found = {}
    for name in ("gram", "cross"):
        if name in arrays:
            matrix = arrays[name]
        else:
            matrix = np.zeros((len(rows), len(rows)), np.float32)
            places = arrays[f"{name}_places"]
            matrix[places >> SHIFT, places & (2**SHIFT - 1)] = arrays[f"{name}_values"]
            matrix = np.triu(matrix) + np.triu(matrix, 1).T if name == "gram" else matrix
        found[name] = np.zeros((NUM_ITEMS, NUM_ITEMS))
        found[name][np.ix_(rows, rows)] = matrix
    return found


def assert_equal(one: LinearStatistics, other: LinearStatistics) -> None:
    for name, expected in matrices_of(other).items():
        np.testing.assert_allclose(matrices_of(one)[name], expected, rtol=1e-4, atol=1e-4)
    assert one.num_queries == other.num_queries


def both(*parts: Examples) -> tuple[LinearStatistics, LinearStatistics]:
    made = LinearStatistics(BOUNDED), LinearStatistics(DENSE)
    for statistics in made:
        for part in parts:
            statistics.update(part)
    return made


@given(st.integers(0, 10**6), st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_entries_are_those_of_the_square_matrices(seed: int, sizes: list[int]) -> None:
    parts = [some_examples(size, seed + number, num_items=min(NUM_ITEMS, 6 + 12 * number)) for number, size in enumerate(sizes)]
    bounded, dense = both(*parts)
    assert_equal(bounded, dense)


def test_the_bound_decides_the_form_and_going_over_it_is_for_good() -> None:
    statistics = LinearStatistics(BOUNDED)
    statistics.update(some_examples(40, 0, num_items=8))
    assert statistics.matrices().arrays["gram"].shape == (8, 8)
    statistics.update(some_examples(40, 1, num_items=9))
    assert "gram" not in statistics.matrices().arrays
    statistics.forget_rows(np.arange(5, dtype=np.int32))
    statistics.update(some_examples(1, 2, num_items=8))
    assert "gram_places" in statistics.matrices().arrays


@given(st.integers(0, 10**6), st.integers(1, 20))
def test_what_a_user_takes_back_leaves_the_same_as_in_square_matrices(seed: int, num_own: int) -> None:
    own = some_examples(num_own, seed + 99, user=OWN)
    with_user = both(some_examples(30, seed), own, some_examples(30, seed + 1))
    assert [statistics.take_back(own, OWN) for statistics in with_user] == [0, 0]
    without = LinearStatistics(BOUNDED)
    for number in range(2):
        without.update(some_examples(30, seed + number))
    assert_equal(*with_user)
    assert_equal(with_user[0], without)


def test_no_place_tells_what_a_user_alone_brought_together() -> None:
    own = replace(some_examples(1, 0, user=OWN), history=np.array([[38, 39, -1, -1, -1, -1]], np.int32))
    statistics, _ = both(some_examples(60, 1, num_items=30), own)
    before = len(statistics.matrices().arrays["gram_places"])
    assert statistics.take_back(own, OWN) == 0
    assert len(statistics.matrices().arrays["gram_places"]) == before - 3


def test_forgotten_rows_leave_the_same_as_in_square_matrices() -> None:
    made = both(some_examples(80, 0), some_examples(80, 1))
    gone = np.array([0, 3, 17, 39, 400], np.int32)
    assert [statistics.forget_rows(gone) for statistics in made] == [4, 4]
    assert_equal(*made)
    for statistics in made:
        statistics.update(some_examples(40, 2))
    assert_equal(*made)


def test_the_same_batches_give_the_same_bits_and_so_does_a_restart_from_deltas() -> None:
    live, same, again = (LinearStatistics(BOUNDED) for _ in range(3))
    own = some_examples(9, 50, num_items=6, user=OWN)
    deltas, base = [], ComponentState()
    for number in range(6):
        for statistics in (live, same):
            statistics.update(some_examples(25, number, num_items=6 * number + 6))
            statistics.update(own)
            if number in {2, 4}:
                statistics.take_back(own.take(np.arange(number)), OWN)
            if number == 3:
                statistics.forget_rows(np.arange(2, 30, 5, dtype=np.int32))
        if number == 0:
            base = live.snapshot()
            assert "gram" in base.arrays, "the bound is crossed within the deltas"
        elif number % 2:
            deltas.append(live.delta() or ComponentState())
    deltas.append(live.delta() or ComponentState())
    again.restore(base, [from_bytes(to_bytes(delta)) for delta in deltas])
    assert live.digest() == same.digest() == again.digest()
    saved = from_bytes(to_bytes(live.snapshot()))
    again.restore(saved)
    for statistics in (live, again):
        statistics.update(some_examples(25, 77))
    assert live.digest() == again.digest()


def test_a_snapshot_of_square_matrices_of_before_is_read_and_goes_on_by_entries() -> None:
    old = LinearStatistics(LinearConfig(max_items=20, ridge=2.0, history_decay=0.9))
    old.update(some_examples(60, 0, num_items=20))
    statistics, expected = LinearStatistics(BOUNDED), LinearStatistics(BOUNDED)
    statistics.restore(from_bytes(to_bytes(old.snapshot())))
    assert statistics.digest() == old.digest()
    expected.update(some_examples(60, 0, num_items=20))
    for made in (statistics, expected):
        made.update(some_examples(60, 1))
    assert_equal(statistics, expected)


@pytest.mark.parametrize("dense_items", [8, 4096])
def test_a_state_of_a_larger_bound_on_items_is_read_and_takes_no_more(dense_items: int) -> None:
    statistics = LinearStatistics(BOUNDED.model_copy(update={"dense_items": dense_items}))
    statistics.update(some_examples(60, 0, num_items=20))
    smaller = LinearStatistics(BOUNDED.model_copy(update={"dense_items": dense_items, "max_items": 10}))
    smaller.restore(statistics.snapshot())
    assert smaller.digest() == statistics.digest()
    smaller.update(some_examples(60, 1))
    assert len(smaller.matrices().arrays["rows"]) == 20
    assert smaller.take_back(some_examples(1, 1, user=OWN), OWN) == -1
    larger = LinearStatistics(BOUNDED.model_copy(update={"dense_items": dense_items}))
    larger.restore(smaller.snapshot())
    larger.update(some_examples(60, 2))
    assert len(larger.matrices().arrays["rows"]) == NUM_ITEMS


def test_a_version_of_full_rank_scores_as_the_exact_one() -> None:
    bounded, dense = both(some_examples(300, 0))
    exact = LinearTeacher(solve_version(dense.matrices(), DENSE))
    teacher = LinearTeacher(from_bytes(to_bytes(solve_version(bounded.matrices(), BOUNDED))))
    asked, rows = some_examples(50, 3).history, np.arange(NUM_ITEMS + 2, dtype=np.int32)
    np.testing.assert_allclose(teacher.score(asked, rows), exact.score(asked, rows), atol=1e-3)
    np.testing.assert_array_equal(teacher.generations, exact.generations)


def test_a_version_of_low_rank_is_small_and_a_function_of_sums_and_seed() -> None:
    bounded, _ = both(some_examples(300, 0))
    config = BOUNDED.model_copy(update={"rank": 3})
    versions = [solve_version(bounded.matrices(), config, seed) for seed in (1, 1, 2)]
    assert versions[0].arrays["left"].shape == (NUM_ITEMS, 3)
    assert digest_of(versions[0]) == digest_of(versions[1])
    first, other = (LinearTeacher(version).score(some_examples(50, 3).history, np.arange(NUM_ITEMS, dtype=np.int32)) for version in versions[1:])
    np.testing.assert_allclose(first, other, atol=0.02)


def test_a_refresh_takes_the_seed_and_a_smaller_bound_makes_entries_leave() -> None:
    config = BOUNDED.model_copy(update={"rank": 3, "max_entries": 1024})
    statistics = LinearStatistics(config)
    for seed in range(4):
        statistics.update(some_examples(200, seed))
    arrays = statistics.matrices().arrays
    assert len(arrays["cross_places"]) <= 1024
    assert statistics.take_back(some_examples(3, 0, user=OWN), OWN) == -1, "what has left can't be taken out"
    teachers = TeachersConfig(linear=config)
    payload = statistics.matrices()
    one, other = (LINEAR.refresh(payload, None, teachers, seed, None)[0] for seed in (1, 2))
    assert digest_of(one) != digest_of(other)


def test_batches_larger_than_a_chunk_are_summed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    _, dense = both(some_examples(500, 1))
    monkeypatch.setattr("streamrec.teachers.linear_sums.CHUNK_ENTRIES", 5 * LENGTH)
    monkeypatch.setattr("streamrec.models.linear.CHUNK_PAIRS", 5 * LENGTH)
    bounded, _ = both(some_examples(500, 1))
    assert_equal(bounded, dense)


def test_statistics_are_copied_for_a_refresh() -> None:
    statistics, _ = both(some_examples(50, 0))
    state = statistics.matrices()
    held = {name: values.copy() for name, values in state.arrays.items()}
    statistics.update(some_examples(50, 0))
    for name, values in held.items():
        np.testing.assert_array_equal(state.arrays[name], values)
    assert torch.tensor(held["gram_values"]).sum() > 0
