from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from streamrec.features.examples import Examples
from streamrec.student.frozen import FrozenStudent
from streamrec.student.likeness import LEAST_HISTORIES, NUM_HISTORIES, likeness

NUM_ITEMS, DIM, LENGTH = 200, 8, 4


def student(seed: int, bias: float = 0.0, noise: float = 0.0) -> FrozenStudent:
    """A version; the first item has a bias of its own."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(NUM_ITEMS, DIM)) + noise * np.random.default_rng(99).normal(size=(NUM_ITEMS, DIM))
    arrays = {
        "item_vectors": vectors.astype(np.float32),
        "item_bias": np.r_[np.full(30, bias), np.zeros(NUM_ITEMS - 30)].astype(np.float32),
        "item_namespace": np.zeros(NUM_ITEMS, np.int32),
        "item_generation": np.zeros(NUM_ITEMS, np.int32),
        "position_logits": np.zeros(LENGTH, np.float32),
        "own_bias": np.zeros(LENGTH, np.float32),
        "pool_projection": np.eye(DIM, dtype=np.float32),
        "last_projection": np.eye(DIM, dtype=np.float32),
    }
    return FrozenStudent(arrays, {"scale": 9.0, "history_length": LENGTH, "dim": DIM})


@pytest.fixture
def examples() -> Examples:
    rng, num = np.random.default_rng(3), 100
    ones = np.ones(num, np.float32)
    return Examples(
        rng.integers(NUM_ITEMS, size=(num, LENGTH)).astype(np.int32),
        np.arange(num + 1),
        np.zeros(num, np.int32),
        ones,
        np.arange(num),
        np.zeros(num, np.int32),
    )


def test_a_version_is_like_itself_and_nearly_like_one_that_is_a_little_off(examples: Examples) -> None:
    assert likeness(examples, student(1), student(1)) == (1.0, 1.0, NUM_HISTORIES)
    near = likeness(examples, student(1, noise=0.05), student(1))
    assert near is not None
    assert 0.7 < near.overlap < 1.0
    assert near.coverage == pytest.approx(1.0, abs=0.15)


def test_one_that_answers_the_same_to_everybody_holds_few_items_and_another_one_shares_few(examples: Examples) -> None:
    same = likeness(examples, student(1, bias=100.0), student(1))
    assert same is not None
    assert same.coverage < 0.3
    other = likeness(examples, student(2), student(1))
    assert other is not None
    assert other.overlap < 0.3


def test_of_very_many_items_nobody_asks(examples: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrec.student.likeness.MOST_ROWS", NUM_ITEMS - 1)
    assert likeness(examples, student(1), student(1)) is None


def test_too_few_histories_say_nothing_and_weights_that_are_not_finite_answer_nothing(examples: Examples) -> None:
    assert likeness(examples.take(np.arange(LEAST_HISTORIES - 1)), student(1), student(1)) is None
    unknown = dataclasses.replace(examples, history=np.full_like(examples.history, NUM_ITEMS + 5))
    assert likeness(unknown, student(1), student(1)) is None
    broken = likeness(examples, student(1, bias=float("nan"), noise=float("nan")), student(1))
    assert broken is not None
    assert broken[:2] == (0.0, 0.0)


def test_one_shares_nothing_with_another_one_that_has_none_of_the_histories_items(examples: Examples) -> None:
    old = student(1)
    old.forget_rows(np.arange(NUM_ITEMS))
    assert likeness(examples, student(1), old) == (pytest.approx(160, abs=160), 0.0, NUM_HISTORIES)
    assert likeness(examples, old, student(1)) is None
