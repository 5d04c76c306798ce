"""What a driver does when the disk is full, the storage is away, a file is torn, or the clock steps back."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from streamrec.clock import ManualClock, SystemClock
from streamrec.config import parse_config
from streamrec.errors import Damaged, StorageError
from streamrec.log.base import Record
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.driver import Driver
from streamrec.pipeline.layout import checkpoint_url, registry_url
from streamrec.pipeline.plan import Plan
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.publisher import Publisher
from streamrec.pipeline.readable import newest_plan_ms
from streamrec.pipeline.survey import survey
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
    with pytest.raises(Damaged, match="Plan: that of batch 3"):
        new_driver(world)  # Not when its turn comes: it may give up those before it.
    assert not (world.folder / "lake").exists()
    assert CheckpointStore(open_storage(checkpoint_url(str(world.folder)))).load_newest() is None


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


YEAR_MS = 365 * 86_400_000


def test_a_clock_that_was_a_year_ahead_for_one_plan_spoils_nothing_after_it(
    make_world: Callable[..., World], make_record: Callable[..., Record], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world([make_record("u1", f"i{number}", number) for number in range(9)], folder=tmp_path)
    clock = world.clock = SteppingClock(world.clock.now_ms())
    controller = world.controller()
    clock.set_back_ms = -YEAR_MS
    ahead = {"event_id": "a", "user_id": "gone", "event_time": clock.now_ms()}
    events = [make_record("u1", "i1", 50, event_time=clock.now_ms()), Record(b"gone", json.dumps({"kind": "deletion", **ahead}).encode())]
    world.append([Record(event.key, event.value, partition=0) for event in events])
    assert controller.step() is not None
    clock.set_back_ms = 0
    honest = [make_record(f"u{number % 3}", f"i{number % 9}", 100 + number) for number in range(50)]
    still_ahead = make_record("u1", "i1", 300, event_time=clock.now_ms() + YEAR_MS // 2)
    world.append([*(Record(event.key, event.value, partition=0) for event in honest), still_ahead])
    before = dict(controller.state.counts)
    for _ in range(4):
        clock.advance(1.0)
        controller.step()
    since = {name: num - before[name] for name, num in controller.state.counts.items() if num > before[name]}
    assert since == {"received": 51, "applied": 50, "rejected": 1}
    assert caplog.text.count("plans come back to it") == 1
    assert max(controller.state.forget_since_ms.values()) <= clock.now_ms()
    assert controller.parts.lake.vacuum_at_ms <= clock.now_ms() + 24 * 3_600_000
    assert controller.state.planned_ms <= clock.now_ms()


@pytest.mark.parametrize("num_plans", [1, 2])
def test_nothing_has_a_second_effect_after_events_that_a_clock_ahead_let_in(
    make_world: Callable[..., World], make_record: Callable[..., Record], tmp_path: Path, num_plans: int
) -> None:
    settings = {"log": {"num_partitions": 1}, "lake": {"enabled": False}}
    records = [make_record("u1", f"i{number}", number) for number in range(9)]
    world = make_world(records, settings, folder=tmp_path)
    clock = world.clock = SteppingClock(world.clock.now_ms())
    controller = world.controller()
    assert controller.step() is not None
    clock.set_back_ms = -YEAR_MS
    for number in range(num_plans):
        world.append([make_record("u1", "i1", 50 + number, event_time=clock.now_ms())])
        assert controller.step() is not None
    clock.set_back_ms = 0
    world.append([*records, *(make_record("u2", f"i{number}", 100 + number) for number in range(9))])
    before = dict(controller.state.counts)
    assert controller.step() is not None
    since = {name: num - before[name] for name, num in controller.state.counts.items() if num > before[name]}
    # Ids that a second plan has forgotten by time stay late, and with them all that is right: `jobs.rebuild` helps.
    assert since == ({"received": 18, "applied": 9, "duplicate": 9} if num_plans == 1 else {"received": 18, "late": 18})


@pytest.mark.parametrize("commits", [False, True])
def test_a_restart_comes_back_to_the_clock_from_a_plan_that_was_a_year_ahead_and_is_executed_with_its_time(
    make_world: Callable[..., World], make_record: Callable[..., Record], tmp_path: Path, commits: bool
) -> None:
    world = make_world([make_record("u1", f"i{number}", number) for number in range(9)], {"lake": {"enabled": False}}, folder=tmp_path)
    clock = world.clock = SteppingClock(world.clock.now_ms())
    controller = world.controller()
    clock.set_back_ms = -YEAR_MS
    ahead_ms = clock.now_ms()
    assert controller.step().plan.now_ms == ahead_ms
    if commits:
        controller.finish()
    clock.set_back_ms = 0
    world.append([make_record("u2", f"i{number}", 100 + number) for number in range(5)])
    reports = world.play(world.controller())
    times = [report.plan.now_ms for report in reports]
    assert times[:-1] == [clock.now_ms() - 1000] if commits else times[0] == ahead_ms
    assert max(times[not commits :]) <= clock.now_ms()


@pytest.mark.parametrize("commits", [False, True])
def test_doctor_compares_the_newest_plan_with_the_clock_also_when_only_a_commit_knows_it(
    make_world: Callable[..., World], make_record: Callable[..., Record], tmp_path: Path, commits: bool
) -> None:
    assert newest_plan_ms(str(tmp_path)) is None
    world = make_world([make_record("u1", "i1", 1)], {"lake": {"enabled": False}}, folder=tmp_path)
    world.clock = ManualClock(SystemClock().now_ms() + YEAR_MS)
    controller = world.controller()
    assert controller.step() is not None
    if commits:
        controller.finish()
        assert PlanStore(open_storage(str(tmp_path))).batches() == []
    assert newest_plan_ms(str(tmp_path)) == world.clock.now_ms()
    config = parse_config({"state": str(tmp_path), "log": {"broker": "local"}})
    found = [finding for finding in survey(config, "local", 0.0) if "the newest plan's time: 365d ahead of ours" in finding.found]
    assert [finding.verdict for finding in found] == ["WARN"]


def test_what_a_clock_says_while_there_is_nothing_to_do_is_forgotten(world: World, make_record: Callable[..., Record]) -> None:
    clock = world.clock = SteppingClock(world.clock.now_ms())
    driver = new_driver(world)
    drive(world, driver)
    clock.set_back_ms = -3_600_000
    assert driver.step() is None
    clock.set_back_ms = 0
    world.append([make_record("u1", "i1", 1000, event_id="later")])
    report = driver.step()
    assert report is not None
    assert report.plan.now_ms == clock.now_ms()


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
