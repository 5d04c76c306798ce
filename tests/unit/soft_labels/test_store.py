from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.features.dedupe import hash_key
from streamrec.features.examples import Examples
from streamrec.soft_labels.ensemble import mix
from streamrec.soft_labels.schema import Answer, SoftLabels
from streamrec.soft_labels.store import MAX_TARGETS, LabelStore, ReplayKind
from streamrec.state import ComponentState
from streamrec.testing.classroom import no_labels

Batch = tuple[Examples, SoftLabels, dict[str, Answer]]


def batch(users: list[int], start: int) -> Batch:
    """Queries, their labels, and what two teachers said of them: one always, the other in every second batch."""
    num = len(users)
    numbers = np.arange(start, start + num)
    hashes = np.asarray([hash_key("a", f"u{user}") for user in users], np.int64)
    counts = 1 + numbers % 3
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    targets = np.concatenate([number * 10 + np.arange(count) for number, count in zip(numbers, counts, strict=True)]).astype(np.int32)
    examples = Examples(
        np.repeat(numbers[:, None], 3, 1).astype(np.int32), indptr, targets, numbers.astype(np.float32), hashes, (numbers % 2).astype(np.int32)
    )
    answers = {"one": answer(f"v{start}", numbers)} | ({"other": answer("w", numbers + 1, 0.25)} if start % 2 else {})
    return examples, SoftLabels(np.repeat(numbers[:, None], 2, 1).astype(np.int32), np.full((num, 2), 0.5, np.float32), {}), answers


def answer(version: str, numbers: np.ndarray, chance: float = 0.5) -> Answer:
    num = len(numbers)
    rows = np.stack([numbers, numbers + 100], 1).astype(np.int32)
    ones = np.ones(num, np.float32)
    return Answer((version,), rows, np.full((num, 2), chance), 0.75 * ones, np.zeros(num, np.int32), 0.5 * ones)


def contents(store: LabelStore) -> list[int]:
    """Numbers of the queries held, oldest first."""
    state = store._state()
    size, following = state.meta["size"], state.meta["next"]
    order = (following + np.arange(size)) % size if size == store.capacity else np.arange(size)
    return [int(value) for value in state.arrays["weight"][order]]


operations = st.lists(st.one_of(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.integers(0, 4)), min_size=1, max_size=9)


@given(operations, st.integers(1, 12), st.integers(0, 9))
def test_the_ring_is_a_bounded_queue_and_its_snapshot_with_deltas_is_the_ring(steps: list[Any], capacity: int, saved_at: int) -> None:
    store, again = LabelStore(capacity, 3, 2), LabelStore(capacity, 3, 2)
    naive: deque[tuple[int, int]] = deque(maxlen=capacity)
    base, deltas, count = None, [], 0
    for number, step in enumerate(steps):
        if isinstance(step, int):
            removed = store.delete_user("a", f"u{step}")
            kept = [entry for entry in naive if entry[1] != step]
            assert removed == len(naive) - len(kept)
            naive = deque(kept, maxlen=capacity)
        else:
            store.add(*batch(step, count))
            naive.extend((count + place, user) for place, user in enumerate(step))
            count += len(step)
        assert contents(store) == [entry[0] for entry in naive]
        if number >= saved_at % len(steps):
            delta = None if base is None else store.delta()
            if delta is None:
                base, deltas = store.snapshot(), []
            else:
                deltas.append(delta)
    assert base is not None
    again.restore(base, deltas)
    assert again.digest() == store.digest()
    np.testing.assert_array_equal(again.draw(5, 1), store.draw(5, 1))


def test_drawn_queries_are_the_ones_that_were_added_with_what_each_teacher_said_of_them() -> None:
    store = LabelStore(50, 3, 2)
    store.add(*batch([1, 2], 7))
    store.add(*batch([3, 4], 10))
    places = store.draw(40, 5)
    examples, labels, answers = store.examples(places), store.labels(places), store.answers(places)
    for number in range(40):
        original = int(examples.weight[number])
        assert examples.target_rows[examples.indptr[number] : examples.indptr[number + 1]].tolist() == [
            original * 10 + k for k in range(1 + original % 3)
        ]
        assert examples.history[number].tolist() == [original] * 3
        assert examples.namespace[number] == original % 2
        assert labels.rows[number].tolist() == [original] * 2
        assert labels.probs[number].tolist() == [0.5, 0.5]
        one, other = answers["one"], answers["other"]
        assert one.rows[number].tolist() == [original, original + 100]
        assert one.chances[number].tolist() == [0.5, 0.5]
        assert one.temperature[number] == 0.75
        assert one.say[number] == 0.5
        assert one.versions[one.version[number]] == ("v7" if original < 10 else "v10")
        assert other.rows[number].tolist() == ([original + 1, original + 101] if original < 10 else [-1, -1])
        assert other.chances[number].tolist() == ([0.25, 0.25] if original < 10 else [0, 0])
        assert other.version[number] == (0 if original < 10 else -1)
    assert {int(weight) for weight in examples.weight} == {7, 8, 10, 11}


