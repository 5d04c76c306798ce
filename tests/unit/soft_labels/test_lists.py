from __future__ import annotations

import numpy as np
import pytest

from streamrec.config import TeachersConfig
from streamrec.evaluation.ranking import UNRANKED
from streamrec.features.examples import Examples
from streamrec.soft_labels.ensemble import Ensemble, mix
from streamrec.soft_labels.lists import COUNTED_VERSION, list_ranks, list_scores, score_counted
from streamrec.soft_labels.schema import answers_of
from streamrec.teachers.counted import CountedTeachers


def asking(targets: list[int]) -> Examples:
    """One target a query."""
    num = len(targets)
    history = np.zeros((num, 4), np.int32)
    return Examples(history, np.arange(num + 1), np.asarray(targets, np.int32), np.ones(num, np.float32), np.arange(num), np.zeros(num, np.int32))


ROWS = np.asarray([[4, 7, 2], [5, -1, -1], [-1, -1, -1]], np.int32)
VALUES = np.asarray([[6.0, 3.0, 1.0], [0.25, 0.0, 0.0], [0.0, 0.0, 0.0]], np.float32)


def test_a_lists_probabilities_sum_to_one_over_its_own_rows_and_what_it_lacks_has_none() -> None:
    part = list_scores(ROWS, VALUES, asking([7, 9, 4]), 1.0, 1)
    np.testing.assert_allclose(np.exp(part.logits[0] - part.log_norm[0]), [0.6, 0.3], rtol=1e-5)
    np.testing.assert_allclose(np.exp(part.logits[1, 0] - part.log_norm[1]), 1.0, rtol=1e-5)
    assert part.target_logits[0] == pytest.approx(np.log(3.0))
    assert np.isneginf(part.target_logits[1:]).all()
    assert part.target_ranks.tolist() == [1, UNRANKED, UNRANKED]
    assert part.rows[2].tolist() == [-1, -1]
    assert np.isneginf(part.log_norm[2])
    assert part.version == COUNTED_VERSION


def test_a_temperature_sharpens_a_list_and_the_probe_finds_the_better_one() -> None:
    sharp = list_scores(ROWS, VALUES, asking([4, 5, 1]), 0.5, 3)
    np.testing.assert_allclose(np.exp(sharp.logits[0] / 0.5 - sharp.log_norm[0]), np.asarray([36, 9, 1]) / 46, rtol=1e-5)
    assert max(sharp.probe, key=lambda factor: sharp.probe[factor]) < 1.0
    flat = list_scores(ROWS, VALUES, asking([2, 5, 1]), 1.0, 3)
    assert max(flat.probe, key=lambda factor: flat.probe[factor]) > 1.0


def test_what_a_user_has_had_takes_no_place_in_the_ranks() -> None:
    rows = np.asarray([[4, 7, 2]] * 2, np.int32)
    seen = [np.asarray([4], np.int32), np.asarray([2], np.int32)]
    assert list_ranks(rows, asking([2, 2]), seen).tolist() == [1, UNRANKED]
    assert list_ranks(rows, asking([2, 7])).tolist() == [2, 1]


def test_a_teacher_that_lists_nothing_of_a_query_leaves_it_to_the_others() -> None:
    data = asking([7, 9, 4])
    scores = {"one": list_scores(ROWS, VALUES, data, 1.0, 3), "other": list_scores(ROWS[[0, 0, 0]], VALUES[[0, 0, 0]], data, 1.0, 3)}
    labels = mix(Ensemble().weigh(data, answers_of(scores)), 3, 4, 1.0)
    np.testing.assert_allclose(labels.probs.sum(1), [1.0, 1.0, 0.5], rtol=1e-5)
    ensemble = Ensemble()
    ensemble.observe(data, scores, None, 10)
    assert np.isfinite(list(ensemble.weights(scores).values())).all()


def test_a_teacher_that_misses_more_targets_has_less_say() -> None:
    data = asking([4] * 400)
    rows, values = np.repeat(ROWS[:1], 400, 0), np.repeat(VALUES[:1], 400, 0)
    often_wrong = np.where(np.arange(400)[:, None] % 4 == 0, rows, rows + 100)
    ensemble = Ensemble()
    for _ in range(30):
        ensemble.observe(data, {"right": list_scores(rows, values, data, 1.0, 3), "wrong": list_scores(often_wrong, values, data, 1.0, 3)}, None, 10)
    weights = ensemble.weights(["right", "wrong"])
    assert weights["right"][2] > 2 * weights["wrong"][2]


def test_counted_teachers_that_know_nothing_yet_are_not_asked() -> None:
    counted = CountedTeachers(TeachersConfig(enabled=("repeats", "transitions", "neighbours"))).teachers
    data = asking([3, 4, 5])
    temperatures = Ensemble().temperatures(counted)
    assert score_counted(counted, data, temperatures, 4) == {}
    counted["repeats"].update(data)
    assert score_counted(counted, data, temperatures, 4).keys() == {"repeats"}
    assert score_counted(counted, data.take(np.zeros(0, np.int64)), temperatures, 4) == {}
