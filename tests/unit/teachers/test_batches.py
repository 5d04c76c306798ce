"""Which sequences and targets a step learns from, and how they are shared out."""

from __future__ import annotations

import numpy as np
import pytest

from streamrec.state import from_bytes, to_bytes
from streamrec.teachers.batches import Passes, Sequences, batch_of, num_targets_of, share_of


def sizes(num: int = 500) -> np.ndarray:
    return np.random.default_rng(1).integers(2, 40, num)


def passes(*, new: int = 500, batch_events: int = 300, seed: int = 3) -> Passes:
    return Passes(sizes(), np.arange(500) >= 500 - new, batch_events, seed)


def test_a_pass_takes_every_sequence_once_in_batches_of_about_equally_many_events() -> None:
    made = passes()
    batches = list(made.batches(0, made.num_batches))
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    events = np.asarray([sizes()[batch].sum() for batch in batches])
    assert abs(events - 300).max() <= 40


def test_the_next_pass_and_another_seed_have_other_batches_and_the_same_again_has_the_same() -> None:
    made = passes()
    num = made.num_batches
    one, two = list(made.batches(0, num)), list(made.batches(num, 2 * num))
    assert sorted(np.concatenate(two).tolist()) == list(range(500))
    assert {tuple(sorted(batch)) for batch in one}.isdisjoint(tuple(sorted(batch)) for batch in two)
    assert [batch.tolist() for batch in passes().batches(0, num)] == [batch.tolist() for batch in one]
    assert [batch.tolist() for batch in passes(seed=4).batches(0, num)] != [batch.tolist() for batch in one]


@pytest.mark.parametrize("start", [0, 1, 17, 40, 95])
def test_batches_from_a_number_on_are_those_that_would_have_come(start: int) -> None:
    whole = [batch.tolist() for batch in passes().batches(0, 100)]
    assert [batch.tolist() for batch in passes().batches(start, 100)] == whole[start:]


def test_a_refresh_passes_over_what_is_new_and_as_much_of_what_is_old() -> None:
    made = passes(new=100)
    new_events = sizes()[400:].sum()
    old = set()
    for number in range(3):
        taken = np.concatenate(list(made.batches(number * made.num_batches, (number + 1) * made.num_batches)))
        assert set(range(400, 500)) <= set(taken.tolist())
        assert abs(sizes()[taken[taken < 400]].sum() - new_events) <= 40
        old |= set(taken[taken < 400].tolist())
    assert len(old) > 150, "each pass draws others"


def test_likes_go_together_so_that_little_is_padding() -> None:
    padded = sum(len(batch) * sizes()[batch].max() for batch in passes().batches(0, passes().num_batches))
    assert padded < 1.15 * sizes().sum()


@pytest.mark.parametrize("world", [1, 2, 3])
def test_workers_share_out_a_batch_in_parts_of_about_equally_many_events(world: int) -> None:
    chosen = next(iter(passes(batch_events=800).batches(0, 1)))
    parts = [share_of(chosen, sizes(), rank, world) for rank in range(world)]
    assert sorted(np.concatenate(parts).tolist()) == sorted(chosen.tolist())
    events = [sizes()[part].sum() for part in parts]
    assert max(events) - min(events) <= 40


def test_a_basket_is_predicted_from_the_state_before_it_and_the_first_one_from_nothing() -> None:
    rows = np.asarray([[7, 8, 1, 2, 3, -1], [4, 5, -1, -1, -1, -1], [6, 9, -1, -1, -1, -1]], np.int32)
    begins = np.asarray([[1, 0, 1, 0, 1, 0], [1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]], bool)
    made = Sequences(rows, begins, np.zeros(3, np.int64), 0)
    batch = batch_of(made, np.asarray([0, 1]))
    assert num_targets_of(made).tolist() == [3, 1, 0]
    assert batch.rows.tolist() == [[7, 8, 1, 2, 3], [4, 5, -1, -1, -1]]
    assert [(int(batch.rows[:, :-1].ravel()[source]), target) for source, target in zip(batch.source, batch.targets.tolist(), strict=True)] == [
        (8, 1),
        (8, 2),
        (2, 3),
        (4, 5),
    ]


def test_sequences_come_back_from_storage_and_those_of_an_older_release_are_baskets_of_one_and_all_new() -> None:
    rows = np.asarray([[7, 8, -1]], np.int32)
    made = Sequences(rows, np.asarray([[True, False, False]]), np.asarray([5]), 9)
    again = Sequences.of_state(from_bytes(to_bytes(made.state())))
    assert [part.tolist() for part in again[:3]] == [part.tolist() for part in made[:3]]
    assert again.num_arrived == 9
    state = made.state()
    old = Sequences.of_state(type(state)({"sequences": rows}, {"num_items": 9}))
    assert old.begins.tolist() == [[True, True, False]]
    assert (old.arrived.tolist(), old.num_arrived) == ([0], 0)
