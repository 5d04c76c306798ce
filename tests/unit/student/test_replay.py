from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.features.dedupe import hash_key
from streamrec.features.examples import Examples
from streamrec.soft_labels.schema import SoftLabels
from streamrec.student.replay import MAX_TARGETS, Replay, ReplayKind


def batch(users: list[int], start: int) -> tuple[Examples, SoftLabels]:
    num = len(users)
    numbers = np.arange(start, start + num)
    hashes = np.asarray([hash_key("a", f"u{user}") for user in users], np.int64)
    counts = 1 + numbers % 3
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    targets = np.concatenate([number * 10 + np.arange(count) for number, count in zip(numbers, counts, strict=True)]).astype(np.int32)
    examples = Examples(
        np.repeat(numbers[:, None], 3, 1).astype(np.int32), indptr, targets, numbers.astype(np.float32), hashes, (numbers % 2).astype(np.int32)
    )
    probs = np.tile(np.asarray([0.5, 0.5], np.float32), (num, 1))
    return examples, SoftLabels(np.repeat(numbers[:, None], 2, 1).astype(np.int32), probs, {})


def contents(replay: Replay) -> list[int]:
    """Numbers of the queries held, oldest first."""
    state = replay._state()
    size, following = state.meta["size"], state.meta["next"]
    order = (following + np.arange(size)) % size if size == replay.capacity else np.arange(size)
    return [int(value) for value in state.arrays["weight"][order]]


operations = st.lists(st.one_of(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.integers(0, 4)), min_size=1, max_size=9)


@given(operations, st.integers(1, 12), st.integers(0, 9))
def test_the_ring_is_a_bounded_queue_and_its_snapshot_with_deltas_is_the_ring(steps: list[Any], capacity: int, saved_at: int) -> None:
    replay, again = Replay(capacity, 3, 2), Replay(capacity, 3, 2)
    naive: deque[tuple[int, int]] = deque(maxlen=capacity)
    base, deltas, count = None, [], 0
    for number, step in enumerate(steps):
        if isinstance(step, int):
            removed = replay.delete_user("a", f"u{step}")
            kept = [entry for entry in naive if entry[1] != step]
            assert removed == len(naive) - len(kept)
            naive = deque(kept, maxlen=capacity)
        else:
            replay.add(*batch(step, count))
            naive.extend((count + place, user) for place, user in enumerate(step))
            count += len(step)
        assert contents(replay) == [entry[0] for entry in naive]
        if number >= saved_at % len(steps):
            delta = None if base is None else replay.delta()
            if delta is None:
                base, deltas = replay.snapshot(), []
            else:
                deltas.append(delta)
    assert base is not None
    again.restore(base, deltas)
    assert again.digest() == replay.digest()
    np.testing.assert_array_equal(again.draw(5, 1)[0].target_rows, replay.draw(5, 1)[0].target_rows)


def test_drawn_queries_are_the_ones_that_were_added() -> None:
    replay = Replay(50, 3, 2)
    replay.add(*batch([1, 2, 3, 4], 7))
    examples, labels = replay.draw(40, 5)
    for number in range(40):
        original = int(examples.weight[number])
        assert examples.target_rows[examples.indptr[number] : examples.indptr[number + 1]].tolist() == [
            original * 10 + k for k in range(1 + original % 3)
        ]
        assert examples.history[number].tolist() == [original] * 3
        assert examples.namespace[number] == original % 2
        assert labels.rows[number].tolist() == [original] * 2
        assert labels.probs[number].tolist() == [0.5, 0.5]
    assert {int(weight) for weight in examples.weight} == {7, 8, 9, 10}


def test_a_batch_larger_than_the_ring_leaves_its_last_queries() -> None:
    replay = Replay(3, 3, 2)
    replay.add(*batch([0] * 10, 0))
    assert contents(replay) == [7, 8, 9]


def test_a_huge_basket_is_cut_at_the_bound() -> None:
    replay = Replay(3, 3, 2)
    num = MAX_TARGETS + 5
    one = Examples(
        np.zeros((1, 3), np.int32),
        np.asarray([0, num]),
        np.arange(num, dtype=np.int32),
        np.ones(1, np.float32),
        np.zeros(1, np.int64),
        np.zeros(1, np.int32),
    )
    replay.add(one, None)
    assert replay.draw(1, 0)[0].target_rows.tolist() == list(range(MAX_TARGETS))


@pytest.mark.parametrize("capacity", [0, 4])
def test_nothing_is_drawn_from_an_empty_ring(capacity: int) -> None:
    replay = Replay(capacity, 3, 2)
    if capacity == 0:
        replay.add(*batch([1], 0))
    assert len(replay.draw(3, 0)[0]) == 0


def test_a_delta_before_the_first_snapshot_follows_an_empty_ring() -> None:
    replay, again = Replay(100, 3, 2), Replay(100, 3, 2)
    replay.add(*batch([1, 2], 0))
    delta = replay.delta()
    assert delta is not None
    again.restore(again.snapshot(), [delta])
    assert again.digest() == replay.digest()


def test_more_than_the_ring_holds_is_not_a_delta() -> None:
    replay = Replay(3, 3, 2)
    replay.snapshot()
    replay.add(*batch([1, 2], 0))
    replay.add(*batch([1, 2], 2))
    assert replay.delta() is None


def drawn(kind: ReplayKind, parts: list[tuple[Examples, SoftLabels]], capacity: int, num: int = 4000) -> np.ndarray:
    """Numbers of the queries that are drawn."""
    replay = Replay(capacity, 3, 2, kind=kind)
    for part in parts:
        replay.add(*part)
    examples, labels = replay.draw(num, 1)
    assert len(examples) == len(labels.rows) == num
    return np.asarray(examples.weight, np.int64)


@pytest.mark.parametrize("capacity", [100, 64])
def test_replay_mixed_with_recency_draws_half_among_the_newest_and_everything_kept(capacity: int) -> None:
    parts = [batch([1] * 25, start) for start in range(0, 100, 25)]  # A ring of 64 has begun anew.
    newest = {kind: (drawn(kind, parts, capacity) >= 100 - capacity // 10).mean() for kind in ("uniform", "recency")}
    assert newest["uniform"] == pytest.approx(0.1, abs=0.02)
    assert newest["recency"] == pytest.approx(0.05 + 0.5 * (1 - np.exp(-1)), abs=0.05)
    assert set(drawn("recency", parts, capacity).tolist()) == set(range(100 - capacity, 100))


def test_replay_by_quota_draws_no_item_more_often_than_the_average_one() -> None:
    popular, rare = batch([1] * 90, 0), batch([1] * 10, 90)
    for part, item in ((popular, 7), (rare, 8)):
        part[0].target_rows[part[0].indptr[:-1]] = item
    shares = {kind: (drawn(kind, [popular, rare], 200) < 90).mean() for kind in ("uniform", "quota")}
    assert shares["uniform"] == pytest.approx(0.9, abs=0.03)
    assert shares["quota"] == pytest.approx(50 / 60, abs=0.03)  # 90 queries count as 50, the mean of both items; 10 stay 10.


@pytest.mark.parametrize("kind", ["uniform", "recency", "quota"])
def test_an_empty_replay_draws_nothing_of_any_kind(kind: ReplayKind) -> None:
    assert len(Replay(10, 3, 2, kind=kind).draw(5, 0)[0]) == 0
