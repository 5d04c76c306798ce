from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from streamrec.evaluation.gain import ENOUGH_QUERIES, SURE, WINDOW_QUERIES, Gain


def hits(rng: np.random.Generator, num: int, chance: float) -> NDArray[np.float32]:
    return (rng.random(num) < chance).astype(np.float32)


def played(gain: Gain, student: float, control: float, num_batches: int, seed: int = 0, num: int = 256) -> int:
    """Add batches of independent hits and return how many of them ended with the control as the better one."""
    rng, harmful = np.random.default_rng(seed), 0
    for _ in range(num_batches):
        gain.add(hits(rng, num, student), hits(rng, num, control))
        harmful += gain.is_harmful
    return harmful


def test_the_figure_is_the_mean_of_paired_differences_with_its_standard_error() -> None:
    rng, gain = np.random.default_rng(1), Gain()
    student, control = hits(rng, ENOUGH_QUERIES, 0.5), hits(rng, ENOUGH_QUERIES, 0.4)
    found, difference = gain.add(student, control), student.astype(float) - control
    assert found is not None
    assert found.mean == pytest.approx(difference.mean())
    assert found.error == pytest.approx(difference.std() / np.sqrt(ENOUGH_QUERIES))
    assert found.num_queries == pytest.approx(ENOUGH_QUERIES)


def test_few_queries_say_nothing_and_old_ones_fade() -> None:
    gain = Gain()
    assert gain.add(np.zeros(ENOUGH_QUERIES - 1, np.float32), np.ones(ENOUGH_QUERIES - 1, np.float32)) is None
    assert not gain.is_harmful
    played(gain, 0.1, 0.5, 40)
    assert gain.is_harmful
    played(gain, 0.5, 0.1, 10 * WINDOW_QUERIES // 256)
    found = gain.estimate()
    assert found is not None
    assert found.mean == pytest.approx(0.4, abs=0.03)
    assert found.num_queries < 2.1 * WINDOW_QUERIES


def test_harm_is_told_only_beyond_chance_and_over_when_the_student_is_no_longer_worse() -> None:
    gain = Gain()
    assert sum(played(Gain(), 0.3, 0.3, 200, seed) for seed in range(40)) == 0
    assert played(gain, 0.27, 0.30, 400) > 300
    found = gain.estimate()
    assert found is not None
    assert found.mean + SURE * found.error < 0
    played(gain, 0.30, 0.30, 20)
    assert gain.is_harmful, "still worse over the window, though not for sure"
    played(gain, 0.33, 0.30, 100)
    assert not gain.is_harmful


def test_an_empty_batch_changes_nothing_and_a_restored_figure_goes_on_as_the_first() -> None:
    gain, again, nothing = Gain(), Gain(), np.zeros(0, np.float32)
    played(gain, 0.2, 0.4, 30)
    before = gain.digest()
    assert gain.add(nothing, nothing) == gain.estimate()
    assert gain.digest() == before
    again.restore(gain.snapshot())
    assert (again.digest(), again.is_harmful, again.estimate()) == (before, True, gain.estimate())
    played(gain, 0.5, 0.1, 300)
    played(again, 0.5, 0.1, 300)
    assert (again.digest(), again.is_harmful) == (gain.digest(), False)
