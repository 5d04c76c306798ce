from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from streamrec.config import NeighboursConfig, TeachersConfig, TransitionsConfig
from streamrec.features.dedupe import hash_key
from streamrec.features.examples import Examples
from streamrec.models.lists import best_rows, first_places
from streamrec.models.repeats import cells_of
from streamrec.state import from_bytes, is_row_delta, merge, to_bytes
from streamrec.teachers.counted import CountedTeachers
from streamrec.teachers.neighbours import Neighbours
from streamrec.teachers.repeats import Repeats
from streamrec.teachers.transitions import Transitions

SMALL = TeachersConfig(
    enabled=("repeats", "transitions", "neighbours"),
    transitions=TransitionsConfig(max_partners=6),
    neighbours=NeighboursConfig(max_sessions=30, session_length=5, sessions_per_item=4, num_neighbours=6),
)


def examples_of(queries: Sequence[tuple[str, Sequence[int], Sequence[int]]], length: int = 8) -> Examples:
    """Queries from (user, history oldest first, basket)."""
    history = np.full((len(queries), length), -1, np.int32)
    for index, (_, past, _) in enumerate(queries):
        newest = list(past)[::-1][:length]
        history[index, : len(newest)] = newest
    sizes = [len(basket) for _, _, basket in queries]
    return Examples(
        history,
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        np.asarray([item for _, _, basket in queries for item in basket], np.int32),
        np.ones(len(queries), np.float32),
        np.asarray([hash_key("default", user) for user, _, _ in queries], np.int64),
        np.zeros(len(queries), np.int32),
    )


def prefixes(sessions: dict[str, Sequence[int]]) -> Examples:
    """Each click after the first as the target of those before it."""
    return examples_of([(user, items[:end], [items[end]]) for user, items in sessions.items() for end in range(1, len(items))])


def random_sessions(num: int, seed: int, num_items: int = 40) -> Examples:
    rng = np.random.default_rng(seed)
    return prefixes({f"u{seed % 3}-{number}": rng.integers(0, num_items, rng.integers(2, 8)).tolist() for number in range(num)})


def recall(rows: NDArray[np.int32], examples: Examples, k: int) -> float:
    return float((rows[examples.query_of_target, :k] == examples.target_rows[:, None]).any(1).mean())


def test_votes_for_a_row_are_summed_and_the_best_come_first() -> None:
    rng = np.random.default_rng(0)
    rows, votes = rng.integers(-1, 9, (300, 40)).astype(np.int32), rng.random((300, 40)).astype(np.float32)
    found, sums = best_rows(rows, votes, 5)
    for query in range(300):
        expected = {row: float(votes[query][rows[query] == row].sum()) for row in set(rows[query].tolist()) - {-1}}
        best = sorted(expected, key=lambda row: -expected[row])[:5]
        assert found[query].tolist() == best
        np.testing.assert_allclose(sums[query], [expected[row] for row in best], rtol=1e-4)
    none, zero = best_rows(np.full((2, 3), -1, np.int32), np.ones((2, 3), np.float32), 4)
    assert (none == -1).all()
    assert not zero.any()
    assert best_rows(np.zeros((0, 3), np.int32), np.zeros((0, 3), np.float32), 4)[0].shape == (0, 4)


def test_of_equal_sums_the_lower_row_comes_first() -> None:
    assert best_rows(np.asarray([[7, 2, 5]], np.int32), np.ones((1, 3), np.float32), 3)[0].tolist() == [[2, 5, 7]]


def test_an_items_newest_place_is_its_first() -> None:
    history = np.asarray([[4, 2, 4, -1, -1], [3, 3, 3, 1, -1], [-1, -1, -1, -1, -1]], np.int32)
    assert first_places(history).tolist() == [[True, True, False, False, False], [True, False, False, True, False], [False] * 5]
    rows, cells = cells_of(history)
    assert rows[:, :4].tolist() == [[4, 2, -1, -1], [3, -1, -1, 1], [-1] * 4]
    assert len({int(cells[0, 0]), int(cells[0, 1]), int(cells[1, 0])}) == 3


def repeat_buyers(num: int, seed: int) -> Examples:
    """Users who take their newest item again half of the time, the one before in a fifth, else something new."""
    rng = np.random.default_rng(seed)
    past = np.asarray([rng.permutation(50)[:3] for _ in range(num)])
    choice = rng.choice(3, num, p=[0.5, 0.2, 0.3])
    target = np.where(choice == 2, 50 + rng.integers(0, 50, num), past[np.arange(num), 2 - np.minimum(choice, 1)])
    return examples_of([(f"u{i}", past[i].tolist(), [int(target[i])]) for i in range(num)])


def test_the_repeat_teacher_finds_how_likely_each_place_is_taken_again() -> None:
    teacher = Repeats()
    for seed in range(5):
        teacher.update(repeat_buyers(2000, seed))
    asked = repeat_buyers(50, 99)
    rows, chances = teacher.answer(asked, 10)
    np.testing.assert_array_equal(rows[:, :2], asked.history[:, :2])
    np.testing.assert_allclose(chances[:, 0], 0.5, atol=0.02)
    np.testing.assert_allclose(chances[:, 1], 0.2, atol=0.02)
    assert chances[:, 2].max() < 0.01


