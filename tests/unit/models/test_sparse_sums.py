from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from streamrec.models import sparse_sums
from streamrec.models.sparse_sums import SHIFT, Rows, SparseSums

NUM = 6
PLACE = st.tuples(st.integers(0, NUM - 1), st.integers(0, NUM - 1), st.floats(0.125, 4, width=32))
BATCHES = st.lists(st.lists(PLACE, max_size=30), max_size=6)


def given_to(sums: SparseSums, batch: list[tuple[int, int, float]]) -> None:
    sums.add(*columns_of(batch))


def columns_of(batch: list[tuple[int, int, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, columns = (np.array([entry[part] for entry in batch], np.int64) for part in (0, 1))
    return rows, columns, np.array([entry[2] for entry in batch], np.float32)


def dense(sums: SparseSums) -> np.ndarray:
    places, values = sums.entries()
    result = np.zeros((NUM, NUM), np.float32)
    result[places >> SHIFT, places & (2**SHIFT - 1)] = values
    return result


@given(BATCHES)
def test_entries_are_the_sums_by_place_in_order_of_places(batches: list[list[tuple[int, int, float]]]) -> None:
    sums, expected = SparseSums(1024, keeps_diagonal=False), np.zeros((NUM, NUM))
    for batch in batches:
        given_to(sums, batch)
        for row, column, value in batch:
            expected[row, column] += value
    np.testing.assert_allclose(dense(sums), expected, rtol=1e-5)
    places, _ = sums.entries()
    assert (np.diff(places) > 0).all()
    assert len(sums) == np.count_nonzero(expected)


@given(BATCHES, st.integers(1, 9))
def test_when_new_places_are_sorted_in_and_saving_in_between_change_no_bit(batches: list[list[tuple[int, int, float]]], few: int) -> None:
    one, other = SparseSums(20, keeps_diagonal=True), SparseSums(20, keeps_diagonal=True)
    with pytest.MonkeyPatch.context() as patch:
        for batch in batches:
            patch.setattr(sparse_sums, "FEW", few)
            given_to(one, batch)
            patch.setattr(sparse_sums, "FEW", 2**16)
            given_to(other, batch)
            places, values = other.entries()
            other = SparseSums(20, keeps_diagonal=True, places=places, values=values)
    for found, expected in zip(one.entries(), other.entries(), strict=True):
        np.testing.assert_array_equal(found, expected)


@given(st.lists(PLACE, max_size=30), st.lists(PLACE, max_size=30))
def test_what_is_taken_out_leaves_what_the_others_brought(own: list[tuple[int, int, float]], others: list[tuple[int, int, float]]) -> None:
    sums, expected = SparseSums(1024, keeps_diagonal=False), SparseSums(1024, keeps_diagonal=False)
    given_to(expected, others)
    for batch in (others[::2], own, others[1::2]):
        given_to(sums, batch)
    sums.take_out(*columns_of(own))
    np.testing.assert_allclose(dense(sums), dense(expected), atol=1e-4)
    np.testing.assert_array_equal(dense(sums) > 0, dense(expected) > 0)  # Not even the places of somebody who was alone there.


def test_the_smallest_entries_leave_beyond_the_bound_and_the_diagonal_last() -> None:
    size = 40
    rows, columns = (part.ravel() for part in np.indices((size, size)))
    values = 1 + np.random.default_rng(0).permutation(size * size).astype(np.float32)
    for keeps_diagonal in (False, True):
        sums = SparseSums(1024, keeps_diagonal=keeps_diagonal)
        assert sums.is_whole
        sums.add(rows, columns, values)
        assert not sums.is_whole
        places, kept = sums.entries()
        assert len(kept) == 896
        diagonal = places >> SHIFT == places & (2**SHIFT - 1)
        num_left = size if keeps_diagonal else np.count_nonzero(diagonal)
        assert np.count_nonzero(diagonal) == num_left
        expected = np.sort(values[(rows != columns) | (not keeps_diagonal)])[-(896 - num_left * keeps_diagonal) :]
        np.testing.assert_array_equal(np.sort(kept[~(diagonal & keeps_diagonal)]), expected)


def test_of_equal_entries_some_stay() -> None:
    sums = SparseSums(1024, keeps_diagonal=False)
    rows, columns = (part.ravel() for part in np.indices((40, 40)))
    sums.add(rows, columns, np.ones(1600, np.float32))
    assert len(sums) == 896


def test_kept_rows_are_the_first_ones_and_the_others_are_gone() -> None:
    sums = SparseSums(1024, keeps_diagonal=False)
    rows, columns = (part.ravel() for part in np.indices((NUM, NUM)))
    sums.add(rows, columns, np.arange(1, NUM * NUM + 1, dtype=np.float32))
    before = dense(sums)
    kept = np.array([0, 2, 5])
    sums.keep(kept, NUM)
    np.testing.assert_array_equal(dense(sums)[:3, :3], before[np.ix_(kept, kept)])
    assert len(sums) == 9


def test_products_are_those_of_the_dense_matrix() -> None:
    rng = np.random.default_rng(1)
    whole = np.where(rng.random((NUM, NUM)) < 0.4, rng.random((NUM, NUM)), 0).astype(np.float32)
    rows, columns = rng.permutation(np.argwhere(whole)).T
    dense_side = torch.from_numpy(rng.random((NUM, 3)).astype(np.float32))
    made = Rows.of(rows, columns, whole[rows, columns], NUM)
    np.testing.assert_allclose(made.times(dense_side), whole @ dense_side.numpy(), rtol=1e-5)
    by_row = torch.arange(1.0, NUM + 1)
    np.testing.assert_allclose(made.scaled(by_row).times(dense_side), (by_row.numpy()[:, None] * whole) @ dense_side.numpy(), rtol=1e-5)
