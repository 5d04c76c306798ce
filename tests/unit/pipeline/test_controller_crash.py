from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from streamrec.errors import BrokerUnavailable, OperatorError, StorageError
from streamrec.log.base import OffsetRange, Record
from streamrec.log.memory import MemoryLog
from streamrec.pipeline import saving
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.layout import checkpoint_url, registry_url
from streamrec.pipeline.plan import Plan
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.publisher import Publisher
from streamrec.registry.registry import Registry
from streamrec.storage import open_storage
from streamrec.teachers.requests import Refresher, RefreshRequest
from streamrec.testing.storage_faults import FaultyStorage

World = Any

FEW_VERSIONS: dict[str, dict[str, Any]] = {
    "registry": {"keep_last": 2, "keep_for_s": 0.0, "gate_min_queries": 1},
    "pipeline": {"max_batch_events": 25, "min_batch_events": 1},
}
"""A version each step or two, of which the policy gives up all but two."""


def outcome(controller: Controller, folder: Path) -> dict[str, Any]:
    """Everything that must not depend on whether the run was disturbed."""
    registry = Registry(open_storage(registry_url(str(folder))))
    return {
        "digests": {name: component.digest() for name, component in controller.components().items()},
        "books": controller.books(),
        "versions": {version: registry.manifest(version).digest for version in registry.versions()},
        "promotions": [(move.version, move.action) for move in registry.history()],
    }


def write_plans(world: World, plans: Sequence[Plan]) -> None:
    store = PlanStore(open_storage(str(world.folder)))
    for plan in plans:
        store.write(plan.model_dump(mode="json"), plan.batch)


@pytest.fixture(scope="module")
def undisturbed(make_world: Callable[..., World], mixed: list[Record], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[Plan]]:
    """Play everything once, and return the outcome and all plans."""
    folder = tmp_path_factory.mktemp("calm")
    calm = make_world(mixed, folder=folder)
    controller = calm.controller()
    reports = calm.play(controller)
    assert any(report.plan.verdicts for report in reports)
    assert any(report.plan.challengers and report.plan.checkpoint for report in reports)
    return outcome(controller, folder), [report.plan for report in reports]


@pytest.fixture
def calm(world: World, undisturbed: tuple[dict[str, Any], list[Plan]]) -> dict[str, Any]:
    """The outcome of an undisturbed run whose plans lie ready for the disturbed one."""
    write_plans(world, undisturbed[1])
    return undisturbed[0]


def test_a_run_abandoned_after_any_number_of_steps_ends_like_an_undisturbed_one(world: World, calm: dict[str, Any]) -> None:
    """One, two, … steps by a controller each before it is dropped: every commit and every gap between two is a place to crash."""
    steps, controllers = 1, 0
    while True:
        controller = world.controller()
        controllers += 1
        done = [controller.step() for _ in range(steps)]
        if done[-1] is None:
            break
        steps += 1
        assert controllers < 50
    assert controllers >= 5
    assert outcome(controller, world.folder) == calm


@pytest.mark.parametrize("steps", [1, 5, 6])
def test_a_run_killed_again_and_again_at_the_same_distance_from_a_commit_still_gets_there(world: World, calm: dict[str, Any], steps: int) -> None:
    for _ in range(3):
        controller = world.controller()
        for _ in range(steps):
            controller.step()
    last = world.controller()
    world.play(last)
    assert outcome(last, world.folder) == calm


def with_faults(world: World, which: str, fail_at: int, when: Any) -> Controller:
    """A controller of which one storage dies at its n-th change."""
    parts = world.controller().parts
    url = str(world.folder)

    def faulty(address: str) -> FaultyStorage:
        return FaultyStorage(open_storage(address), fail_at, when)

    if which == "plans":
        parts.plans = PlanStore(faulty(url))
    elif which == "checkpoint":
        parts.checkpoints = CheckpointStore(faulty(checkpoint_url(url)))
    else:
        parts.publisher = Publisher(world.config, Registry(faulty(registry_url(url)), clock=world.clock), None)
    return Controller(parts)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("which", "calls"), [("plans", (0, 3)), ("checkpoint", (0, 1, 9, 19, 20, 21, 30, 41)), ("registry", (0, 3, 9, 14, 23))])