def test_a_baskets_repeats_share_one_query() -> None:
    teacher = Repeats()
    data = examples_of([(f"u{i}", [1, 2], [1, 2]) for i in range(4000)])
    teacher.update(data)
    _, chances = teacher.answer(data.take(np.arange(1)), 5)
    assert chances.sum() == pytest.approx(1.0, abs=0.02)


def test_who_buys_more_often_is_told_from_who_bought_once() -> None:
    """Two items stand at the same place, one of them twice in the history; only that one is taken again."""
    teacher = Repeats()
    teacher.update(examples_of([(f"u{i}", [1, 2, 3, 1], [1]) for i in range(500)] + [(f"v{i}", [4, 2, 3, 1], [9]) for i in range(500)]))
    data = examples_of([("w", [1, 2, 3, 1], [0]), ("x", [4, 2, 3, 1], [0])])
    rows, chances = teacher.answer(data, 4)
    assert rows[0, 0] == 1
    assert chances[0, 0] > 0.8
    assert chances[1].max() < 0.15


def test_rules_know_what_follows_and_what_came_before_nearer_ones_first() -> None:
    teacher = Transitions(TransitionsConfig(way_back=0.5))
    teacher.update(prefixes({f"u{i}": [1, 2, 3] for i in range(10)}))
    rows, scores = teacher.answer(examples_of([("x", [1], [0]), ("x", [3], [0]), ("x", [9], [0])]), 4)
    assert rows[0].tolist() == [2, 3, -1, -1]
    assert scores[0, 0] == pytest.approx(2 * scores[0, 1], rel=1e-4)
    assert rows[1, 0] == 2
    assert (rows[2] == -1).all()


def test_an_item_keeps_its_heaviest_rules_and_of_equals_the_new_ones() -> None:
    teacher = Transitions(TransitionsConfig(max_partners=2, way_back=0.0))
    teacher.update(prefixes({"a": [1, 5], "b": [1, 5], "c": [1, 6]}))
    teacher.update(prefixes({"d": [1, 7]}))
    rows, _ = teacher.answer(examples_of([("x", [1], [0])]), 4)
    assert rows[0].tolist() == [5, 7, -1, -1]


def test_neighbours_answer_from_those_with_the_same_tastes() -> None:
    """A checkerboard: even users take even items, odd users odd ones."""
    rng = np.random.default_rng(1)
    teacher = Neighbours(NeighboursConfig())
    teacher.update(prefixes({f"u{i}": (2 * rng.integers(0, 10, 6) + i % 2).tolist() for i in range(200)}))
    rows, scores = teacher.answer(prefixes({"even": [2, 8, 4], "odd": [3, 7, 5]}), 20)
    for query, parity in enumerate((0, 0, 1, 1)):
        held = rows[query][rows[query] >= 0]
        assert len(held) >= 9
        assert (held % 2 == parity).all()
    assert (np.diff(scores, axis=1) <= 0).all()


def test_the_more_of_the_newest_items_a_session_shares_the_more_it_says() -> None:
    teacher = Neighbours(NeighboursConfig())
    teacher.update(prefixes({"both": [1, 2, 10], "newest": [2, 7, 11], "older": [1, 8, 12]}))
    rows, _ = teacher.answer(examples_of([("x", [1, 2], [0])]), 10)
    found = rows[0].tolist()
    assert found.index(10) < found.index(11) < found.index(12)


def test_a_querys_own_session_is_no_neighbour() -> None:
    teacher = Neighbours(NeighboursConfig())
    teacher.update(prefixes({"me": [1, 2, 3], "other": [1, 9]}))
    asked = examples_of([("me", [1], [0]), ("stranger", [1], [0])])
    rows, _ = teacher.answer(asked, 5)
    assert rows[0].tolist() == [9, -1, -1, -1, -1]
    assert set(rows[1].tolist()) == {9, 2, 3, -1}


def test_the_oldest_sessions_leave_and_who_comes_back_begins_anew() -> None:
    teacher = Neighbours(NeighboursConfig(max_sessions=2))
    teacher.update(prefixes({"a": [1, 2]}))
    teacher.update(prefixes({"b": [1, 3], "c": [1, 4]}))
    asked = examples_of([("x", [1], [0])])
    assert set(teacher.answer(asked, 4)[0][0].tolist()) == {3, 4, -1}
    teacher.update(prefixes({"a": [1, 5], "d": [1, 6]}))
    assert set(teacher.answer(asked, 4)[0][0].tolist()) == {5, 6, -1}


