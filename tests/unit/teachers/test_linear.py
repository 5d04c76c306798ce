from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from streamrec.config import LinearConfig
from streamrec.features.examples import Examples
from streamrec.models.linear import Runs, add_cross, add_gram
from streamrec.state import ComponentState
from streamrec.teachers.linear import LinearStatistics
from streamrec.teachers.linear_version import LinearTeacher, solve_version

NUM_ITEMS, LENGTH, PLANTED = 12, 4, 7 * 2**40 + 5
CONFIG = LinearConfig(max_items=64, ridge=2.0, history_decay=0.9)


def some_examples(num: int, seed: int, num_items: int = NUM_ITEMS) -> Examples:
    rng = np.random.default_rng(seed)
    history = rng.integers(0, num_items, (num, LENGTH))
    history = np.where(np.arange(LENGTH)[None, :] < rng.integers(1, LENGTH + 1, num)[:, None], history, -1).astype(np.int32)
    baskets = [rng.choice(num_items, rng.integers(1, 4), replace=False) for _ in range(num)]
    indptr = np.concatenate([[0], np.cumsum([len(basket) for basket in baskets])]).astype(np.int64)
    zeros = np.zeros(num, np.int32)
    return Examples(history, indptr, np.concatenate(baskets).astype(np.int32), np.ones(num, np.float32), zeros.astype(np.int64), zeros)


def design(examples: Examples, num_items: int = NUM_ITEMS) -> tuple[np.ndarray, np.ndarray]:
    """X and Y of the module's formula, one entry at a time."""
    x, y = np.zeros((len(examples), num_items)), np.zeros((len(examples), num_items))
    for query in range(len(examples)):
        for place, row in enumerate(examples.history[query].tolist()):
            if row >= 0:
                x[query, row] += 0.9**place
        basket = examples.target_rows[examples.indptr[query] : examples.indptr[query + 1]]
        y[query, basket] = 1 / np.sqrt(len(basket))
    return x, y


def by_row(state: ComponentState, name: str) -> np.ndarray:
    order = np.argsort(state.arrays["rows"])
    found: np.ndarray = state.arrays[name][np.ix_(order, order)]
    return found


def test_sums_over_batches_equal_one_pass_and_the_formula() -> None:
    parts = [some_examples(40, seed) for seed in range(3)]
    batched, whole = LinearStatistics(CONFIG), LinearStatistics(CONFIG)
    for part in parts:
        batched.update(part)
    together = Examples.concat(parts)
    whole.update(together)
    x, y = design(together)
    for name, expected in (("gram", x.T @ x), ("cross", x.T @ y)):
        np.testing.assert_allclose(by_row(batched.matrices(), name), expected, atol=1e-4)
        np.testing.assert_allclose(by_row(whole.matrices(), name), expected, atol=1e-4)
    assert batched.num_queries == 120


def test_batches_larger_than_a_chunk_are_summed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrec.teachers.linear_sums.CHUNK_ENTRIES", 5 * LENGTH)
    monkeypatch.setattr("streamrec.models.linear.CHUNK_PAIRS", 5 * LENGTH)
    examples = some_examples(2503, 1)
    statistics = LinearStatistics(CONFIG)
    statistics.update(examples)
    x, y = design(examples)
    for name, expected in (("gram", x.T @ x), ("cross", x.T @ y)):
        np.testing.assert_allclose(by_row(statistics.matrices(), name), expected, rtol=1e-4)


def test_a_version_is_the_direct_ridge_solution_and_scores_with_it() -> None:
    examples = some_examples(200, 5)
    statistics = LinearStatistics(CONFIG)
    statistics.update(examples)
    version = solve_version(statistics.matrices(), CONFIG)
    x, y = design(examples)
    expected = np.linalg.solve(x.T @ x + 2.0 * np.eye(NUM_ITEMS), x.T @ y)
    np.testing.assert_allclose(by_row(version, "weights"), expected, atol=1e-4)
    scores = LinearTeacher(version).score(examples.history, np.arange(NUM_ITEMS + 2, dtype=np.int32))
    np.testing.assert_allclose(scores[:, :NUM_ITEMS], x @ expected, atol=1e-3)
    assert np.isneginf(scores[:, NUM_ITEMS:]).all()


def test_a_snapshot_with_deltas_is_the_same_bit_for_bit_while_items_still_come() -> None:
    statistics, again = LinearStatistics(CONFIG), LinearStatistics(CONFIG)
    assert statistics.delta() is None
    statistics.update(some_examples(30, 0, 5))
    base, deltas = statistics.snapshot(), []
    for seed in (1, 2):
        for num_items in (7, 12):
            statistics.update(some_examples(30, seed, num_items))
        deltas.append(statistics.delta() or ComponentState())
    again.restore(base, deltas)
    assert again.digest() == statistics.digest()
    for one in (statistics, again):
        one.update(some_examples(30, 9))
    assert again.digest() == statistics.digest()


def test_the_most_frequent_items_get_the_slots_when_there_are_too_few() -> None:
    examples = some_examples(300, 2)
    examples.history[:] = np.where(examples.history == 3, 4, examples.history)
    statistics = LinearStatistics(LinearConfig(max_items=4))
    statistics.update(examples)
    rows = np.concatenate([examples.target_rows, examples.history[examples.history >= 0]])
    assert set(statistics.matrices().arrays["rows"].tolist()) == set(np.argsort(-np.bincount(rows), kind="stable")[:4].tolist())
    statistics.update(some_examples(30, 3))
    assert len(statistics.matrices().arrays["rows"]) == 4


def test_matrices_are_copies() -> None:
    statistics = LinearStatistics(CONFIG)
    statistics.update(some_examples(10, 0))
    held = statistics.matrices().arrays["gram"].copy()
    state = statistics.matrices()
    statistics.update(some_examples(10, 1))
    np.testing.assert_array_equal(state.arrays["gram"], held)


