"""Who expects an item: each teacher's part of what the newest labels give to it."""

from __future__ import annotations

import numpy as np
import pytest

from streamrec.features.examples import Examples
from streamrec.soft_labels import say
from streamrec.soft_labels.ensemble import mix
from streamrec.soft_labels.say import say_of
from streamrec.soft_labels.schema import Answer, SoftLabels
from streamrec.soft_labels.store import LabelStore
from streamrec.testing.classroom import no_labels

TOP = 3


def queries(num: int) -> Examples:
    rows = np.arange(num, dtype=np.int32)
    return Examples(np.repeat(rows[:, None], 3, 1), np.arange(num + 1), rows, np.ones(num, np.float32), np.arange(num), np.zeros(num, np.int32))


def answer(version: str, rows: list[list[int]], chances: list[list[float]], says: float) -> Answer:
    num = len(rows)
    ones = np.ones(num, np.float32)
    return Answer((version,), np.asarray(rows, np.int32), np.asarray(chances), ones, np.zeros(num, np.int32), says * ones)


def stored(*batches: dict[str, Answer], capacity: int = 100) -> LabelStore:
    store = LabelStore(capacity, 3, TOP)
    for answers in batches:
        num = len(next(iter(answers.values())).rows)
        labels: SoftLabels = mix(answers, num, TOP, 1.0)
        store.add(queries(num), labels, answers)
    return store


def test_parts_are_chances_times_say_summed_over_queries() -> None:
    near = answer("n1", [[5, 6, 7], [5, 8, 9]], [[0.5, 0.25, 0.0], [0.25, 0.5, 0.25]], 0.2)
    far = answer("f4", [[6, 5, 9], [9, 8, 7]], [[0.5, 0.25, 0.25], [0.0, 0.5, 0.0]], 0.6)
    found = say_of(stored({"near": near, "far": far}))
    assert found is not None
    assert (dict(found.versions), found.num_queries) == ({"far": "f4", "near": "n1"}, 2)
    expected = {5: (0.15, 0.15), 6: (0.3, 0.05), 8: (0.3, 0.1), 9: (0.15, 0.05)}  # far, near; 7 was given no chance by anybody
    assert found.rows.tolist() == sorted(expected)
    for row, parts in zip(found.rows.tolist(), found.parts.astype(float), strict=True):
        np.testing.assert_allclose(parts, np.asarray(expected[row]) / sum(expected[row]), atol=2e-3)


def test_only_the_newest_queries_and_the_most_expected_items_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    old = answer("n1", [[1, 2, 3]] * 3, [[0.5, 0.3, 0.2]] * 3, 1.0)
    new = answer("n2", [[4, 5, 6]] * 2, [[0.5, 0.3, 0.2]] * 2, 1.0)
    monkeypatch.setattr(say, "NEWEST_QUERIES", 2)
    found = say_of(stored({"near": old}, {"near": new}))
    assert found is not None
    assert (found.rows.tolist(), found.versions["near"], found.num_queries) == ([4, 5, 6], "n2", 2)
    monkeypatch.setattr(say, "MAX_ITEMS", 2)
    found = say_of(stored({"near": new}))
    assert found is not None
    assert found.rows.tolist() == [4, 5]
    monkeypatch.setattr(say, "NEWEST_QUERIES", 4)
    wrapped = say_of(stored({"near": old}, {"near": new}, capacity=3))
    assert wrapped is not None
    assert (wrapped.num_queries, wrapped.versions["near"]) == (3, "n2")


def test_where_nobody_said_anything_nothing_is_told() -> None:
    assert say_of(LabelStore(10, 3, TOP)) is None
    assert say_of(LabelStore(0, 3, TOP)) is None
    store = LabelStore(10, 3, TOP)
    store.add(queries(2), no_labels(2, TOP), {})
    assert say_of(store) is None
    silent = answer("n1", [[1, 2, 3]], [[0.5, 0.3, 0.2]], 0.0)
    assert say_of(stored({"near": silent})) is None