def test_a_deleted_users_session_says_nothing_any_more() -> None:
    teacher = Neighbours(NeighboursConfig())
    teacher.update(prefixes({"a": [1, 2, 3], "b": [1, 9]}))
    assert teacher.delete_user("default", "a") == 3
    assert teacher.delete_user("default", "a") == 0
    assert teacher.delete_user("default", "nobody") == 0
    assert teacher.answer(examples_of([("x", [1], [0])]), 4)[0][0].tolist() == [9, -1, -1, -1]
    arrays = teacher.snapshot().arrays
    assert not np.isin([2, 3], arrays["items"]).any()
    assert hash_key("default", "a") not in arrays["user"]


@pytest.mark.parametrize("make", [lambda: Transitions(SMALL.transitions), lambda: Neighbours(SMALL.neighbours)])
def test_items_that_left_are_in_no_answer_and_their_rows_may_come_with_others(make: Callable[[], Any]) -> None:
    teacher = make()
    teacher.update(random_sessions(40, 0))
    gone = np.asarray([3, 4, 5, 1000], np.int32)
    parts = teacher.components() if isinstance(teacher, Neighbours) else [teacher]
    assert all(part.forget_rows(gone) > 0 for part in parts)
    assert all(part.forget_rows(gone) == 0 for part in parts)
    asked = random_sessions(40, 7)
    rows, _ = teacher.answer(asked, 50)
    assert not np.isin(rows, gone).any()
    assert (rows[:, 0] >= 0).mean() > 0.5
    only = examples_of([("x", [3], [0])])
    assert (teacher.answer(only, 5)[0] == -1).all()


def test_the_state_comes_back_bit_for_bit_from_a_snapshot_deltas_and_what_was_joined() -> None:
    original, asked = CountedTeachers(SMALL), random_sessions(30, 50)
    original.update(random_sessions(5, 0, 10))
    bases = [from_bytes(to_bytes(part.snapshot())) for part in original.components()]
    deltas: list[list[Any]] = [[] for _ in bases]
    for seed in range(1, 6):
        original.update(random_sessions(9, seed, 10 + 200 * seed))
        if seed == 3:
            for part in original.components():
                part.delete_user("default", "u0-1")
                part.forget_rows(np.asarray([2, 9], np.int32))
        for held, part in zip(deltas, original.components(), strict=True):
            held.append(part.delta() or part.snapshot())
    one, other = CountedTeachers(SMALL), CountedTeachers(SMALL)
    for number, (mine, joined) in enumerate(zip(one.components(), other.components(), strict=True)):
        rows = all(is_row_delta(delta) for delta in deltas[number])
        mine.restore(bases[number], deltas[number]) if rows else mine.restore(deltas[number][-1])
        joined.restore(merge(bases[number], deltas[number])) if rows else joined.restore(deltas[number][-1])
    for again in (one, other):
        assert [part.digest() for part in again.components()] == [part.digest() for part in original.components()]
        for name, teacher in again.teachers.items():
            for mine, theirs in zip(teacher.answer(asked, 20), original.teachers[name].answer(asked, 20), strict=True):
                np.testing.assert_array_equal(mine, theirs)
        again.update(random_sessions(20, 9))
    original.update(random_sessions(20, 9))
    assert [part.digest() for part in one.components()] == [part.digest() for part in original.components()]


def test_an_empty_batch_changes_nothing_and_an_empty_teacher_has_no_answer() -> None:
    counted = CountedTeachers(SMALL)
    nothing = random_sessions(3, 0).take(np.zeros(0, np.int64))
    counted.update(nothing)
    assert all(teacher.num_queries == 0 for teacher in counted.teachers.values())
    for teacher in counted.teachers.values():
        rows, _ = teacher.answer(random_sessions(3, 1), 5)
        assert (rows == -1).all()


@pytest.mark.parametrize("name", ["transitions", "neighbours"])
def test_labels_made_in_order_show_no_leak_and_a_planted_one_is_caught(name: str) -> None:
    """Nobody's next item can be foretold: who finds it nevertheless has seen it."""
    config = TeachersConfig(enabled=("transitions", "neighbours"))
    honest, leaking = CountedTeachers(config).teachers[name], CountedTeachers(config).teachers[name]
    found: dict[str, list[float]] = {"honest": [], "planted": [], "own session": []}
    for batch in range(8):
        rng = np.random.default_rng(batch)
        data = prefixes({f"u{batch}-{i}": [int(rng.integers(0, 5)), *(5 + rng.permutation(4000)[:3]).tolist()] for i in range(60)})
        found["honest"].append(recall(honest.answer(data, 20)[0], data, 20))
        honest.update(data)
        leaking.update(data)
        strangers = Examples(data.history, data.indptr, data.target_rows, data.weight, data.user + 1, data.namespace)
        found["planted"].append(recall(leaking.answer(strangers, 20)[0], data, 20))
        found["own session"].append(recall(leaking.answer(data, 20)[0], data, 20))
    means = {name: float(np.mean(values)) for name, values in found.items()}
    assert means["honest"] < 0.02
    assert means["planted"] > 0.5
    if name == "neighbours":  # With its own session left out it has nothing to tell even afterwards.
        assert means["own session"] < 0.05
