"""A student knows the order of the newest items; states of before know the newest item alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from streamrec.config import FeaturesConfig, StudentConfig
from streamrec.features.examples import Examples
from streamrec.state import ComponentState
from streamrec.student.learner import CURRENT, Learner
from streamrec.testing.classroom import teach

FEATURES = FeaturesConfig(history_length=4, words_per_item=0)
NUM_ITEMS, DIM = 40, 8


def learner(**student: object) -> Learner:
    config = StudentConfig.model_validate({"dim": DIM, "batch_size": 64, "element_dropout": 0.0, "history_dropout": 0.0, **student})
    made = Learner(config, FEATURES, 5, seed=3)
    rows = np.arange(NUM_ITEMS, dtype=np.int32)
    made.put_items(rows, np.zeros((NUM_ITEMS, 0), np.int32), np.zeros(NUM_ITEMS, np.int32))
    return made


def world() -> Examples:
    """Return queries whose newest item is always 0 and whose target goes by the two before: (a, b) and (b, a) have different ones."""
    pairs = list(itertools.permutations(range(1, 6), 2))
    num = len(pairs)
    history = np.asarray([[0, *pair, -1] for pair in pairs], np.int32)
    targets = np.arange(10, 10 + num, dtype=np.int32)
    return Examples(history, np.arange(num + 1, dtype=np.int64), targets, np.ones(num, np.float32), np.zeros(num, np.int64), np.zeros(num, np.int32))


def found(made: Learner) -> float:
    return float((made.ranks(world(), [CURRENT])[CURRENT] == 0).mean())


def test_a_student_tells_what_follows_from_the_order_of_the_items_before_the_newest_one() -> None:
    knows, does_not = learner(), learner(ordered_items=1)
    for made in (knows, does_not):
        teach(made, world(), None, 1, 150)
    assert found(knows) > 0.7 > 0.5 > found(does_not), (found(knows), found(does_not))


def test_a_state_of_before_goes_on_with_the_weights_that_it_had() -> None:
    old = learner(ordered_items=1)
    teach(old, world(), None, 1, 20)
    state = old.snapshot()
    parts = ("dense/recent_projection", "moment/recent_projection_m", "moment/recent_projection_v")
    before = ComponentState({name: array for name, array in state.arrays.items() if name not in parts}, state.meta)
    made = learner()
    made.restore(before)
    assert made.ranks(world(), [CURRENT])[CURRENT].tolist() == old.ranks(world(), [CURRENT])[CURRENT].tolist()
    assert made.export()[0]["last_projection"].shape == (3 * DIM, DIM)
    assert not made.export()[0]["last_projection"][DIM:].any()
    teach(made, world(), None, 2, 20)
    assert made.export()[0]["last_projection"][DIM:].any()


@pytest.mark.parametrize(("then", "now"), [(3, 2), (2, 4), (3, 1)])
def test_another_number_of_ordered_items_takes_what_fits(then: int, now: int) -> None:
    old, made = learner(ordered_items=then), learner(ordered_items=now)
    teach(old, world(), None, 1, 20)
    made.restore(old.snapshot())
    mine, theirs = (one.export()[0]["last_projection"] for one in (made, old))
    both = min(len(mine), len(theirs))
    np.testing.assert_array_equal(mine[:both], theirs[:both])
    assert theirs[DIM:].any()
    assert not mine[both:].any()


def test_more_ordered_items_than_a_history_has_are_as_many_as_it_has() -> None:
    made = learner(ordered_items=9)
    teach(made, world(), None, 1, 2)
    assert made.export()[0]["last_projection"].shape == (4 * DIM, DIM)
