from __future__ import annotations

import numpy as np
import pytest
import torch

from streamrec.models.linear import solve_ridge
from streamrec.models.low_rank import LowRank, Scores, largest, solve_low_rank
from streamrec.models.sparse_sums import Rows

NUM, QUERIES = 60, 400


def rows_of(matrix: torch.Tensor) -> Rows:
    rows, columns = np.nonzero(matrix.numpy())
    return Rows.of(rows, columns, matrix.numpy()[rows, columns], len(matrix))


def sums(own: float = 0.0, num_topics: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """G and C of queries that are each on one of a few topics, and take items beside it with this chance."""
    rng = np.random.default_rng(4)
    topics = rng.random((num_topics, NUM)) < 0.3
    taken = topics[rng.integers(0, num_topics, QUERIES)] | (rng.random((QUERIES, NUM)) < own)
    x, y = taken.astype(np.float32), (rng.random((QUERIES, NUM)) < 0.05).astype(np.float32)
    return torch.from_numpy(x.T @ x), torch.from_numpy(x.T @ y)


def solved(gram: torch.Tensor, cross: torch.Tensor, rank: int) -> LowRank:
    return solve_low_rank(rows_of(gram), rows_of(cross), rows_of(cross.T), 2.0, rank, 3)


def weights(found: LowRank) -> torch.Tensor:
    return Scores(found).of(torch.arange(NUM)[:, None], torch.ones(NUM, 1))


def test_of_full_rank_it_is_the_ridge_regression() -> None:
    gram, cross = sums(own=0.1)
    torch.testing.assert_close(weights(solved(gram, cross, NUM)), solve_ridge(gram, cross, 2.0), rtol=1e-3, atol=1e-4)


def test_of_few_topics_it_is_the_ridge_regression_by_as_many_directions() -> None:
    gram, cross = sums()
    torch.testing.assert_close(weights(solved(gram, cross, 5)), solve_ridge(gram, cross, 2.0), rtol=1e-3, atol=1e-3)


def test_a_larger_rank_is_nearer_to_the_ridge_regression() -> None:
    gram, cross = sums(own=0.05)
    exact = solve_ridge(gram, cross, 2.0)
    errors = [float((weights(solved(gram, cross, rank)) - exact).norm() / exact.norm()) for rank in (1, 5, NUM)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_directions_are_those_of_the_largest_eigenvalues() -> None:
    gram, _ = sums(own=0.05)
    directions = largest(rows_of(gram), 5, 0)
    values, vectors = torch.linalg.eigh(gram)
    best = (vectors[:, -5:] * values[-5:]) @ vectors[:, -5:].T
    assert (directions @ directions.T - best).norm() < 0.02 * best.norm()


@pytest.mark.parametrize("num_long", [0, 1, 7, NUM])
def test_a_history_is_its_rows_summed_whatever_is_added_at_a_time(num_long: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few entries, and however many rows are taken for long."""
    monkeypatch.setattr("streamrec.models.low_rank.LONG_BYTES", 4 * NUM * num_long)
    gram, cross = sums(own=0.1)
    found = solved(gram, cross, 8)
    every = weights(found)
    slots = torch.tensor([[3, -1, 7], [-1, -1, -1], [5, 5, 0], [59, 1, 2]])
    counts = torch.tensor([[1.0, 0.0, 0.5], [0.0, 0.0, 0.0], [0.25, 1.0, 2.0], [1.0, 1.0, 1.0]])
    expected = torch.stack([(every[place.clamp(min=0)] * count[:, None]).sum(0) for place, count in zip(slots, counts, strict=True)])
    for size in (1, 40, 2**21):
        monkeypatch.setattr("streamrec.models.low_rank.CHUNK_ENTRIES", size)
        torch.testing.assert_close(Scores(found).of(slots, counts), expected, rtol=1e-4, atol=1e-5)
    assert Scores(found).of(slots[:0], counts[:0]).shape == (0, NUM)
