"""What each part reaches in worlds whose right answer is known."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from streamrec.config import FeaturesConfig, LossesConfig, StudentConfig
from streamrec.evaluation.ranking import per_query_metrics
from streamrec.features.examples import Examples
from streamrec.features.item_text import hash_words
from streamrec.soft_labels.ensemble import Ensemble, mix
from streamrec.soft_labels.schema import answers_of
from streamrec.student.learner import CURRENT, Learner
from streamrec.testing.classroom import Classroom
from streamrec.testing.worlds import Quality, Tastes, planted

TOP, NUM, STEPS = 10, 256, 24
WORLD = Tastes()


def student(world: Tastes, words: Any = None, **settings: Any) -> Learner:
    config = StudentConfig(**{"dim": 16, "batch_size": 32, **settings})
    made = Learner(config, FeaturesConfig(history_length=world.length, words_per_item=2, word_buckets=64), TOP, seed=1)
    rows = np.arange(world.num_items, dtype=np.int32)
    made.put_items(rows, np.full((len(rows), 2), -1, np.int32) if words is None else words, np.zeros(len(rows), np.int32))
    return made


def classroom(made: Learner) -> Classroom:
    return Classroom(made, 2000, WORLD.length, TOP)


def recall(made: Learner, examples: Examples) -> float:
    return float(per_query_metrics(made.ranks(examples, [CURRENT])[CURRENT], examples)["recall@20"].mean())


def found(examples: Examples, rows: Any) -> float:
    return float((rows[:, :20] == examples.target_rows[:, None]).any(1).mean())


def played(teachers: tuple[Quality, ...], *, drift_at: int = STEPS, steps: int = STEPS, **settings: Any) -> tuple[list[float], Ensemble]:
    """Distil as the stream does, each example judged before it is learned: the student's recall step by step, and the ensemble at the end."""
    made, ensemble, recalls = student(WORLD, **settings), Ensemble(), []
    room = classroom(made)
    for number in range(steps):
        world = WORLD if number < drift_at else WORLD.drifted()
        examples = world.draw(NUM, number)
        recalls.append(recall(made, examples))
        temperatures = ensemble.temperatures(teachers)
        scores = {name: planted(world, examples, name, TOP, temperatures[name]) for name in teachers}
        labels = mix(ensemble.weigh(examples, answers_of(scores)), NUM, TOP, 1.0) if scores else None
        ensemble.observe(examples, scores, made.target_log_probs(examples), world.num_items)
        room.step(examples, labels, number)
    return recalls, ensemble


@cache
def alone(drift_at: int = STEPS) -> list[float]:
    """The same student on events alone."""
    return played((), drift_at=drift_at)[0]


def test_the_world_knows_its_own_best_answer() -> None:
    examples = WORLD.draw(4000, 0)
    best = np.argsort(-WORLD.chances(examples), 1)
    assert found(examples, best) == pytest.approx(WORLD.best(examples, 20), abs=0.02)
    again = Tastes(repeats=0.5)
    examples = again.draw(4000, 0)
    assert found(examples, np.argsort(-again.chances(examples), 1)) == pytest.approx(again.best(examples, 20), abs=0.02)
    np.testing.assert_allclose(again.chances(examples).sum(1), 1.0)


def test_a_good_teacher_brings_the_student_to_the_best_answer_sooner() -> None:
    with_teacher, _ = played(("good",))
    assert np.mean(with_teacher[2:8]) > np.mean(alone()[2:8]) + 0.03
    assert np.mean(with_teacher[-4:]) > 0.95 * WORLD.best(WORLD.draw(NUM, 0), 20)


@pytest.mark.parametrize("losses", [LossesConfig(kl=1.0), LossesConfig(kl=1.0, kl_temperature=1.0), LossesConfig(listwise=0.5)])
def test_each_loss_on_labels_alone_brings_what_a_good_teacher_knows_to_the_student(losses: LossesConfig) -> None:
    with_teacher, _ = played(("good",), steps=8, distill_weight=0.0, losses=losses)
    assert np.mean(with_teacher[2:]) > np.mean(alone()[2:8]) + 0.03