def test_a_decayed_history_adds_repeats_and_ignores_padding() -> None:
    gram = torch.zeros(3, 3)
    add_gram(gram, Runs.of(np.asarray([[2, 0, 2, -1]])), 0.5)
    x = torch.tensor([0.5, 0.0, 1.25])
    torch.testing.assert_close(gram, torch.outer(x, x))
    cross = torch.ones(3, 3)
    add_cross(cross, torch.tensor([[2, 0, 2, -1]]), torch.tensor([1]), torch.tensor([0.5]), 0.5)
    torch.testing.assert_close(cross, 1 + torch.outer(x, torch.tensor([0.0, 0.5, 0.0])))


@given(st.lists(st.lists(st.lists(st.integers(-1, 5), max_size=6), max_size=6), max_size=4), st.sampled_from([1.0, 0.9, 0.01]))
def test_histories_that_go_on_from_one_another_sum_to_the_same_as_each_alone(users: list[list[list[int]]], decay: float) -> None:
    history = []
    for parts in users:
        items: list[int] = []
        for part in parts:  # As streams give them: what was there and some newer items, or nothing new, or more than a history holds.
            items += part
            history.append((items[::-1] + [-1] * LENGTH)[:LENGTH])
    found, expected = torch.zeros(6, 6), torch.zeros(6, 6)
    slots = np.asarray(history, np.int64).reshape(len(history), LENGTH)
    if len(history):
        add_gram(found, Runs.of(slots), decay)
    for row in slots:
        x = torch.zeros(6)
        for place, slot in enumerate(row.tolist()):
            if slot >= 0:
                x[slot] += decay**place
        expected += torch.outer(x, x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-30)


def test_a_run_holds_each_item_once() -> None:
    runs = Runs.of(np.asarray([[2, 1, 0, -1], [3, 2, 1, 0], [3, 2, 1, 0], [5, 4, 3, 2], [5, 4, 2, 3]]))
    assert runs.slots.tolist() == [-1, 0, 1, 2, 3, 4, 5, 3, 2, 4, 5]
    assert runs.ends.tolist() == [0, 0, 0, 1, 2, 0, 1, 0, 0, 0, 1]
    assert np.flatnonzero(runs.starts.numpy()).tolist() == [0, 7]


def users_of(examples: Examples, seed: int, num_users: int = 5) -> Examples:
    return replace(examples, user=np.random.default_rng(seed).integers(1, num_users + 1, len(examples)) << 33 | 9)


@given(st.integers(0, 10**6), st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(1, 12))
def test_statistics_without_a_user_equal_those_of_a_stream_that_never_had_them(seed: int, sizes: list[int], num_planted: int) -> None:
    others = [users_of(some_examples(size, seed + number), seed) for number, size in enumerate(sizes)]
    own = replace(some_examples(num_planted, seed + 99), user=np.full(num_planted, PLANTED))
    with_user, without = LinearStatistics(CONFIG), LinearStatistics(CONFIG)
    place = seed % num_planted
    for number, part in enumerate(others):
        without.update(part)
        with_user.update(Examples.concat([own.take(np.arange(place)), part]) if number == 0 else part)
    with_user.update(own.take(np.arange(place, num_planted)))
    assert with_user.take_back(own, PLANTED) == 0
    # Rows that only the user touched leave with the vocabulary's; here they may keep a slot of zeros.
    found, expected = with_user.matrices(), without.matrices()
    for name in ("gram", "cross"):
        whole = [np.zeros((NUM_ITEMS, NUM_ITEMS)), np.zeros((NUM_ITEMS, NUM_ITEMS))]
        for matrix, state in zip(whole, (found, expected), strict=True):
            rows = state.arrays["rows"]
            matrix[np.ix_(rows, rows)] = state.arrays[name]
        np.testing.assert_allclose(*whole, atol=1e-5)
    assert with_user.num_queries == without.num_queries


def test_what_can_not_be_taken_back_is_counted_and_never_called_exact() -> None:
    own = replace(some_examples(6, 1), user=np.full(6, PLANTED))
    statistics = LinearStatistics(CONFIG)
    statistics.update(own)
    assert statistics.take_back(own.take(np.arange(2, 6)), PLANTED) == 2
    doubted = LinearStatistics(CONFIG)
    doubted.update(own)
    doubted.doubt(np.array([PLANTED]))
    assert doubted.take_back(own, PLANTED) == 1
    full = LinearStatistics(LinearConfig(max_items=3))
    full.update(own)
    assert full.take_back(own, PLANTED) == -1


def test_a_restart_repeats_what_was_taken_back_and_doubted() -> None:
    parts = [users_of(some_examples(20, seed), seed) for seed in range(2)]
    own = replace(some_examples(6, 7), user=np.full(6, PLANTED))
    statistics = LinearStatistics(CONFIG)
    statistics.update(parts[0])
    base = statistics.snapshot()
    statistics.update(own)
    deltas = [statistics.delta()]
    statistics.doubt(np.array([PLANTED, 6]))
    statistics.take_back(own.take(np.arange(5)), PLANTED)
    statistics.update(parts[1])
    deltas.append(statistics.delta())
    again = LinearStatistics(CONFIG)
    again.restore(base, [delta for delta in deltas if delta is not None])
    assert again.digest() == statistics.digest()
    assert again.take_back(own.take(np.arange(0)), PLANTED) == 2
    old = ComponentState({name: base.arrays[name] for name in ("gram", "cross", "rows")}, {"num_queries": 20})
    again.restore(old)
    assert again.take_back(own.take(np.arange(0)), PLANTED) == -1
