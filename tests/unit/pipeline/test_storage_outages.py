"""What a driver does when the disk is full, the storage is away, a file is torn, or the clock steps back."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from streamrec.clock import ManualClock
from streamrec.errors import Damaged, StorageError
from streamrec.log.base import Record
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.driver import Driver
from streamrec.pipeline.layout import checkpoint_url, registry_url
from streamrec.pipeline.plan import Plan
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.publisher import Publisher
from streamrec.registry.registry import Registry
from streamrec.storage import open_storage
from streamrec.testing.storage_faults import UnreachableStorage

World = Any


def outcome(controller: Controller) -> dict[str, Any]:
    return {"digests": {name: component.digest() for name, component in controller.components().items()}, "books": controller.books()}


@pytest.fixture(scope="module")
def undisturbed(make_world: Callable[..., World], mixed: list[Record], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Plan]]:
    calm = make_world(mixed, folder=tmp_path_factory.mktemp("calm"))
    controller = calm.controller()
    reports = calm.play(controller)
    return outcome(controller), [report.plan for report in reports]


@pytest.fixture
def calm(world: World, undisturbed: tuple[Any, list[Plan]]) -> Any:
    """The outcome of an undisturbed run, whose plans lie ready."""
    store = PlanStore(open_storage(str(world.folder)))
    for plan in undisturbed[1]:
        store.write(plan.model_dump(mode="json"), plan.batch)
    return undisturbed[0]


def new_driver(world: World, change: Callable[[Controller], Controller] = lambda controller: controller) -> Driver:
    return Driver(lambda: change(Controller(world.controller().parts)), world.clock.advance, lambda _: None)


def drive(world: World, driver: Driver) -> Controller:
    """Step until nothing is left to do, one second a step, then commit."""
    while driver.step() is not None:
        world.clock.advance(1.0)
    driver.controller.finish()
    return driver.controller


@pytest.mark.parametrize("first", [0, 14, 61, 98, 143])
def test_a_disk_that_is_full_from_any_moment_on_ends_the_driver_and_loses_nothing(
    world: World, calm: Any, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    real, calls = os.fsync, count()

    def fill_up(descriptor: Any) -> None:
        if next(calls) >= first:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fill_up)
    with pytest.raises(StorageError, match=r"No space left.*free space there"):
        drive(world, new_driver(world))
    monkeypatch.setattr(os, "fsync", real)
    assert outcome(drive(world, new_driver(world))) == calm


@pytest.mark.parametrize("from_s", [0.0, 3.0, 5.0])
def test_a_storage_that_is_away_for_a_minute_ends_each_driver_with_its_name_until_one_goes_on(world: World, calm: Any, from_s: float) -> None:
    """A supervisor starts the job again every ten seconds."""

    def cut_off(controller: Controller) -> Controller:
        parts, url, clock = controller.parts, str(world.folder), world.clock

        def away(address: str) -> UnreachableStorage:
            return UnreachableStorage(open_storage(address), clock, from_s, from_s + 60.0)

        parts.plans = PlanStore(away(url))
        parts.checkpoints = CheckpointStore(away(checkpoint_url(url)))
        parts.publisher = Publisher(world.config, Registry(away(registry_url(url)), clock=clock), None)
        return Controller(parts)

    messages: list[str] = []
    while True:
        try:
            last = drive(world, new_driver(world, cut_off))
            break
        except StorageError as error:
            messages.append(str(error))
            world.clock.advance(10.0)
    assert len(messages) == 6
    assert all("nobody answers" in message for message in messages)
    assert outcome(last) == calm


def newest_blobs(world: World) -> Iterator[Path]:
    """Yield the files of the newest commit that no older one has."""
    root = Path(checkpoint_url(str(world.folder)))
    newest, *older = sorted((root / "commits").iterdir(), reverse=True)
    for blob in sorted((root / "blobs").iterdir()):
        if blob.name in newest.read_text() and not any(blob.name in commit.read_text() for commit in older):
            yield blob


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("what", ["commit", "blob"])
def test_a_torn_commit_is_left_aside_and_the_plans_since_the_one_before_are_executed_again(
    world: World, calm: Any, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    controller = world.controller()
    reports = [controller.step() for _ in range(7)]
    assert sum(report.committed for report in reports if report is not None) >= 2
    root = Path(checkpoint_url(str(world.folder)))
    tear(max((root / "commits").iterdir()) if what == "commit" else next(newest_blobs(world)))
    driver = new_driver(world)
    assert "fell back to commit" in caplog.text
    assert outcome(drive(world, driver)) == calm


def test_a_torn_plan_is_named_and_executed_by_nobody(world: World, calm: Any) -> None:
    del calm
    tear(world.folder / "plans" / "00000003.json")
    driver = new_driver(world)
    with pytest.raises(Damaged, match="Plan: that of batch 3"):
        drive(world, driver)
    assert driver.controller.state.batch == 2


class SteppingClock(ManualClock):
    """A clock whose time of day can be set back, as by a time server; its monotonic time goes on."""

    set_back_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() - self.set_back_ms


@pytest.mark.parametrize("restarts", [False, True])
def test_a_clock_that_steps_back_an_hour_rejects_and_loses_no_event_also_when_the_driver_restarts(
    make_world: Callable[..., World], mixed: list[Record], make_record: Callable[..., Record], tmp_path: Path, restarts: bool
) -> None:
    world = make_world(mixed, {"events": {"future_tolerance_s": 60.0}, "lake": {"enabled": False}}, folder=tmp_path)
    clock = world.clock = SteppingClock(world.clock.now_ms())
    driver = new_driver(world)
    drive(world, driver)
    books, newest_ms = driver.controller.books(), PlanStore(open_storage(str(tmp_path))).newest()[1]["now_ms"]
    assert books["pending"] == 0
    clock.set_back_ms = 3_600_000
    world.append([make_record(f"u{number % 7}", f"i{number % 9}", 480 + number, event_id=f"back{number}") for number in range(130)])
    if restarts:
        driver = new_driver(world)
    reports = []
    while (report := driver.step()) is not None:
        reports.append(report)
        clock.advance(1.0)
    after = driver.controller.books()
    assert after["applied"] - books["applied"] == after["received"] - books["received"] == 130
    assert after["rejected"] == books["rejected"]
    times = [newest_ms, *(report.plan.now_ms for report in reports)]
    assert times == sorted(times)
    assert any(report.committed for report in reports)  # Intervals follow the monotonic clock.
    assert any(report.published for report in reports)


def test_a_restart_after_the_first_commit_which_no_plan_outlives_keeps_the_time(
    make_world: Callable[..., World], make_record: Callable[..., Record], tmp_path: Path
) -> None:
    world = make_world([make_record("u1", f"i{number}", number) for number in range(9)], {"lake": {"enabled": False}}, folder=tmp_path)
    clock = world.clock = SteppingClock(world.clock.now_ms())
    controller = world.controller()
    assert controller.step() is not None
    controller.finish()
    assert PlanStore(open_storage(str(tmp_path))).batches() == []
    planned_ms = controller.state.planned_ms
    clock.set_back_ms = 25 * 3_600_000  # More than `events.future_tolerance_s`.
    world.append([make_record("u2", f"i{number}", 100 + number) for number in range(5)])
    restarted = world.controller()
    report = restarted.step()
    assert report is not None
    assert report.plan.now_ms == planned_ms
    assert (restarted.state.counts["applied"], restarted.state.counts["rejected"]) == (14, 0)


def test_a_clock_that_has_caught_up_counts_again(world: World, make_record: Callable[..., Record], caplog: pytest.LogCaptureFixture) -> None:
    clock = world.clock = SteppingClock(world.clock.now_ms())
    drive(world, new_driver(world))
    clock.set_back_ms = 3_600_000
    driver = new_driver(world)
    for wait_s, is_held in ((0.0, True), (600.0, True), (3000.0, False)):
        clock.advance(wait_s)
        world.append([make_record("u1", "i1", 1000, event_id=f"w{clock.monotonic_s()}")])
        report = driver.step()
        assert report is not None
        assert report.plan.now_ms >= clock.now_ms()
        assert (report.plan.now_ms > clock.now_ms()) == is_held
    assert caplog.text.count("the clock has stepped back") == 1


def test_a_clock_that_steps_back_rejects_no_event_and_stops_neither_commits_nor_publications(
    world: World, make_record: Callable[..., Record]
) -> None:
    clock = world.clock = SteppingClock(world.clock.now_ms())
    controller = world.controller()
    world.play(controller)
    before, batch = dict(controller.state.counts), controller.state.batch
    clock.set_back_ms = 2 * 86_400_000
    recent = [make_record(f"u{number % 7}", f"i{number % 9}", 600 + number, event_id=f"back{number}") for number in range(130)]
    world.append(recent)
    clock.advance(60.0)
    reports = world.play(controller)
    assert controller.state.counts["applied"] - before["applied"] == len(recent)
    assert controller.state.counts["rejected"] == before["rejected"]
    assert [report.plan.batch for report in reports] == list(range(batch + 1, batch + 1 + len(reports)))
    assert any(report.committed for report in reports)
    assert any(report.published for report in reports)