def test_a_crash_at_a_change_of_storage_loses_and_repeats_nothing(
    world: World, calm: dict[str, Any], which: str, calls: tuple[int, ...], when: str
) -> None:
    num_faults = 0
    for fail_at in calls:
        try:
            controller = with_faults(world, which, fail_at, when)
            controller.recover()
            for _ in range(4):
                controller.step()
        except StorageError:
            num_faults += 1
    assert num_faults >= 2
    last = world.controller()
    world.play(last)
    assert outcome(last, world.folder) == calm


class BrokenLog:
    """A log that is away at one of its reads, or at one of its writes."""

    def __init__(self, inner: MemoryLog, method: str, fail_at: int) -> None:
        self.inner = inner
        self.method = method
        self.fail_at = fail_at
        self.num_calls = 0

    def _count(self, method: str) -> None:
        if method == self.method:
            self.num_calls += 1
            if self.num_calls == self.fail_at:
                what = "Broker: nobody answers"
                raise BrokerUnavailable(what)

    def read_table(self, ranges: Sequence[OffsetRange]) -> pa.Table:
        self._count("read_table")
        return self.inner.read_table(ranges)

    def append(self, topic: str, records: Sequence[Record]) -> list[tuple[int, int]]:
        self._count("append")
        return self.inner.append(topic, records)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_a_step_whose_read_failed_is_done_again_by_its_own_plan(world: World, calm: dict[str, Any]) -> None:
    controller = world.controller(BrokenLog(world.log, "read_table", 3))
    with pytest.raises(BrokerUnavailable):
        world.play(controller)
    world.clock.advance(5.0)
    world.play(controller)
    assert outcome(controller, world.folder) == calm


def test_a_new_plan_whose_read_failed_stays_the_plan_even_when_the_log_has_grown(world: World, make_record: Callable[..., Record]) -> None:
    controller = world.controller(BrokenLog(world.log, "read_table", 1))
    with pytest.raises(BrokerUnavailable):
        controller.step()
    stored = PlanStore(open_storage(str(world.folder))).read(1)
    world.clock.advance(60.0)
    world.append([make_record("u1", "i1", 5000)])
    report = controller.step()
    assert report is not None
    assert report.plan.model_dump(mode="json") == stored


def test_a_controller_that_failed_in_the_middle_of_a_step_refuses_to_go_on(world: World, calm: dict[str, Any]) -> None:
    controller = world.controller()
    controller.parts.dead_letters = BrokenLog(world.log, "append", 2)
    with pytest.raises(BrokerUnavailable):
        world.play(controller)
    with pytest.raises(OperatorError, match="broke off in its middle"):
        controller.step()
    last = world.controller()
    world.play(last)
    assert outcome(last, world.folder) == calm


def test_a_stored_plan_is_executed_unchanged(world: World) -> None:
    first = world.controller()
    first.step()
    plans = PlanStore(open_storage(str(world.folder)))
    newest = plans.newest()
    assert newest is not None
    odd = {**newest[1], "batch": 2, "ranges": [{**part, "start": part["end"], "end": part["end"] + 3} for part in newest[1]["ranges"]], "seed": 77}
    plans.write({**odd, "publish": False}, 2)
    again = world.controller()
    reports = [again.step(), again.step()]
    assert reports[0] is not None
    assert reports[0].plan.model_dump(mode="json") == newest[1]
    assert reports[1] is not None
    assert reports[1].plan.model_dump(mode="json") == {**odd, "publish": False}
    assert reports[1].published is None


def test_finishing_executes_what_was_planned_before_it_commits(world: World, calm: dict[str, Any]) -> None:
    first = world.controller()
    for _ in range(3):
        first.step()
    again = world.controller()
    again.finish()
    assert outcome(again, world.folder) == calm


def test_plans_that_no_commit_needs_are_removed_and_the_others_stay(world: World) -> None:
    controller = world.controller()
    world.play(controller)
    kept = PlanStore(open_storage(str(world.folder))).batches()
    oldest = min(int(facts["batch"]) for facts in controller.parts.checkpoints.kept_facts())  # type: ignore[union-attr]
    assert kept == list(range(oldest + 1, controller.state.batch + 1))


