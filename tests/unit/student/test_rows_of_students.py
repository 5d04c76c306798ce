"""A row of a student that came back with another item."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamrec.config import FeaturesConfig, StudentConfig
from streamrec.evaluation.ranking import UNRANKED
from streamrec.features.examples import Examples
from streamrec.state import ComponentState
from streamrec.student.learner import CURRENT, Learner
from streamrec.student.tables import ItemTables
from streamrec.testing.classroom import teach

LENGTH, TOP = 3, 2
WORDS = np.full((1, 2), -1, np.int32)
ROW = np.asarray([3], np.int32)


def queries(*pairs: tuple[list[int], list[int]]) -> Examples:
    history = np.asarray([items + [-1] * (LENGTH - len(items)) for items, _ in pairs], np.int32)
    indptr = np.concatenate([[0], np.cumsum([len(targets) for _, targets in pairs])]).astype(np.int64)
    targets = np.asarray([row for _, part in pairs for row in part], np.int32)
    num = len(pairs)
    return Examples(history, indptr, targets, np.ones(num, np.float32), np.arange(num), np.zeros(num, np.int32))


def learner(**student: Any) -> Learner:
    config = StudentConfig(**{"dim": 4, "batch_size": 8, **student})
    made = Learner(config, FeaturesConfig(history_length=LENGTH, words_per_item=2, word_buckets=8), TOP, seed=5)
    made.put_items(np.arange(8, dtype=np.int32), np.full((8, 2), 1, np.int32), np.zeros(8, np.int32), np.zeros(8, np.int32))
    teach(made, queries(*[([row, (row + 1) % 8], [(row + 2) % 8]) for row in range(8)]), None, 1, 2)
    return made


def give_to_another(made: Learner) -> None:
    made.forget_rows(ROW)
    made.put_items(ROW, WORDS, np.zeros(1, np.int32), np.ones(1, np.int32))


def test_a_version_that_is_held_does_not_know_the_item_that_a_row_came_back_with() -> None:
    made = learner()
    made.hold_current("v1")
    before = made.ranks(queries(([5], [2]), ([5, 6], [2])), ["v1"])["v1"]
    give_to_another(made)
    asked = queries(([5], [3]), ([3], [2]), ([3, 5], [2]), ([5, 3, 6], [2]))
    found = made.ranks(asked, ["v1", CURRENT])
    assert found["v1"][:2].tolist() == [UNRANKED, UNRANKED]
    assert (before - found["v1"][2:]).tolist() in ([0, 0], [1, 0], [0, 1], [1, 1])  # One candidate less.
    assert (found[CURRENT] < 8).all()


def test_a_version_held_again_after_a_restart_knows_as_little() -> None:
    made = learner()
    made.hold_current("v1")
    arrays, meta = made.export()
    give_to_another(made)
    asked = queries(([5], [3]), ([3], [2]), ([3, 5], [2]), ([4], [7]))
    expected = made.ranks(asked, ["v1"])["v1"]
    again = learner()
    again.restore(made.snapshot())
    again.hold("v1", arrays, meta)
    np.testing.assert_array_equal(again.ranks(asked, ["v1"])["v1"], expected)


def test_a_free_row_is_no_candidate_and_nothing_in_it_moves() -> None:
    made = learner()
    made.forget_rows(ROW)
    teach(made, queries(([5], [2]), ([6], [1])), None, 3, 3)
    arrays = made.export()[0]
    assert arrays["item_generation"].tolist() == [0, 0, 0, -1, 0, 0, 0, 0]
    assert arrays["item_namespace"][3] == -1
    assert not arrays["item_vectors"][3].any()
    assert made.ranks(queries(([5], [3])), [CURRENT])[CURRENT].tolist() == [UNRANKED]
    assert np.isneginf(made.target_log_probs(queries(([5], [3]))))


@pytest.mark.parametrize("full_softmax_items", [1, 100])
def test_a_new_item_starts_where_its_row_and_generation_say_whatever_was_there_before(full_softmax_items: int) -> None:
    made, other = learner(full_softmax_items=full_softmax_items), learner()
    give_to_another(made)
    teach(other, queries(([1], [3]), ([3], [1])), None, 9, 4)
    other.put_items(ROW, WORDS, np.zeros(1, np.int32), np.ones(1, np.int32))  # Also when nobody said that the old one left.
    for name in ("vectors", "bias", "vectors_m", "vectors_v", "bias_m", "bias_v", "words"):
        torch.testing.assert_close(made.tables.tensors[name][3], other.tables.tensors[name][3])
    first = np.random.default_rng([5, 3]).standard_normal(4)
    assert abs(float(torch.from_numpy(first / np.linalg.norm(first)).float() @ made.tables.rows("vectors")[3])) < 0.999
    fresh = ItemTables(4, 2, 5)
    fresh.put_items(ROW, WORDS, np.zeros(1, np.int32))
    np.testing.assert_allclose(fresh.rows("vectors")[3].numpy(), (first / np.linalg.norm(first)).astype(np.float32), rtol=1e-6)
    assert fresh.rows("namespace").tolist() == [-1, -1, -1, 0]


def test_describing_an_item_anew_leaves_what_was_learned() -> None:
    made = learner()
    before = made.tables.rows("vectors")[3].clone()
    made.put_items(ROW, WORDS, np.zeros(1, np.int32), np.zeros(1, np.int32))
    torch.testing.assert_close(made.tables.rows("vectors")[3], before)


def test_a_student_of_the_time_before_generations_is_read_as_all_first_items() -> None:
    made = learner()
    state = made.snapshot()
    old = {name: array for name, array in state.arrays.items() if name != "table/generation"}
    again = learner()
    again.restore(ComponentState(old, state.meta))
    assert again.digest() == made.digest()
