"""A step of a bootstrap learns in rounds, as long as more is found of what came last and was held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrec.log.base import Record
from streamrec.pipeline import students
from streamrec.pipeline.bootstrap import plan_of
from streamrec.pipeline.plan import take_ranges
from streamrec.pipeline.students import HELD_OUT, Students
from streamrec.student.learner import Learner
from streamrec.student.lesson import Lesson

World = Any
SETTINGS: dict[str, Any] = {"teachers": {"enabled": ["repeats"]}, "features": {"history_length": 4}}


def many(make_record: Callable[..., Record], num: int = 600) -> list[Record]:
    """Each user goes around a circle of items, so there is something to learn."""
    return [make_record(f"u{number % 30}", f"i{(number // 30 + number % 30) % 25}", number) for number in range(num)]


@dataclass
class Stage:
    make_world: Callable[..., World]
    make_record: Callable[..., Record]
    records: list[Record]
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    lessons: dict[str, list[Lesson]] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)

    def learned(self, rounds: int, found: list[list[float]] | None = None) -> Any:
        """The controller after it; what each learner was taught is noted. ``found``: after each round, of held-out queries in turn."""
        self.lessons.clear()
        settings = {**SETTINGS, "student": {"replay_capacity": 500, "dim": 8, "faster_rate": 1.0}}
        world = self.make_world(self.records, settings, folder=self.folder / str(rounds))
        if found is not None:
            told = iter(found)
            self.monkeypatch.setattr(Students, "_found", lambda self, examples: np.resize(np.asarray(next(told), np.float32), len(examples)))
        controller = world.controller()
        for name, worker in controller.parts.learners().items():
            self._names[id(worker.target)] = name
        topic = world.config.log.events_topic
        ranges = take_ranges(topic, {}, world.log.latest(topic), 10_000)
        controller.run(plan_of(controller, ranges=ranges, new_passes=2, rounds=rounds))
        return controller

    def note(self, learner: Learner, lesson: Lesson) -> None:
        self.lessons.setdefault(self._names[id(learner)], []).append(lesson)


@pytest.fixture
def stage(make_world: Callable[..., World], make_record: Callable[..., Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(students, "LEAST_FOR_ROUNDS", 64)
    made, step = Stage(make_world, make_record, many(make_record), tmp_path, monkeypatch), Learner.step

    def noted(learner: Learner, lesson: Lesson) -> Any:
        made.note(learner, lesson)
        return step(learner, lesson)

    monkeypatch.setattr(Learner, "step", noted)
    return made


NONE, SOME, MORE, ALL = [0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0]
OTHERS = [1.0, 0.0, 0.0]  # As many as SOME, others.


@pytest.mark.parametrize(
    ("found", "rounds"), [([NONE, SOME, MORE, ALL], 4), ([NONE, NONE], 2), ([SOME, NONE], 2), ([NONE, MORE, SOME], 3), ([SOME, OTHERS], 2)]
)
def test_a_round_follows_while_the_one_before_gained_and_all_students_learn_as_many(stage: Stage, found: list[list[float]], rounds: int) -> None:
    stage.learned(4, found)
    for name in ("student", "control"):
        (*of_rounds, last) = stage.lessons[name]
        assert [lesson.number for lesson in of_rounds] == [0, 1] * rounds
        assert len({(lesson.seed, lesson.number) for lesson in stage.lessons[name]}) == 2 * rounds + 1
        assert last.num_new == min(30, (of_rounds[0].num_new + last.num_new) // HELD_OUT)
        assert {lesson.labels is None for lesson in stage.lessons[name]} == {name == "control"}


def test_a_round_that_gains_nothing_is_taken_back_to_the_bit_and_none_is_tried_again(stage: Stage) -> None:
    kept = stage.learned(4, [NONE, SOME, SOME])
    taken = [lesson for lesson in stage.lessons["student"] if lesson.num_new == stage.lessons["student"][0].num_new]
    assert not kept.state.rounds_gain
    assert kept.parts.student.target._remembered is None
    assert kept.parts.student.target.delta() is None  # All rows may have changed.
    short = stage.learned(2, [NONE, SOME])
    assert len(taken) == 6
    assert short.parts.student.target._num_steps == kept.parts.student.target._num_steps
    digests = [controller.components()[name].digest() for controller in (kept, short) for name in ("student", "control")]
    assert digests[:2] == digests[2:]


def test_after_a_round_that_gained_nothing_a_step_has_one(stage: Stage) -> None:
    controller = stage.learned(4, [SOME, SOME])
    stage.lessons.clear()
    controller.parts.reader.append("streamrec.events", many(stage.make_record, 900)[600:])
    topic = controller.config.log.events_topic
    ranges = take_ranges(topic, controller.state.offsets, controller.parts.reader.latest(topic), 10_000)
    controller.run(plan_of(controller, ranges=ranges, new_passes=2, rounds=4))
    assert [lesson.number for lesson in stage.lessons["student"]] == [0, 1]


def test_one_round_and_a_small_step_hold_nothing_out(stage: Stage) -> None:
    stage.learned(1, [])
    assert [lesson.number for lesson in stage.lessons["student"]] == [0, 1]
    stage.monkeypatch.setattr(students, "LEAST_FOR_ROUNDS", 1000)
    stage.learned(4, [])
    assert [lesson.number for lesson in stage.lessons["student"]] == [0, 1]


def test_what_is_held_out_is_not_learned_in_the_rounds_and_is_learned_after_them(stage: Stage) -> None:
    stage.learned(4)
    first, last = stage.lessons["student"][0], stage.lessons["student"][-1]

    def queries(lesson: Lesson) -> set[tuple[int, ...]]:
        new = lesson.examples.take(np.arange(lesson.num_new))
        rows = zip(new.user.tolist(), new.history.tolist(), new.target_rows[new.indptr[:-1]].tolist(), strict=True)
        return {(user, target, *history) for user, history, target in rows}

    assert queries(last)
    assert not queries(first) & queries(last)


def test_what_is_held_out_is_a_users_last_query(stage: Stage) -> None:
    stage.learned(4)  # 20 different items in a row for each of 30 users.
    taught, held = (stage.lessons["student"][at] for at in (0, -1))
    taken = [lesson.examples.take(np.arange(lesson.num_new)) for lesson in (taught, held)]
    assert len(set(taken[1].user.tolist())) == len(taken[1])
    for user, target in zip(taken[1].user.tolist(), taken[1].target_rows.tolist(), strict=True):
        mine = taken[0].take(np.flatnonzero(taken[0].user == user))
        assert len(mine) > 10
        assert target not in {*mine.history.ravel().tolist(), *mine.target_rows.tolist()}


def test_rounds_make_what_was_held_out_likelier(stage: Stage) -> None:
    found = []
    for rounds in (1, 4):
        controller = stage.learned(rounds)
        examples = controller.labelling.store.examples(np.arange(len(controller.labelling.store)))
        found.append(float(controller.parts.student.target.target_log_probs(examples).mean()))
    assert found[1] > found[0]