class FailingOnce:
    """A refresher whose first refresh of a teacher fails a moment after it was started."""

    def __init__(self, inner: Refresher, teacher: str) -> None:
        self.inner = inner
        self.teacher = teacher
        self.reasons: dict[tuple[str, str], str] = {}

    def start(self, request: RefreshRequest) -> None:
        if request.teacher == self.teacher:
            self.teacher = ""
            self.reasons[request.teacher, request.version] = "its process is gone"
            return
        self.inner.start(request)

    def failed(self) -> dict[tuple[str, str], str]:
        reasons, self.reasons = self.reasons, {}
        return reasons

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.mark.parametrize("teacher", ["linear", "transformer"])
def test_a_refresh_that_fails_although_a_stored_plan_uses_its_version_is_made_again(world: World, calm: dict[str, Any], teacher: str) -> None:
    parts = world.controller().parts
    parts.refresher = FailingOnce(parts.refresher, teacher)
    controller = Controller(parts)
    controller.recover()
    with pytest.raises(OperatorError, match=f"uses its version, got {teacher} v"):
        world.play(controller)
    last = world.controller()
    world.play(last)
    assert outcome(last, world.folder) == calm


def test_a_refresh_that_fails_and_that_no_plan_uses_is_dropped_and_started_again(world: World) -> None:
    controller = world.controller()
    controller.parts.refresher = FailingOnce(controller.parts.refresher, "linear")
    reports = world.play(controller)
    assert [report.refreshes_failed for report in reports if report.refreshes_failed] == [{"linear": "its process is gone"}]
    assert "linear" in controller.state.teachers
    started = [report.plan.now_ms for report in reports if "linear" in report.refreshes_started]
    assert started[1] - started[0] >= 1000.0 * world.config.teachers.retry_after_s


def test_serving_is_not_taken_back_in_time_by_steps_that_are_executed_again(world: World, calm: dict[str, Any]) -> None:
    class Board:
        def __init__(self) -> None:
            self.versions: list[str] = []

        def publish(self, manifest: dict[str, Any], *_: Any) -> int:
            self.versions.append(manifest["version"])
            return len(self.versions)

    world.board = Board()
    first = world.controller()
    for _ in range(6):
        first.step()
    live = first.state.live
    again = world.controller()
    assert again.state.live is not None
    assert again.state.live < live
    world.play(again)
    assert world.board.versions == sorted(world.board.versions)
    assert outcome(again, world.folder) == calm


@pytest.mark.parametrize("num_lost", [1, 2])
def test_a_run_that_falls_back_finds_the_versions_that_it_goes_on_with_whatever_the_policy_gives_up(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path, caplog: pytest.LogCaptureFixture, num_lost: int
) -> None:
    world = make_world(mixed, folder=tmp_path / "state").change(**FEW_VERSIONS)
    controller = world.controller()
    reports = world.play(controller)
    expected = outcome(controller, world.folder)["digests"]
    write_plans(world, [report.plan for report in reports])
    for commit in sorted((world.folder / "checkpoint" / "commits").iterdir())[-num_lost:]:
        commit.write_bytes(b"")
    again = world.controller()
    assert again.state.batch < controller.state.batch
    world.play(again)
    assert "going on without" not in caplog.text
    assert outcome(again, world.folder)["digests"] == expected


def test_versions_that_the_newest_commit_goes_on_with_stay_while_the_next_one_is_handed_over_and_never_gets_there(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(saving, "LARGE_BYTES", 0)
    calm = make_world(mixed, folder=tmp_path / "calm").change(**FEW_VERSIONS)
    expected = calm.controller()
    plans = [report.plan for report in calm.play(expected)]
    world = make_world(mixed, folder=tmp_path / "state").change(**FEW_VERSIONS)
    write_plans(world, plans)
    num_died = 0
    while num_died < 50:
        controller = world.controller()
        if [controller.step() for _ in range(4)][-1] is None:
            break
        controller._saver.wait()
        doomed = world.deadly()
        with suppress(world.died):
            while doomed.step() is not None:
                pass
            doomed.finish()
        num_died += 1
    assert "going on without" not in caplog.text
    assert num_died > 3
    assert outcome(controller, world.folder)["digests"] == outcome(expected, calm.folder)["digests"]
