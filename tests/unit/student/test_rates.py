"""While a student begins another one learns the same faster beside it, and the better of the two goes on alone."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from streamrec.config import FeaturesConfig, StudentConfig
from streamrec.features.examples import Examples
from streamrec.student import rates
from streamrec.student.learner import CURRENT, Learner
from streamrec.student.lesson import Lesson
from streamrec.student.rates import LEAST_QUERIES, MOST_QUERIES, SLOWER, STEPS, Verdict, queries_of, verdict
from streamrec.testing.classroom import teach

NUM_ITEMS, LENGTH, TOP = 40, 4, 3


def learner(**settings: Any) -> Learner:
    config = StudentConfig(**{"dim": 8, "batch_size": 32, "bootstrap_rate": 0.5, "faster_rate": 4.0, **settings})
    made = Learner(config, FeaturesConfig(history_length=LENGTH, words_per_item=0, word_buckets=2), TOP, seed=3)
    put(made, np.arange(NUM_ITEMS))
    return made


def put(made: Learner, rows: np.ndarray[Any, Any]) -> None:
    made.put_items(rows.astype(np.int32), np.zeros((len(rows), 0), np.int32), np.zeros(len(rows), np.int32))


def around(num: int, seed: int = 0) -> Examples:
    """Queries of who goes around a circle of items: the next item is the one after the last."""
    last = np.random.default_rng(seed).integers(0, NUM_ITEMS, num)
    history = (last[:, None] - np.arange(LENGTH)[None, :]) % NUM_ITEMS
    targets = ((last + 1) % NUM_ITEMS).astype(np.int32)
    return Examples(history.astype(np.int32), np.arange(num + 1), targets, np.ones(num, np.float32), np.arange(num), np.zeros(num, np.int32))


def steps(made: Learner, num: int, first: int = 1) -> Learner:
    for seed in range(first, first + num):
        teach(made, around(64, seed), None, seed, 2)
    return made


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What is to be found, in turn; what is asked is taken out."""
    answers: list[bool] = []
    monkeypatch.setattr(rates, "verdict", lambda *_: Verdict(answers.pop(0), 0.1, 0.2))
    return answers


@pytest.mark.parametrize("is_better", [False, True])
def test_whoever_is_better_goes_on_as_if_it_had_been_alone_from_the_beginning(
    judged: list[bool], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, *, is_better: bool
) -> None:
    judged.append(is_better)
    monkeypatch.setattr(rates, "SLOWER", 1.0)
    rate = 2.0 if is_better else 0.5
    made, alone = learner(), learner(bootstrap_rate=rate, faster_rate=1.0)
    with caplog.at_level(logging.INFO):
        steps(made, STEPS + 1)
    steps(alone, STEPS + 1)
    assert judged == []
    assert made.delta() is None or not is_better
    assert all(np.array_equal(made.export()[0][name], array) for name, array in alone.export()[0].items())
    assert f"at 4 times the learning rate, which is {'taken' if is_better else 'not taken'}" in caplog.text
    steps(made, 2, 9)
    steps(alone, 2, 9)
    assert all(np.array_equal(made.export()[0][name], array) for name, array in alone.export()[0].items())
    one, other = (teach(each, around(64, 20), None, 20, 1) for each in (made, alone))  # A stream's step has the configured rate.
    assert one == other


