from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from streamrec.errors import BrokerUnavailable
from streamrec.log.base import Record
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.labelling import Labelling
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.publisher import Publisher
from streamrec.pipeline.report import StepReport
from streamrec.registry.gate import Decision, Reason, Verdict, Window
from streamrec.registry.registry import Registry
from streamrec.soft_labels.lists import COUNTED_VERSION
from streamrec.soft_labels.schema import SoftLabels
from streamrec.storage import open_storage
from streamrec.student.learner import CURRENT, Learner
from streamrec.student.lesson import Lesson, StepMetrics

World = Any
NO_TEACHERS: dict[str, dict[str, Any]] = {"teachers": {"enabled": []}, "student": {"control": False}}


def test_a_refresh_takes_effect_at_the_step_whose_plan_names_it_and_at_no_other(world: World) -> None:
    controller = world.controller()
    used: dict[str, str] = {}
    started: dict[str, list[str]] = {"linear": [], "transformer": []}
    for report in world.play(controller):
        assert dict(controller.parts.scorer.target._loaded).keys() >= set(report.plan.teachers) if report.num_queries else True  # type: ignore[attr-defined]
        for name, version in report.plan.teachers.items():
            assert version in started[name]
            used[name] = version
        for name, version in report.refreshes_started.items():
            started[name].append(version)
        assert report.metrics.keys() >= {f"teachers.{name}" for name in report.plan.teachers} or report.num_queries == 0
    assert all(started.values())
    versioned = {key.split()[1] for key in controller.state.labels} - {COUNTED_VERSION}
    assert versioned <= {version for versions in started.values() for version in versions}
    assert used == controller.state.teachers


def test_teacher_versions_that_no_kept_commit_can_need_are_removed(world: World) -> None:
    controller = world.controller()
    reports = world.play(controller)
    made = {version for report in reports for version in report.refreshes_started.values()}
    kept = {path.name for path in (world.folder / "teachers" / "linear").iterdir()}
    assert controller.state.teachers["linear"] in kept
    assert kept < made
    again = world.controller()
    assert again.state.teachers == controller.state.teachers


def test_two_teachers_are_refreshed_in_the_middle_of_the_stream_and_their_labels_count(world: World) -> None:
    controller = world.controller()
    reports = world.play(controller)
    assert any({"linear", "transformer"} <= report.plan.teachers.keys() and report.learned and report.learned.num_labelled for report in reports)
    assert sum(controller.state.labels.values()) > 0
    assert controller.parts.control.target._num_steps == controller.parts.student.target._num_steps  # type: ignore[attr-defined, union-attr]


