"""Uses fade with event time, whatever order and batches they come in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.features.recent_uses import RecentUses

HOUR_MS = 3_600_000
NOW_MS = 1_700_000_000_000
NONE = np.zeros(0, np.float32)
EVER = np.ones(6, np.float32)


def counted(uses: list[tuple[int, int]], *, batch: int = 3, half_life_s: float = 3600.0) -> RecentUses:
    """Uses (row, hours ago) in batches."""
    result = RecentUses(half_life_s)
    for start in range(0, len(uses), batch):
        rows, ago = zip(*uses[start : start + batch], strict=True)
        result.update(np.asarray(rows, np.int32), NOW_MS - np.asarray(ago, np.int64) * HOUR_MS, NOW_MS, NONE)
    return result


def worth(uses: RecentUses) -> np.ndarray:
    """What uses count at the newest event."""
    return np.asarray(uses.counts(EVER) * uses.facts()["factor"], np.float64)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), min_size=1, max_size=20), st.integers(1, 7), st.randoms())
def test_each_use_counts_half_after_each_half_life(uses, batch, rng):
    newest = min(ago for _, ago in uses)
    expected = np.zeros(6)
    for row, ago in uses:
        expected[row] += 0.5 ** (ago - newest)
    made = counted(uses, batch=batch)
    np.testing.assert_allclose(worth(made), expected, rtol=1e-4, atol=1e-9)
    assert made.facts()["as_of_ms"] == NOW_MS - newest * HOUR_MS
    assert 0.5 < made.facts()["factor"] <= 1
    np.testing.assert_allclose(worth(counted(rng.sample(uses, len(uses)), batch=3)), worth(made), rtol=1e-5)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), min_size=1, max_size=20), st.integers(0, 20))
def test_a_base_and_deltas_go_on_bit_for_bit(uses, cut):
    made, deltas = RecentUses(3600.0), []
    base = made.snapshot()
    for number, (row, ago) in enumerate(sorted(uses, key=lambda use: -use[1])):
        made.update(np.asarray([row], np.int32), np.asarray([NOW_MS - ago * HOUR_MS]), NOW_MS, NONE)
        if number == cut:
            base, deltas = made.snapshot(), []
        else:
            deltas.append(made.delta())
    again = RecentUses(3600.0)
    again.restore(base, deltas)
    assert again.digest() == made.digest()
    for one in (made, again):
        one.update(np.asarray([3], np.int32), np.asarray([NOW_MS + 9 * HOUR_MS]), NOW_MS + 9 * HOUR_MS, NONE)
    assert again.digest() == made.digest()


def test_what_was_used_and_has_faded_is_not_as_if_it_never_was():
    made = counted([(0, 5000), (1, 0)])
    counts = made.counts(np.asarray([1, 1, 0], np.float32))
    assert counts[0] > 0
    assert counts[2] == 0
    assert counts[1] > counts[0]


def test_a_fast_clock_weighs_no_more_than_now():
    made = counted([(0, 0)])
    made.update(np.asarray([1], np.int32), np.asarray([NOW_MS + 20 * HOUR_MS]), NOW_MS, NONE)
    assert worth(made)[0] == worth(made)[1]
    assert made.facts()["as_of_ms"] == NOW_MS


def test_a_state_of_before_takes_what_it_has_counted_for_uses_of_now():
    made = RecentUses(3600.0)
    made.update(np.asarray([2], np.int32), np.asarray([NOW_MS]), NOW_MS, np.asarray([5, 1, 0], np.float32))
    assert worth(made)[:3] == pytest.approx([5, 1, 1])
    made.update(np.asarray([2], np.int32), np.asarray([NOW_MS + HOUR_MS]), NOW_MS + HOUR_MS, np.asarray([5, 1, 1], np.float32))
    assert worth(made)[:3] == pytest.approx([2.5, 0.5, 1.5])


def test_another_half_life_goes_on_with_what_counts_are_worth():
    made = counted([(0, 3), (1, 0), (1, 1)])
    other = RecentUses(7200.0)
    other.restore(made.snapshot())
    np.testing.assert_allclose(worth(other)[:2], worth(made)[:2], rtol=1e-6)
    assert other.facts()["half_life_s"] == 7200
    other.update(np.asarray([2], np.int32), np.asarray([NOW_MS + 2 * HOUR_MS]), NOW_MS + 2 * HOUR_MS, NONE)
    np.testing.assert_allclose(worth(other)[:2], worth(made)[:2] / 2, rtol=1e-6)


def test_a_share_is_taken_back_and_rows_are_forgotten():
    made = counted([(0, 0), (0, 0), (1, 0), (2, 0)])
    made.take_back(np.asarray([0, 1], np.int32), np.asarray([0.5, 1.0]))
    assert made.forget_rows(np.asarray([2, 5], np.int32)) == 1
    assert worth(made)[:3] == pytest.approx([1, 0, 0], abs=1e-9)


def test_nothing_is_nothing():
    made = RecentUses(60.0)
    made.update(np.zeros(0, np.int32), np.zeros(0, np.int64), NOW_MS, NONE)
    assert made.counts(np.zeros(4, np.float32)).tolist() == [0] * 4
    assert made.digest() == RecentUses(60.0).digest()
