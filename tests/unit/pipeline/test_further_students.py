"""Several students learn from one stream of labels, each with versions of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.cli import summary
from streamrec.config import parse_config
from streamrec.errors import ConfigError
from streamrec.features.dedupe import hash_key
from streamrec.log.base import Record
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.plan import Plan
from streamrec.registry.registry import Registry
from streamrec.storage import open_storage
from streamrec.student.learner import Learner

World = Any
STUDENTS: dict[str, Any] = {"small": {"dim": 4, "distill_weight": 0.9}, "shop": {"namespaces": ["shop"]}}


def made(make_world: Callable[..., World], records: list[Record], folder: Path, **settings: Any) -> World:
    return make_world(records, {"students": STUDENTS, "teachers": {"enabled": ["linear", "repeats"]}, **settings}, folder=folder)


@pytest.fixture
def world(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> World:
    return made(make_world, mixed, tmp_path / "state")


def registry_of(world: World, student: str) -> Registry:
    return Registry(open_storage(registry_url(str(world.folder))), student, clock=world.clock)


def learner(controller: Controller, name: str) -> Learner:
    return controller.parts.students[name].worker.target  # type: ignore[attr-defined, no-any-return]


def test_each_student_has_a_size_metrics_and_promoted_versions_of_its_own(world: World) -> None:
    controller = world.controller()
    world.play(controller)
    for name, dim in (("small", 4), ("shop", 8)):
        registry, line = registry_of(world, name), controller.state.lines[name]
        assert line.versions["published"] >= line.versions["promoted"] >= 2
        assert registry.live() == line.live
        stored = registry.load_named(line.live)
        assert stored.arrays["item_vectors"].shape[1] == dim
        assert stored.manifest.student == name
        assert f"students.{name}" in controller.progressive.means()
    assert controller.progressive.means()["students.small"] != controller.progressive.means()["student"]
    assert registry_of(world, "default").live() == controller.state.live


def test_a_student_of_one_namespace_publishes_nothing_for_what_others_do(world: World, make_record: Callable[..., Record]) -> None:
    controller = world.controller()
    world.play(controller)
    before = {name: len(registry_of(world, name).versions()) for name in ("default", "small", "shop")}
    for number in range(400, 440):
        world.append([make_record(f"u{number % 5}", f"i{number % 7}", number)])
        world.clock.advance(3.0)
        controller.step()
    found = {name: len(registry_of(world, name).versions()) - num for name, num in before.items()}
    assert found["default"] > 1 < found["small"]
    assert found["shop"] <= 1  # What had come before.


def test_a_job_ends_with_what_is_live_also_where_a_person_has_moved_it_since_the_last_step(world: World) -> None:
    controller = world.controller()
    world.play(controller)
    for name in ("default", "small"):
        registry = registry_of(world, name)
        stored = registry.load_named(str(registry.live()))
        registry.publish("v90000000", stored.arrays, stored.meta)
        registry.promote("v90000000", "a person's")
    told = summary(controller)
    assert told["live"] == registry_of(world, "default").live() != controller.state.live
    assert told["students"]["small"]["live"] == registry_of(world, "small").live() != controller.state.lines["small"].live


def test_a_further_student_leaves_the_student_as_it_is_bit_for_bit(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> None:
    alone = made(make_world, mixed, tmp_path / "alone", students={})
    together = made(make_world, mixed, tmp_path / "together")
    played = [world.controller() for world in (alone, together)]
    for world, controller in zip((alone, together), played, strict=True):
        world.play(controller)
    names = ("student", "control", "labels", "ensemble", "linear_statistics")
    one, other = ({name: controller.components()[name].digest() for name in names} for controller in played)
    assert one == other
    assert played[0].state.live == played[1].state.live


def test_labels_are_made_once_whoever_learns_from_them(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> None:
    found = []
    for name, students in (("alone", {}), ("two", {"small": STUDENTS["small"]})):
        world = make_world(mixed, {"students": students, "teachers": {"enabled": ["repeats"]}}, folder=tmp_path / name)
        controller = world.controller()
        num_queries = sum(report.num_queries for report in world.play(controller))
        found.append(controller.labelling.usage)
        assert 0 < found[-1].made < found[-1].asked["repeats"] < num_queries  # Of a user's first item nothing is known.
        assert set(found[-1].facts()["seconds_per_1000"]) == {"repeats"}
    alone, two = found
    assert (two.made, two.asked, two.used) == (alone.made, alone.asked, 2 * alone.used)
    assert alone.used > 1.5 * alone.made  # Each once when new, and some again.
    assert two.facts()["hit_rate"] == 1 - two.made / two.used


def test_a_student_of_one_namespace_learns_of_no_other(world: World) -> None:
    controller = world.controller()
    controller.step()
    before = learner(controller, "shop").tables.rows("vectors").numpy().copy()
    namespaces = controller.ingest.vocabulary.namespace_of_rows()[: len(before)].copy()
    world.play(controller)
    after = learner(controller, "shop").tables.rows("vectors").numpy()[: len(before)]
    mine = controller.ingest.vocabulary.namespaces.index("shop")
    moved = np.abs(before - after).max(1) > 1e-6
    same = controller.ingest.vocabulary.generation_of_rows()[: len(before)] == 0
    assert moved[(namespaces == mine) & same].all()
    assert not moved[(namespaces != mine) & same].any()


@pytest.mark.parametrize("num_steps", [1, 4, 7])
def test_a_killed_stream_ends_as_one_that_was_not(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path, num_steps: int) -> None:
    whole, killed = made(make_world, mixed, tmp_path / "whole"), made(make_world, mixed, tmp_path / "killed")
    whole.assert_killed_ends_alike(killed, num_steps)
    for name in STUDENTS:
        one, other = registry_of(whole, name), registry_of(killed, name)
        assert [move.version for move in one.history()] == [move.version for move in other.history()]


def test_a_student_that_is_new_to_a_stream_knows_all_items_learns_from_the_store_and_goes_live(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path, make_record: Callable[..., Record]
) -> None:
    before = made(make_world, mixed, tmp_path / "state", students={})
    before.play(before.controller())
    now = made(make_world, [], tmp_path / "state", students={"small": {"dim": 4}})
    now.log, now.clock = before.log, before.clock
    now.append([make_record("u1", "i1", 900), make_record("u2", "i2", 901)])
    controller = now.controller()
    now.play(controller)
    assert learner(controller, "small").tables.num_rows == len(controller.ingest.vocabulary)
    np.testing.assert_array_equal(learner(controller, "small").tables.rows("generation").numpy(), controller.ingest.vocabulary.generation_of_rows())
    assert controller.state.lines["small"].live is not None
    gone = made(make_world, [], tmp_path / "state", students={})
    gone.log, gone.clock = now.log, now.clock
    without = gone.controller()
    assert not without.state.lines
    assert "students.small" not in without.components()


def test_after_an_operators_rollback_of_one_student_its_candidates_are_compared_with_what_is_live(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path
) -> None:
    world = made(make_world, [one for one in mixed if b'"deletion"' not in one.value], tmp_path / "state")
    controller = world.controller()
    for _ in range(4):
        controller.step()
        world.clock.advance(0.1)
    move = registry_of(world, "small").rollback("fewer orders")
    report = controller.step()
    assert report is not None
    assert report.plan.lives["small"] == move.version
    decision = report.lines["small"].decision
    assert decision is not None
    assert decision.live == move.version
    assert report.decision is not None
    assert report.decision.live != move.version
    assert any(line.startswith("student small: ") for line in report.about_students())


def test_a_deletion_keeps_every_student_from_going_back_behind_it(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path, make_record: Callable[..., Record]
) -> None:
    world = made(make_world, [one for one in mixed if b'"deletion"' not in one.value], tmp_path / "state")
    controller = world.controller()
    world.play(controller)
    gone = {"kind": "deletion", "event_id": "gone", "user_id": "u7", "event_time": world.clock.now_ms()}
    world.append([Record(b"u7", json.dumps(gone).encode())])
    world.play(controller)
    batch = controller.state.forgot_batch
    assert hash_key("default", "u7") not in controller.labelling.store.snapshot().arrays["user"]
    for lot in range(3):
        world.append([make_record(f"u{number % 5}", f"i{number}", 700 + 90 * lot + number) for number in range(90)])
        world.play(controller)
    for name in ("default", *STUDENTS):
        registry = registry_of(world, name)
        assert registry.forgotten() is not None
        assert registry.live() >= f"v{batch:08d}"
        assert min(registry.versions()) >= f"v{batch:08d}"


def test_a_version_of_a_further_student_that_waits_is_decided_on_when_no_more_events_come(world: World) -> None:
    controller = world.controller()
    reports = world.play(controller)
    world.clock.advance(world.config.pipeline.idle_promote_s + 1)
    reports += world.play(controller)
    assert controller.state.waiting is None
    assert all(line.candidate is None for line in controller.state.lines.values())
    assert any(report.plan.idles and report.lines for report in reports)


@pytest.mark.parametrize("name", ["default", "control", "Small", "a/b", ""])
def test_names_that_stand_for_others_or_no_folder_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"students.* allowed names of up to 40 of a-z, 0-9 and -"):
        parse_config({"students": {name: {"dim": 8}}})


def test_a_misspelt_setting_of_a_further_student_is_named_with_what_is_near() -> None:
    with pytest.raises(ConfigError, match=r"students\.small\.dimm.*did you mean 'students\.small\.dim'"):
        parse_config({"students": {"small": {"dimm": 8}}})


def test_another_dimension_of_a_further_student_is_refused_by_its_name(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> None:
    before = made(make_world, mixed, tmp_path / "state")
    before.play(before.controller())
    other = made(make_world, [], tmp_path / "state", students={"small": {"dim": 6}})
    with pytest.raises(ConfigError, match=r"students\.small\.dim does not fit the state, got 6, allowed 4"):
        other.controller()


def test_what_is_not_given_is_as_the_students() -> None:
    config = parse_config({"student": {"dim": 32, "learning_rate": 0.01}, "students": {"small": {"dim": 8}}})
    completed = config.students["small"].completed(config.student)
    assert (completed.dim, completed.learning_rate) == (8, 0.01)


def test_a_plan_of_before_there_were_further_students_is_read() -> None:
    plan = Plan(batch=1, ranges=(), now_ms=1, seed=1)
    stored = plan.model_dump(mode="json")
    del stored["lives"]
    assert Plan.model_validate(stored) == plan
