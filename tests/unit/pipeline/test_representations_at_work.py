"""Teachers' representations on their way from the scorer to the students that learn by them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamrec.log.base import Record
from streamrec.pipeline.controller import Controller
from streamrec.student.learner import PROJECTION, Learner

World = Any
LOSSES: dict[str, Any] = {"hints": 0.3, "contrastive": 0.2, "distances": 0.1, "angles": 0.1}


def made(make_world: Callable[..., World], records: list[Record], folder: Path, **settings: Any) -> World:
    teachers = {"teachers": {"enabled": ["linear", "transformer"]}, "student": {"losses": LOSSES}}
    return make_world(records, {**teachers, **settings}, folder=folder)


def projected(controller: Controller, *names: str) -> list[list[str]]:
    learners: list[Learner] = [worker.target for name, worker in controller.parts.learners().items() if name in names]  # type: ignore[attr-defined]
    return [[name.removeprefix(PROJECTION) for name in learner._dense if name.startswith(PROJECTION)] for learner in learners]


def test_the_student_sees_the_teachers_that_represent_and_neither_the_control_nor_a_student_without_such_losses_does(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path
) -> None:
    world = made(make_world, mixed, tmp_path / "state", students={"plain": {"losses": {}}})
    controller = world.controller()
    world.play(controller)
    assert set(controller.state.teachers) == {"linear", "transformer"}
    assert projected(controller, "student") == [["transformer"]]
    assert projected(controller, "control", "students.plain") == [[], []]


@pytest.mark.parametrize("num_steps", [2, 6])
def test_a_killed_stream_ends_as_one_that_was_not(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path, num_steps: int) -> None:
    whole, killed = made(make_world, mixed, tmp_path / "whole"), made(make_world, mixed, tmp_path / "killed")
    whole.assert_killed_ends_alike(killed, num_steps)
