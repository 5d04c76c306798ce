from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrec.log.base import Record
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.students import Students
from streamrec.student.learner import Learner
from streamrec.student.lesson import Lesson
from streamrec.teachers.policy import Reason


def say_harmful(controller: Controller, *, harmful: bool) -> None:
    """Let the figure say for sure that teachers do harm, or none."""
    worse, better = np.zeros(200_000, np.float32), np.ones(200_000, np.float32)
    controller.gain.add(*((worse, better) if harmful else (better, worse)))
    assert controller.gain.is_harmful == harmful


def published_of(world: Any, controller: Controller) -> tuple[str, Any, Any, Any]:
    """Step until a version is published, and return its name, what was stored, and the weights that student and control had by then."""
    while True:
        report = controller.step()
        assert report is not None, "the stream ended too early"
        world.clock.advance(1.0)
        if report.published is not None:
            workers = (controller.parts.student, controller.parts.control)
            mine, other = (worker.submit(Learner.export).result()[0]["item_vectors"].copy() for worker in workers)
            return report.published, controller.parts.publisher.load(report.published)[0]["item_vectors"].copy(), mine, other


def test_while_teachers_do_harm_the_student_on_events_alone_is_published_judged_and_goes_live(
    make_world: Callable[..., Any], mixed: list[Record], tmp_path: Path
) -> None:
    world = make_world(mixed, {"registry": {"gate_min_queries": 1}}, folder=tmp_path / "state")
    controller = world.controller()
    student = control = None
    while np.array_equal(student, control):  # Until labels count.
        _, first, student, control = published_of(world, controller)
        np.testing.assert_array_equal(first, student)
    say_harmful(controller, harmful=True)
    name, stored, _, control = published_of(world, controller)
    np.testing.assert_array_equal(stored, control)
    assert controller.parts.publisher._registry.load_named(name).manifest.teachers == {}
    after = controller.step()
    assert after is not None
    assert after.decision is not None
    assert after.decision.candidate == name
    say_harmful(controller, harmful=False)
    last, stored, student, _ = published_of(world, controller)
    np.testing.assert_array_equal(stored, student)
    assert controller.parts.publisher._registry.load_named(last).manifest.teachers == controller.state.teachers


def test_harm_asks_for_new_teachers_and_survives_a_restart(make_world: Callable[..., Any], mixed: list[Record], tmp_path: Path) -> None:
    late = {"linear_refresh_events": 10_000, "transformer_refresh_events": 10_000, "refresh_earliest": 0.001}
    world = make_world(mixed[:150], {"teachers": late}, folder=tmp_path / "state")
    controller = world.controller()
    world.play(controller)
    say_harmful(controller, harmful=True)
    world.append(mixed[150:])
    decided = [decision for report in world.play(controller) for decision in report.plan.decisions if decision.refresh]
    assert Reason.HARM in {decision.code for decision in decided}
    again = world.controller()
    assert again.gain.is_harmful
    assert again.gain.digest() == controller.gain.digest()


def test_the_mixture_is_compared_with_the_student_on_events_alone_by_the_steps_own_queries(
    make_world: Callable[..., Any], mixed: list[Record], tmp_path: Path
) -> None:
    controller = (world := make_world(mixed, folder=tmp_path / "state")).controller()
    expected = np.zeros(3)
    for report in world.play(controller):
        mixture, control = (report.metrics.get(name) for name in ("teachers.ensemble", "student_events_only"))
        if mixture and control:
            assert report.num_queries
            expected += report.num_queries * np.array([1.0, mixture["ndcg@20"], control["ndcg@20"]])
    assert expected.all()
    found = controller.labelling.ensemble.snapshot().arrays["found"]
    np.testing.assert_allclose(found[1:] / found[0], expected[1:] / expected[0], rtol=0.2)  # What is long ago counts less.
    assert 0.5 * expected[0] < found[0] <= expected[0]


def test_without_a_student_on_events_alone_labels_count_in_full(make_world: Callable[..., Any], mixed: list[Record], tmp_path: Path) -> None:
    controller = (world := make_world(mixed, {"student": {"control": False}}, folder=tmp_path / "state")).controller()
    world.play(controller)
    assert not controller.labelling.ensemble.snapshot().arrays["found"].any()


def test_labels_of_replayed_queries_too_count_by_how_the_mixture_ranks_now(
    make_world: Callable[..., Any], mixed: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = (world := make_world(mixed, folder=tmp_path / "state")).controller()
    given: list[tuple[Lesson, float]] = []
    learned: list[Lesson] = []
    teach, step = Students._teach, Learner.step

    def giving(self: Students, lesson: Lesson, *further: Any) -> Any:
        given.append((lesson, controller.labelling.ensemble.standing()))
        return teach(self, lesson, *further)

    def learning(self: Learner, lesson: Lesson) -> Any:
        if lesson.labels is not None:
            learned.append(lesson)
        return step(self, lesson)

    monkeypatch.setattr(Students, "_teach", giving)
    monkeypatch.setattr(Learner, "step", learning)
    controller.labelling.ensemble.compare(4096, 0.51, 0.5)
    world.play(controller)
    assert len(given) == len(learned) > 3
    counted = set()
    for (lesson, standing), mine in zip(given, learned, strict=True):
        assert lesson.labels is not None
        assert mine.labels is not None
        np.testing.assert_allclose(mine.labels.probs, lesson.labels.probs * standing, rtol=1e-5)
        counted |= {is_new for is_new in (False, True) if lesson.labels.probs[(np.arange(len(lesson.examples)) < lesson.num_new) == is_new].any()}
    assert counted == {False, True}
    assert 0.4 <= min(standing for _, standing in given) < 1.0
