from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrec.errors import Damaged
from streamrec.evaluation.drift import class_counts, moved
from streamrec.log.base import Record
from streamrec.pipeline.bootstrap import plan_of
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.refresh_state import ENOUGH_QUERIES, FIRST_QUERIES, RefreshState
from streamrec.pipeline.switches import ALL, LOOK_EVERY_S, Flip, SwitchBoard
from streamrec.storage import LocalStorage, open_storage
from streamrec.teachers.policy import Reason
from streamrec.teachers.requests import Refresher, RefreshRequest
from streamrec.teachers.store import TeacherStore

World = Any
HOUR_MS = 3_600_000
ITEMS = {"held": 100, "admitted": 100}
SETTINGS: dict[str, dict[str, Any]] = {"teachers": {"enabled": ["linear"], "linear_refresh_events": 50}, "student": {"control": False}}


def click(event_id: str) -> Record:
    event = {"event_id": event_id, "user_id": "u1", "item_id": "i1", "event_type": "click", "event_time": 1_700_000_000_000}
    return Record(b"u1", json.dumps(event).encode())


class Broken:
    """A refresher that carries nothing out while it is broken, and says so a moment later."""

    def __init__(self, inner: Refresher) -> None:
        self.inner = inner
        self.is_broken = True
        self.asked: list[RefreshRequest] = []
        self.reasons: dict[tuple[str, str], str] = {}

    def start(self, request: RefreshRequest) -> None:
        self.asked.append(request)
        if self.is_broken:
            self.reasons[request.teacher, request.version] = "its process is gone"
            return
        self.inner.start(request)

    def failed(self) -> dict[tuple[str, str], str]:
        reasons, self.reasons = self.reasons, {}
        return reasons

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.fixture
def linear_world(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> World:
    return make_world(mixed, SETTINGS, folder=tmp_path / "state")


def test_a_refresh_begins_for_a_reason_that_the_plan_the_version_and_the_lines_tell(linear_world: World) -> None:
    controller = linear_world.controller()
    reports = [report for report in linear_world.play(controller) if report.refreshes_started]
    assert len(reports) >= 2
    assert [report.plan.decisions[0].code for report in reports[:2]] == [Reason.FIRST, Reason.EVENTS]
    store = TeacherStore(open_storage(str(linear_world.folder)))
    for report in reports:
        (decision,) = report.plan.decisions
        assert decision.refresh
        assert decision.numbers["num_events"] >= 50
        facts = store.facts("linear", report.refreshes_started["linear"])
        assert facts["why"] == decision.code.value
        assert any(decision.reason in line for line in report.about_teachers())


def test_a_refresh_that_is_asked_for_begins_once_also_in_an_idle_stream_and_one_that_starts_again(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path
) -> None:
    seldom = {"linear_refresh_events": 1000, "refresh_earliest": 0.05, "refresh_new_items": 100.0, "refresh_drift": 0.99, "refresh_drop": 0.99}
    world = make_world(mixed, {**SETTINGS, "teachers": {"enabled": ["linear"], **seldom}}, folder=tmp_path / "state")
    controller = world.controller()
    assert [report.plan.decisions[0].code for report in world.play(controller) if report.refreshes_started] == [Reason.FIRST]
    for _ in range(2):
        world.clock.advance(LOOK_EVERY_S)
        SwitchBoard(LocalStorage(world.folder)).turn("refresh", Flip(by="cron", reason="nightly", at_ms=world.clock.now_ms()), ALL)
    world.clock.advance(LOOK_EVERY_S)
    again = world.controller()
    (started,) = [report for report in world.play(again) if report.refreshes_started]
    assert (started.num_queries, started.plan.decisions[0].code) == (0, Reason.ASKED)
    assert started.plan.decisions[0].reason.endswith(" by cron: nightly")
    world.append([click("one")])
    assert not any(report.refreshes_started for report in world.play(again))


def test_a_failed_refresh_gives_back_what_it_had_counted_and_the_promise_to_forget(linear_world: World) -> None:
    controller = linear_world.controller()
    asked = {"kind": "deletion", "event_id": "gone", "user_id": "u1", "event_time": linear_world.clock.now_ms()}
    linear_world.append([Record(b"u1", json.dumps(asked).encode())])
    broken = controller.parts.refresher = Broken(controller.parts.refresher)
    linear_world.play(controller)
    state, record = controller.state, controller.refreshing.record.records["linear"]
    assert len(broken.asked) >= 2
    assert record.num_failed + len(state.pending) == len(broken.asked)
    applied = state.counts["applied"]
    while state.pending:
        controller.run(plan_of(controller, failed=dict.fromkeys(state.pending, "its process is gone")))
    assert state.events_since["linear"] > applied // 2  # All interactions; the rest are item updates and deletions.
    assert state.forget_since_ms["linear"] <= linear_world.clock.now_ms()
    assert state.forgot_batch
    assert record.num_failed == len(broken.asked)
    assert record.retry_ms > linear_world.clock.now_ms()


def test_a_teacher_that_keeps_failing_is_tried_less_and_less_often_and_the_stream_goes_on(linear_world: World) -> None:
    controller = linear_world.controller()
    broken = controller.parts.refresher = Broken(controller.parts.refresher)
    times: list[int] = []
    for number in range(60):
        linear_world.append([click(f"n{number}")])
        report = controller.step()
        assert report is not None
        times += [report.plan.now_ms] if report.refreshes_started else []
        linear_world.clock.advance(1.0)
    waits = np.diff(times)
    assert len(waits) >= 3
    assert (np.diff(waits) > 0).all()
    assert controller.state.counts["applied"] > 300
    broken.is_broken = False
    linear_world.clock.advance(3600.0)
    for number in range(2):  # One begins the refresh, one takes it into use.
        linear_world.append([click(f"later{number}")])
        assert controller.step() is not None
    assert "linear" in controller.state.teachers
    assert controller.refreshing.record.records["linear"].num_failed == 0


def teacher_folder(world: World, version: str) -> Path:
    return Path(world.folder) / "teachers" / "linear" / version


@pytest.mark.parametrize("torn", ["manifest.json", "weights-*.safetensors"])
def test_a_damaged_version_in_use_is_named_at_the_start_and_once_it_is_removed_a_new_one_is_made(
    linear_world: World, caplog: pytest.LogCaptureFixture, torn: str
) -> None:
    first = linear_world.controller()
    linear_world.play(first)
    first.finish()
    version = first.state.teachers["linear"]
    (path,) = teacher_folder(linear_world, version).glob(torn)
    path.write_bytes(b"")
    with pytest.raises(Damaged, match=f"{path}, got .*, or remove the folder .*/teachers/linear/{version}: the stream goes on"):
        linear_world.controller()
    shutil.rmtree(teacher_folder(linear_world, version))
    controller = linear_world.controller()
    assert f"{teacher_folder(linear_world, version)}/manifest.json: going on without it" in caplog.text
    assert controller.state.teachers.get("linear") != version
    linear_world.append([click("one more"), click("and one")])
    reports = linear_world.play(controller)
    if not first.state.challengers and not first.state.pending:
        assert [decision.code for decision in reports[0].plan.decisions] == [Reason.LOST]
    linear_world.append([click("a third")])
    linear_world.play(controller)
    controller.finish()
    assert controller.state.teachers["linear"] > version
    assert linear_world.controller().state.teachers == controller.state.teachers


def test_a_lost_version_that_a_stored_plan_uses_is_named_and_the_plan_is_not_executed_without_it(linear_world: World) -> None:
    first = linear_world.controller()
    linear_world.play(first)
    first.finish()
    version = first.state.teachers["linear"]
    plan = plan_of(first)
    PlanStore(open_storage(str(linear_world.folder))).write(plan.model_dump(mode="json"), plan.batch)
    kept = teacher_folder(linear_world, version).rename(linear_world.folder / "copy")
    path = f"{teacher_folder(linear_world, version)}/manifest.json"
    with pytest.raises(
        Damaged, match=f"{path}, and the stored plan of batch {plan.batch} uses it, restore it from a copy; without one .*jobs.rebuild"
    ):
        linear_world.controller()
    kept.rename(teacher_folder(linear_world, version))
    assert linear_world.controller().run(plan).plan == plan


def test_a_spent_budget_puts_refreshes_off_and_says_so(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> None:
    teachers = {**SETTINGS["teachers"], "budget_worker_min_per_day": 1e-9}
    world = make_world(mixed, {**SETTINGS, "teachers": teachers}, folder=tmp_path)
    controller = world.controller()
    reports = world.play(controller)
    assert sum("linear" in report.refreshes_started for report in reports) == 1
    put_off = [decision for report in reports for decision in report.plan.decisions if decision.is_put_off]
    assert put_off
    assert {decision.code for decision in put_off} == {Reason.BUDGET}
    assert controller.books()["pending"] == 0
    cost_s = TeacherStore(open_storage(str(world.folder))).cost_s("linear", controller.state.teachers["linear"])
    assert put_off[0].numbers["spent_worker_min"] == pytest.approx(cost_s / 60)
    world.clock.advance(26 * 3600.0)
    world.append([click("next day")])
    assert any("linear" in report.refreshes_started for report in world.play(controller))


def test_a_restart_executes_a_stored_decision_unchanged_whatever_the_settings_say_now(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path
) -> None:
    world = make_world(mixed, SETTINGS, folder=tmp_path)
    first = world.controller()
    reports = []
    while not reports or not reports[-1].refreshes_started:
        reports.append(first.step())
        world.clock.advance(1.0)
    never = {**SETTINGS["teachers"], "linear_refresh_events": 10**6, "budget_worker_min_per_day": 1e-9}
    other = make_world((), {**SETTINGS, "teachers": never}, folder=tmp_path)
    other.log, other.clock = world.log, world.clock
    again = other.controller()
    assert again.state.batch < reports[-1].plan.batch
    repeated = []
    while again.planned() is not None:
        repeated.append(again.step())
    assert [report.plan for report in repeated] == [report.plan for report in reports][-len(repeated) :]
    assert repeated[-1].plan.decisions == reports[-1].plan.decisions
    assert repeated[-1].refreshes_started == reports[-1].refreshes_started
    assert PlanStore(open_storage(str(tmp_path))).read(reports[-1].plan.batch)["decisions"][0]["code"] == "first"
    digests = [one.components()["refreshes"].digest() for one in (first, again)]
    assert digests[0] == digests[1]


def test_the_state_of_refreshes_comes_back_whole_and_one_of_before_begins_empty() -> None:
    state = RefreshState()
    state.hear_of(["linear", "transformer"], HOUR_MS, ITEMS)
    state.count(np.arange(50, dtype=np.int32))
    state.begin("linear", 2 * HOUR_MS, ITEMS, "drift", (70, 5))
    state.complete("linear", 2 * HOUR_MS, 30.0)
    state.count(np.arange(40, dtype=np.int32))
    state.add_scores("linear", "v1", np.linspace(0, 1, 3000, dtype=np.float32))
    state.add_pairs("linear", "v2", np.ones(9, np.float32), np.zeros(9, np.float32))
    again = RefreshState()
    again.restore(state.snapshot())
    assert again.digest() == state.digest()
    assert again.records == state.records
    assert again.window("linear", "v2") == state.window("linear", "v2")
    assert again.facts("linear", 3 * HOUR_MS, ITEMS) == state.facts("linear", 3 * HOUR_MS, ITEMS)
    again.restore(type(state.snapshot())())
    assert (again.records, again.facts("linear", 0, ITEMS).began_ms) == ({}, None)


def test_what_refreshes_take_counts_for_a_day() -> None:
    state = RefreshState()
    state.hear_of(["linear", "transformer"], 0, ITEMS)
    state.complete("linear", 10 * HOUR_MS, 30.0)
    state.complete("transformer", 11 * HOUR_MS, 60.0)
    state.begin("linear", 11 * HOUR_MS, ITEMS, "events", (0, None))
    state.fail("linear", 11 * HOUR_MS + 5000, 2, 0)
    spent = {hours: state.facts("linear", hours * HOUR_MS, ITEMS).spent_s for hours in (11, 34, 35, 36)}
    assert spent == {11: 100.0, 34: 100.0, 35: 70.0, 36: 0.0}


def test_a_version_is_watched_from_its_first_scores_on_and_another_one_begins_anew() -> None:
    state = RefreshState()
    state.hear_of(["linear"], 0, ITEMS)
    rng = np.random.default_rng(0)

    def seen(version: str, level: float, num: int) -> tuple[Any, Any]:
        state.add_scores("linear", version, (rng.random(num) < level).astype(np.float32))
        facts = state.facts("linear", 0, ITEMS)
        return facts.first, facts.recent

    assert seen("v1", 0.5, FIRST_QUERIES - 1) == (None, None)
    first, recent = seen("v1", 0.5, 1)
    assert first.mean == pytest.approx(0.5, abs=0.05)
    assert recent is None
    for _ in range(10):
        first, recent = seen("v1", 0.2, ENOUGH_QUERIES)
    assert recent.mean == pytest.approx(0.2, abs=0.05)
    assert first.mean == pytest.approx(0.5, abs=0.05)
    assert 0 < recent.error < 0.02
    assert seen("v2", 0.5, 100) == (None, None)


def test_new_items_and_drift_count_from_the_beginning_of_the_newest_refresh() -> None:
    state = RefreshState()
    state.hear_of(["linear"], 0, ITEMS)
    rng = np.random.default_rng(0)
    state.count(rng.integers(0, 100, 20_000).astype(np.int32))
    state.begin("linear", 0, ITEMS, "first", (0, None))
    more = {"held": 130, "admitted": 130}
    assert state.facts("linear", 0, more).new_items == pytest.approx(0.3)
    state.count(rng.integers(0, 100, 5000).astype(np.int32))
    assert state.facts("linear", 0, more).drift < 0.01
    state.count(rng.integers(50, 150, 5000).astype(np.int32))
    assert state.facts("linear", 0, more).drift == pytest.approx(0.22, abs=0.03)
    state.begin("linear", 0, more, "drift", (0, None))
    assert state.facts("linear", 0, more).drift == 0.0
    state.fail("linear", 0, 1, 0)
    assert state.facts("linear", 0, more).new_items == pytest.approx(0.3)
    assert state.facts("linear", 0, more).drift > 0.15


def test_chance_is_no_drift_and_of_a_move_at_most_its_size_is_told() -> None:
    rng = np.random.default_rng(3)

    def drawn(num: int) -> Any:
        return rng.zipf(1.3, num).clip(max=900)

    before, found = class_counts(drawn(20_000).astype(np.int32)), {}
    for num in (50, 500, 5000, 50_000):
        assert np.mean([moved(before, class_counts(drawn(num).astype(np.int32))) for _ in range(20)]) < 0.02
        away = np.concatenate([drawn(num * 7 // 10), rng.integers(901, 1000, num * 3 // 10)])
        found[num] = moved(before, class_counts(away.astype(np.int32)))
    assert list(found.values()) == sorted(found.values())
    assert found[50_000] == pytest.approx(0.3, abs=0.05)
    assert moved(before, np.zeros_like(before)) == 0.0