def test_who_was_faster_gets_slower_step_by_step_down_to_the_configured_rate(judged: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    judged.append(True)
    made, taken = steps(learner(), STEPS), []
    descend = Learner._descend
    monkeypatch.setattr(Learner, "_descend", lambda self, batch, factor=1.0: taken.append(factor) or descend(self, batch, factor))
    for seed in range(20, 26):
        steps(made, 1, seed)
    assert taken[::4] == pytest.approx([0.5 * max(1.0, 4 * SLOWER**number) for number in range(6)])
    assert taken[-4] == 0.5


def test_whoever_goes_on_is_restored_to_the_bit_also_in_the_middle_of_the_comparison(judged: list[bool]) -> None:
    judged += [True, True]
    whole = steps(learner(), STEPS + 3)
    made = learner()
    for number in range(1, STEPS + 4):
        restored = learner()
        restored.restore(made.snapshot())
        assert restored.digest() == made.digest()
        assert (restored.delta() is None) == (1 < number <= STEPS + 1)
        made = steps(restored, 1, number)
    assert made.digest() == whole.digest()


@pytest.mark.parametrize("ends", ["not taken", "by a step of one pass"])
def test_after_the_comparison_nothing_of_the_other_one_is_in_a_state_that_deltas_are_laid_on(judged: list[bool], ends: str) -> None:
    judged.append(False)
    few: dict[str, Any] = {"full_softmax_items": 5, "num_negatives": 8}  # So that a step changes few rows.
    made = steps(learner(**few), 2)
    put(made, np.arange(NUM_ITEMS, 20 * NUM_ITEMS))
    base, deltas = made.snapshot(), []
    steps(made, STEPS - 1, 3) if ends == "not taken" else teach(made, around(64, 3), None, 3, 1)
    for seed in (10, 11, 12):
        delta = made.delta()
        base, deltas = (made.snapshot(), []) if delta is None else (base, [*deltas, delta])
        restored = learner(**few)
        restored.restore(base, deltas)
        assert restored.digest() == made.digest()
        teach(made, around(64, seed), None, seed, 1)
    assert len(deltas) == 2


def test_both_are_told_of_items_that_come_and_go(judged: list[bool]) -> None:
    judged.append(True)
    made = steps(learner(), 2)
    put(made, np.arange(NUM_ITEMS, NUM_ITEMS + 3))
    assert made.forget_rows(np.asarray([5], np.int32)) == 1
    steps(made, STEPS - 1, 3)
    arrays = made.export()[0]
    assert len(arrays["item_vectors"]) == NUM_ITEMS + 3
    assert (arrays["item_namespace"][5], float(np.abs(arrays["item_vectors"][NUM_ITEMS:]).sum(1).min()) > 0) == (-1, True)


def test_a_correction_after_a_deletion_is_learned_by_both_and_ends_nothing(judged: list[bool]) -> None:
    judged += [True, True]
    made, corrected = steps(learner(), 2), steps(learner(), 2)
    replayed = around(64, 7)
    corrected.step(Lesson(replayed, None, 0, 7))
    for each in (made, corrected):
        steps(each, STEPS - 1, 3)
    assert judged == []
    assert made.export()[0]["item_vectors"].tobytes() != corrected.export()[0]["item_vectors"].tobytes()


def test_a_step_of_one_pass_ends_the_comparison(judged: list[bool]) -> None:
    made, alone = steps(learner(), STEPS), steps(learner(faster_rate=1.0), STEPS)
    for each in (made, alone):
        teach(each, around(64, 8), None, 8, 1)
        steps(each, STEPS, 9)
    assert judged == []
    assert made.digest() == alone.digest()


@pytest.mark.parametrize("why", ["it has learned before", "there are too many items", "nothing is to be tried"])
def test_no_other_one_learns_beside_it(judged: list[bool], monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    del judged
    if why == "there are too many items":
        monkeypatch.setattr(rates, "MOST_ROWS", NUM_ITEMS - 1)
    made = learner(faster_rate=1.0 if why == "nothing is to be tried" else 4.0)
    if why == "it has learned before":
        teach(made, around(64), None, 1, 1)
    steps(made, STEPS + 2)
    assert not any("faster" in name for name in made.snapshot().arrays)


def test_the_faster_one_is_better_where_it_finds_more_of_enough_queries_that_neither_has_learned() -> None:
    examples = around(LEAST_QUERIES)
    first, last = np.zeros(LEAST_QUERIES, np.int32), np.full(LEAST_QUERIES, 30, np.int32)
    assert verdict(examples, last, first) == Verdict(True, 0.0, 1.0)
    assert verdict(examples, first, first) == Verdict(False, 1.0, 1.0)
    assert verdict(examples, first, last) == Verdict(False, 1.0, 0.0)
    more = np.where(np.arange(LEAST_QUERIES) < 3, 0, 30).astype(np.int32)  # Three more may be chance, five hardly.
    assert not verdict(examples, last, more).is_better
    more[3:5] = 0
    assert verdict(examples, last, more).is_better
    few = examples.take(np.arange(LEAST_QUERIES - 1))
    assert not verdict(few, last[1:], first[1:]).is_better


def test_a_lesson_of_replayed_queries_alone_is_judged_by_nothing() -> None:
    made = steps(learner(), STEPS)
    made.step(Lesson(around(64, 8), None, 0, 8, 0, 2))
    assert not any("faster" in name for name in made.snapshot().arrays)
    assert made._pace == 1.0


def test_it_is_judged_by_the_new_queries_of_a_lesson() -> None:
    examples = around(3 * MOST_QUERIES)
    few, many = queries_of(examples, 100), queries_of(examples, 2 * MOST_QUERIES)
    assert np.array_equal(few.history, examples.history[:100])
    assert len(many) == MOST_QUERIES
    assert int(many.user.max()) == 2 * MOST_QUERIES - 1


def test_where_nothing_moves_fast_enough_the_faster_one_is_taken_and_finds_more() -> None:
    made, slow = (learner(learning_rate=2e-4, dim=32, faster_rate=rate) for rate in (50.0, 1.0))
    for seed in range(1, STEPS + 2):
        for each in (made, slow):
            teach(each, around(600, seed), None, seed, 4)
    asked = around(500, 99)
    found, found_slow = (float((each.ranks(asked, [CURRENT])[CURRENT] < 5).mean()) for each in (made, slow))
    assert found > found_slow + 0.2