def test_the_control_learns_what_the_student_does_before_there_are_labels(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    controller, lessons, log = world.controller(), {}, []
    step, finish = Learner.step, Labelling.finish

    def noting(self: Learner, lesson: Lesson) -> StepMetrics:
        log.append(self.name)
        lessons[self.name] = lesson
        return step(self, lesson)

    def noting_labels(self: Labelling, *args: Any) -> SoftLabels:
        log.append("labels")
        return finish(self, *args)

    monkeypatch.setattr(Learner, "step", noting)
    monkeypatch.setattr(Labelling, "finish", noting_labels)
    world.play(controller)
    last = len(log) - log[::-1].index("student")
    assert log[last - 3 : last] == ["control", "labels", "student"]
    assert "control" not in log[last:]  # It was this step's.
    mine, its = lessons["student"], lessons["control"]
    assert mine.labels is not None
    assert its.labels is None
    assert (mine.seed, mine.num_new, mine.number, mine.num_passes) == (its.seed, its.num_new, its.number, its.num_passes)
    for column in ("history", "indptr", "target_rows", "weight", "user"):
        np.testing.assert_array_equal(getattr(mine.examples, column), getattr(its.examples, column))


class SpyPublisher(Publisher):
    """Notes which window each decision saw."""

    seen: list[tuple[str, str | None, Window]]

    def decide(self, candidate: str, live: str | None, window: Window, is_idle: bool, *doubts: Any) -> Decision:
        self.seen.append((candidate, live, window))
        return super().decide(candidate, live, window, is_idle, *doubts)


def spied(world: World) -> tuple[Controller, SpyPublisher]:
    parts = world.controller().parts
    spy = parts.publisher
    spy.__class__ = SpyPublisher
    spy.seen = []
    return Controller(parts), spy


def test_a_candidate_published_at_one_step_is_decided_on_the_next_steps_events_before_they_are_learned(world: World) -> None:
    controller, _ = spied(world)
    learner: Learner = controller.parts.student.target  # type: ignore[attr-defined]
    controller.recover()
    published: StepReport | None = None
    num_checked = 0
    while (report := controller.step()) is not None:
        if published is not None and published.published is not None and report.decision is not None and report.num_queries:
            assert report.decision.candidate == published.published
            assert report.decision.batch == published.plan.batch + 1
            assert report.decision.numbers["num_queries"] == report.num_queries
            # The candidate is what the student was when the events came: learning comes after.
            assert report.decision.numbers["candidate"] == pytest.approx(report.metrics["student"]["recall@20"], abs=1e-6)
            num_checked += 1
        published = report if report.published else None
        world.clock.advance(1.0)
    assert num_checked >= 4
    assert learner._num_steps > 0


def test_nothing_is_published_while_a_version_waits_for_evidence_and_evidence_adds_up(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path
) -> None:
    settings = {**NO_TEACHERS, "registry": {"gate_min_queries": 100}, "pipeline": {"max_batch_events": 40, "idle_promote_s": 1000.0}}
    world = make_world([one for one in mixed if b'"deletion"' not in one.value], settings, folder=tmp_path)
    controller, _ = spied(world)
    waiting, total = None, 0
    decided = []
    while (report := controller.step()) is not None:
        if waiting is not None and report.num_queries:
            total += report.num_queries
            assert report.decision is not None
            assert report.decision.numbers["num_queries"] == total
            if report.decision.verdict is Verdict.WAIT:
                assert report.published is None
                assert total < 100
            else:
                assert total >= 100
                decided.append(waiting)
                waiting = None
        if (report.published and report.decision is None) or (
            report.published and waiting is None and report.decision and report.decision.candidate != report.published
        ):
            waiting, total = report.published, 0
        world.clock.advance(1.0)
    assert decided


def test_a_worse_candidate_is_rejected_and_the_live_version_stays(world: World) -> None:
    controller = world.controller()
    for _ in range(4):
        controller.step()
    learner: Learner = controller.parts.student.target  # type: ignore[attr-defined]
    candidate, live = controller.state.candidate, controller.state.live
    assert candidate is not None
    assert live is not None
    arrays, meta = learner.export()
    num = len(arrays["item_bias"])
    # More impossible items than a ranking is long: what the worse version puts on top never comes.
    padding = {
        name: np.concatenate([arrays[name], np.zeros((60, *arrays[name].shape[1:]), arrays[name].dtype)]) for name in ("item_vectors", "item_bias")
    }
    namespaces = np.concatenate([arrays["item_namespace"], np.repeat([0, 1], 30).astype(np.int32)])
    padding["item_bias"][num:] = 1000.0
    learner.hold(candidate, {**arrays, **padding, "item_namespace": namespaces, "item_generation": np.zeros(num + 60, np.int32)}, meta)
    learner.hold(live, arrays, meta)
    report = controller.step()
    assert report is not None
    assert report.decision is not None
    assert report.decision.code is Reason.WORSE
    assert controller.state.live == live
    assert controller.state.versions["rejected"] == 1


def test_weights_that_are_not_finite_are_never_promoted_and_the_stream_recovers_a_live_version(world: World) -> None:
    controller = world.controller()
    for _ in range(3):
        controller.step()
    live = controller.state.live
    learner: Learner = controller.parts.student.target  # type: ignore[attr-defined]
    learner.tables.rows("bias")[0] = float("nan")
    learner._held.pop(CURRENT, None)
    report = controller.step()
    assert report is not None
    assert report.published is not None
    after = controller.step()
    assert after is not None
    assert after.decision is not None
    assert after.decision.code is Reason.NOT_FINITE
    assert controller.state.live in {live, "v00000003"}
    assert controller.state.versions["rejected"] == 1


def test_an_idle_stream_promotes_the_waiting_version_and_then_has_nothing_to_do(world: World) -> None:
    controller = world.controller()
    world.play(controller)
    had_candidate = controller.state.candidate is not None
    world.clock.advance(100.0)
    reports = []
    while (report := controller.step()) is not None:  # Its users were deleted: some commits follow, until none that is kept knows them.
        reports.append(report)
        world.clock.advance(5.0)
    decisions = [report.decision for report in reports if report.decision is not None]
    assert [decision.code for decision in decisions] == [Reason.IDLE] * had_candidate
    assert controller.state.candidate is None
    versions = controller.state.versions
    assert versions["published"] == versions["promoted"] + versions["rejected"]


def test_a_commit_needs_no_broker(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    controller = world.controller()
    for _ in range(3):
        controller.step()

    def away(*_: Any) -> NoReturn:
        what = "Broker: nobody answers"
        raise BrokerUnavailable(what)

    monkeypatch.setattr(world.log, "read_table", away)
    monkeypatch.setattr(world.log, "latest", away)
    report = controller.finish()
    assert report is not None
    assert report.committed
    assert controller.books()["pending"] == 0


def test_the_promotion_of_an_idle_stream_is_committed_though_no_event_follows(world: World, make_record: Callable[..., Record]) -> None:
    controller = world.controller()
    world.play(controller)
    for number in range(20):  # Until a version waits for the gate; how the records were cut into batches decides when.
        if controller.state.candidate is None:
            world.append([make_record(f"u{user}", f"i{number}", 9000 + 25 * number + user) for user in range(25)])
            controller.step()
    controller.finish()
    assert controller.state.candidate is not None
    for _ in range(10):
        world.clock.advance(controller.config.pipeline.idle_promote_s + 1.0)
        controller.step()
    assert controller.state.candidate is None
    again = world.controller()
    assert (again.state.live, again.state.candidate) == (controller.state.live, None)
    assert again.planned() is None


def test_what_was_learned_while_a_version_waited_goes_live_though_no_event_follows(
    make_world: Callable[..., World], make_record: Callable[..., Record], tmp_path: Path
) -> None:
    settings = {**NO_TEACHERS, "registry": {"gate_min_queries": 1000}, "pipeline": {"idle_promote_s": 2.0}}
    world = make_world([make_record(f"u{n % 9}", f"i{n % 7}", 1000 + n) for n in range(90)], settings, folder=tmp_path)
    controller = world.controller()
    world.play(controller)
    for second in range(4):  # Each a step of its own, the first of whose version waits for the gate.
        world.append([make_record(f"u{n}", f"i{n + second}", 9000 + 100 * second + n) for n in range(5)])
        world.clock.advance(1.0)
        assert controller.step() is not None
    assert controller.state.candidate is not None
    learned = dict(controller.state.offsets)
    for _ in range(12):
        world.clock.advance(3.0)
        controller.step()
    registry = Registry(open_storage(registry_url(str(world.folder))), clock=world.clock)
    assert registry.manifest(str(registry.live())).offsets == {controller.config.log.events_topic: learned}
    assert controller.planned() is None


def test_first_events_of_new_users_that_nothing_is_learned_from_go_live_too(world: World, make_record: Callable[..., Record]) -> None:
    controller = world.controller()
    world.play(controller)
    for _ in range(12):
        world.clock.advance(5.0)
        controller.step()
    applied = controller.state.counts["applied"]
    world.append([make_record("somebody-new", "an-item-of-now", 400)])
    for _ in range(12):
        world.clock.advance(5.0)
        controller.step()
    registry = Registry(open_storage(registry_url(str(world.folder))), clock=world.clock)
    assert controller.state.counts["applied"] == applied + 1
    assert registry.manifest(str(registry.live())).offsets == {controller.config.log.events_topic: controller.state.offsets}
    assert controller.planned() is None


def test_a_live_version_and_a_candidate_can_be_compared_after_many_publications(world: World) -> None:
    controller = world.controller()
    world.play(controller)
    held = set(controller.parts.student.target._held)  # type: ignore[attr-defined]
    assert len(held - {CURRENT}) <= 3
    assert controller.state.live in held


def test_a_stream_without_storage_keeps_nothing_and_still_learns(world: World) -> None:
    controller = world.controller(durable=False)
    while controller.step() is not None:
        world.clock.advance(1.0)
    assert controller.progressive.means()["student"]["recall@20"] > 0
    assert not (world.folder / "checkpoint").exists()
    assert not (world.folder / "plans").exists()