def test_the_losses_that_were_chosen_by_measuring_bring_it_sooner_than_cross_entropy_to_the_labels_alone() -> None:
    assert LossesConfig() == LossesConfig(listwise=0.3, dynamic_temperature=True)  # docs/experiments.md, 2026-11-27.
    chosen, _ = played(("good",), steps=8)
    plain, _ = played(("good",), steps=8, losses=LossesConfig(listwise=0.0, dynamic_temperature=False))
    assert np.mean(chosen[2:]) > np.mean(plain[2:]) + 0.01


@pytest.mark.parametrize("quality", ["random", "inverted", "stale"])
def test_a_teacher_that_knows_nothing_or_the_opposite_does_not_hurt(quality: Quality) -> None:
    drift_at = 0 if quality == "stale" else STEPS
    with_teacher, ensemble = played((quality,), drift_at=drift_at)
    differences = np.asarray(with_teacher[4:]) - np.asarray(alone(drift_at)[4:])
    assert differences.mean() > -0.02
    assert ensemble.share([quality])[1:3].max() < 0.2


def test_the_ensemble_finds_the_good_teacher_among_bad_ones() -> None:
    with_teachers, ensemble = played(("random", "good", "inverted"))
    weights = ensemble.weights(["random", "good", "inverted"])
    assert min(weights["good"][1:3]) > 0.9
    assert np.mean(with_teachers[2:8]) > np.mean(alone()[2:8])


def test_the_student_recovers_after_a_drift() -> None:
    recalls, _ = played((), drift_at=STEPS // 2, steps=STEPS * 2)
    best = WORLD.best(WORLD.draw(NUM, 0), 20)
    assert np.mean(recalls[STEPS // 2 - 3 : STEPS // 2]) > 0.8 * best
    assert recalls[STEPS // 2] < 0.5 * best
    assert np.mean(recalls[-4:]) > 0.8 * best


def test_a_teacher_of_before_a_drift_loses_its_say_after_it() -> None:
    _, before = played(("stale",), steps=8)
    _, after = played(("stale",), drift_at=4, steps=STEPS * 2)
    assert before.share(["stale"])[1:3].min() > 0.9
    assert after.share(["stale"])[1:3].max() < 0.5


def test_repeat_buyers_are_found_by_the_bias_on_own_items() -> None:
    world = Tastes(repeats=0.8, num_items=400)
    made = student(world)
    room = classroom(made)
    for number in range(STEPS):
        examples = world.draw(NUM, number)
        room.step(examples, None, number)
    assert recall(made, world.draw(2000, 999)) > 0.9 * world.best(world.draw(2000, 999), 20)


def test_a_new_item_with_a_telling_title_is_offered_to_those_who_like_its_kind() -> None:
    titles = hash_words([f"taste{row % WORLD.num_tastes}" for row in range(WORLD.num_items)], 2, 64)
    told, untold = student(WORLD, titles), student(WORLD)
    rooms = classroom(told), classroom(untold)
    for number in range(STEPS):
        examples = WORLD.draw(NUM, number)
        for room in rooms:
            room.step(examples, None, number, 2)
    new = np.arange(WORLD.num_items, WORLD.num_items + WORLD.num_tastes, dtype=np.int32)
    for made, words in ((told, titles[new % WORLD.num_tastes]), (untold, np.full((len(new), 2), -1, np.int32))):
        made.put_items(new, words, np.zeros(len(new), np.int32))
    asked = WORLD.draw(500, 77)
    wanted = Examples(
        asked.history,
        asked.indptr,
        (WORLD.num_items + asked.history[:, 0] % WORLD.num_tastes).astype(np.int32),
        asked.weight,
        asked.user,
        asked.namespace,
    )
    ranks = [made.ranks(wanted, [CURRENT])[CURRENT] for made in (told, untold)]
    assert np.median(ranks[0]) < 0.6 * np.median(np.minimum(ranks[1], 100))