def test_names_of_versions_that_no_answer_has_any_more_are_dropped_and_the_others_keep_their_numbers() -> None:
    store, again = LabelStore(6, 3, 2), LabelStore(6, 3, 2)
    for start in range(500):
        store.add(*batch([1, 2], start))
    names = store.snapshot().meta["versions"]
    assert len(names["one"]) <= 65
    assert list(names["other"].values()) == ["w"]
    again.restore(store.snapshot())
    for held in (store, again):
        one = held.answers(np.arange(6))["one"]
        assert sorted(one.versions[number] for number in one.version.tolist()) == ["v497", "v497", "v498", "v498", "v499", "v499"]


def test_turns_go_around_the_ring_and_what_is_replaced_is_in_the_next_delta() -> None:
    store, again = LabelStore(6, 3, 2), LabelStore(6, 3, 2)
    store.add(*batch([1, 2, 3, 4, 5], 1))
    base = store.snapshot()
    assert [store.take_turn(2).tolist() for _ in range(3)] == [[0, 1], [2, 3], [4, 0]]
    assert store.take_turn(9).tolist() == [1, 2, 3, 4, 0]
    places = store.take_turn(2)
    labels = SoftLabels(np.asarray([[70, 71], [72, -1]], np.int32), np.asarray([[0.5, 0.25], [0.75, 0]], np.float32), {})
    store.replace(places, labels, {"other": answer("w2", np.asarray([8, 9]))})
    assert store.labels(np.asarray([0, *places.tolist()])).rows.tolist() == [[1, 1], [70, 71], [72, -1]]
    told = store.answers(places)
    assert told["other"].rows.tolist() == [[8, 108], [9, 109]]
    assert [told["other"].versions[number] for number in told["other"].version] == ["w2", "w2"]
    assert told["one"].rows.tolist() == [[2, 102], [3, 103]]
    delta = store.delta()
    assert delta is not None
    assert delta.arrays["@rows"].tolist() == [1, 2]
    again.restore(base, [delta])
    assert again.digest() == store.digest()
    assert LabelStore(6, 3, 2).take_turn(4).tolist() == []


def test_only_as_many_candidates_are_kept_as_there_is_room_for() -> None:
    store = LabelStore(6, 3, 1)
    examples, _, answers = batch([1, 2], 4)
    store.add(examples, no_labels(2, 1), answers)
    assert store.answers(np.arange(2))["one"].rows.tolist() == [[4], [5]]


def test_a_batch_larger_than_the_ring_leaves_its_last_queries() -> None:
    store = LabelStore(3, 3, 2)
    store.add(*batch([0] * 10, 0))
    assert contents(store) == [7, 8, 9]


def test_a_huge_basket_is_cut_at_the_bound() -> None:
    store = LabelStore(3, 3, 2)
    num = MAX_TARGETS + 5
    one = Examples(
        np.zeros((1, 3), np.int32),
        np.asarray([0, num]),
        np.arange(num, dtype=np.int32),
        np.ones(1, np.float32),
        np.zeros(1, np.int64),
        np.zeros(1, np.int32),
    )
    store.add(one, no_labels(1, 2), {})
    assert store.examples(store.draw(1, 0)).target_rows.tolist() == list(range(MAX_TARGETS))


@pytest.mark.parametrize("capacity", [0, 4])
def test_nothing_is_drawn_from_an_empty_ring(capacity: int) -> None:
    store = LabelStore(capacity, 3, 2)
    if capacity == 0:
        store.add(*batch([1], 0))
    assert len(store.draw(3, 0)) == 0


def test_a_delta_before_the_first_snapshot_follows_an_empty_ring() -> None:
    store, again = LabelStore(100, 3, 2), LabelStore(100, 3, 2)
    store.add(*batch([1, 2], 0))
    delta = store.delta()
    assert delta is not None
    again.restore(again.snapshot(), [delta])
    assert again.digest() == store.digest()


def test_more_than_the_ring_holds_is_not_a_delta() -> None:
    store = LabelStore(3, 3, 2)
    store.snapshot()
    store.add(*batch([1, 2], 0))
    store.add(*batch([1, 2], 2))
    assert store.delta() is None


