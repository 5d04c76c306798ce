from __future__ import annotations

import numpy as np
import pytest

from streamrec.features.examples import Examples
from streamrec.features.floods import floods, without


@pytest.fixture
def examples() -> Examples:
    """Three queries: twice the same item before, and once; twice another one; nothing of it."""
    history = np.asarray([[7, 7, 3, -1], [5, 5, 5, -1], [1, 2, 3, 4]], np.int32)
    targets, indptr = np.asarray([7, 3, 5, 9], np.int32), np.asarray([0, 2, 3, 4])
    return Examples(history, indptr, targets, np.asarray([1.0, 2.0, 3.0], np.float32), np.asarray([10, 11, 12]), np.zeros(3, np.int32))


def test_a_target_that_fills_so_many_places_of_its_history_is_one_of_a_flood(examples: Examples) -> None:
    assert floods(examples, 2).tolist() == [True, False, True, False]
    assert floods(examples, 3).tolist() == [False, False, True, False]
    assert floods(examples, 4).tolist() == [False] * 4


@pytest.mark.parametrize("most", [0, 5])
def test_without_a_bound_and_with_one_that_no_history_reaches_nothing_is(examples: Examples, most: int) -> None:
    assert not floods(examples, most).any()
    assert without(examples, floods(examples, most)) is examples


def test_queries_lose_such_targets_and_go_with_their_last_one(examples: Examples) -> None:
    left = without(examples, floods(examples, 2))
    assert left.target_rows.tolist() == [3, 9]
    assert left.indptr.tolist() == [0, 1, 2]
    assert (left.user.tolist(), left.weight.tolist()) == ([10, 12], [1.0, 3.0])
    assert left.history.tolist() == [[7, 7, 3, -1], [1, 2, 3, 4]]


def test_nothing_is_no_flood() -> None:
    assert not floods(Examples.empty(4), 1).any()