def drawn(kind: ReplayKind, parts: list[Batch], capacity: int, num: int = 4000) -> np.ndarray:
    """Numbers of the queries that are drawn."""
    store = LabelStore(capacity, 3, 2, kind=kind)
    for part in parts:
        store.add(*part)
    examples = store.examples(store.draw(num, 1))
    assert len(examples) == num
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
    assert len(LabelStore(10, 3, 2, kind=kind).draw(5, 0)) == 0


def test_a_replay_buffer_of_before_is_a_store_without_answers() -> None:
    """Its columns are the store's; a delta has the last of three queries."""
    examples, labels, _ = batch([1, 2, 3], 4)
    store = LabelStore(4, 3, 2)
    store.add(examples, labels, {})
    arrays = store.snapshot().arrays
    base = ComponentState({name: values[:2] for name, values in arrays.items()}, {"next": 2, "size": 2})
    delta = {"@rows": np.asarray([2]), **{f"{name}@values": values[2:] for name, values in arrays.items()}}
    again = LabelStore(4, 3, 2)
    again.restore(base, [ComponentState(delta, {"next": 3, "size": 3})])
    assert again.digest() == store.digest()
    assert again.answers(np.arange(3)) == {}


def test_answers_mix_to_the_labels_with_the_say_that_they_are_kept_with() -> None:
    rng = np.random.default_rng(0)
    rows = [np.stack([rng.choice(30, 4, replace=False) for _ in range(5)]).astype(np.int32) for _ in range(2)]
    ones = np.ones(5, np.float32)
    answers = {
        name: Answer(("v",), rows[number], rng.dirichlet(np.ones(4), 5), ones, np.zeros(5, np.int32), say * ones)
        for number, (name, say) in enumerate({"one": np.float32(0.25), "other": np.float32(0.5)}.items())
    }
    store = LabelStore(9, 3, 4)
    examples = Examples(np.zeros((5, 3), np.int32), np.arange(6), np.arange(5, dtype=np.int32), ones, np.arange(5), np.zeros(5, np.int32))
    labels = mix(answers, 5, 4, 1.0)
    store.add(examples, labels, answers)
    again = mix(store.answers(np.arange(5)), 5, 4, 1.0)
    assert (again.rows == labels.rows).mean() > 0.9  # Near ties may change places.
    np.testing.assert_allclose(again.probs, store.labels(np.arange(5)).probs, atol=1e-3)


LENGTH, TOP = 3, 2


def queries(history: list[int], targets: list[int], number: int) -> Examples:
    histories = np.asarray([history + [-1] * (LENGTH - len(history))], np.int32)
    zero = np.zeros(1, np.int32)
    return Examples(
        histories, np.asarray([0, len(targets)]), np.asarray(targets, np.int32), np.asarray([number], np.float32), zero.astype(np.int64), zero
    )


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 7), min_size=1, max_size=LENGTH), st.sets(st.integers(0, 7), min_size=1, max_size=3)), max_size=12),
    st.sets(st.integers(0, 7), max_size=4),
    st.integers(1, 9),
)
def test_a_store_forgets_rows_and_keeps_the_rest_in_order(stored: list[tuple[list[int], set[int]]], gone: set[int], capacity: int) -> None:
    store = LabelStore(capacity, LENGTH, TOP)
    for number, (history, targets) in enumerate(stored):
        rows = np.asarray([[number % 8, (number + 3) % 8]], np.int32)
        one = np.ones(1, np.float32)
        said = Answer(("v",), rows, np.full((1, TOP), 0.25), one, np.zeros(1, np.int32), one)
        store.add(queries(history, sorted(targets), number), SoftLabels(rows, np.full((1, TOP), 0.25, np.float32), {}), {"one": said})
    store.forget_rows(np.asarray(sorted(gone), np.int32))
    expected = []
    for number, (history, targets) in list(enumerate(stored))[-capacity:]:
        left = [row for row in history if row not in gone], sorted(targets - gone)
        if all(left):
            expected.append((number, *left, [row for row in (number % 8, (number + 3) % 8) if row not in gone]))
    arrays = store.snapshot().arrays
    order = np.argsort(arrays["weight"])
    found = [
        (
            int(arrays["weight"][at]),
            *([row for row in arrays[name][at].tolist() if row >= 0] for name in ("history", "targets")),
            arrays["label_rows"][at][arrays["label_probs"][at] > 0].tolist(),
        )
        for at in order.tolist()
    ]
    assert found == expected
    if stored:
        assert [arrays["one/rows"][at][arrays["one/chances"][at] > 0].tolist() for at in order.tolist()] == [entry[3] for entry in expected]
    assert all(row[0] >= 0 for row in arrays["history"].tolist())
