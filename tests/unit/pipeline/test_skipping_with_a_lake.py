"""Lose records of the log that the lake holds and no checkpoint covers: after going on, both agree, and what the lake had has its effect once."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from streamrec.clock import ManualClock
from streamrec.errors import OperatorError
from streamrec.log.base import Record, TableReader
from streamrec.log.lake import EventLake
from streamrec.log.lake_table import lake_rows
from streamrec.log.memory import MemoryLog
from streamrec.log.offsets import OffsetRange
from streamrec.pipeline.bootstrap import bootstrap
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.lake_check import LakeReport, check_lake
from streamrec.pipeline.layout import checkpoint_url
from streamrec.pipeline.plan import version_name
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.rebuild import Rebuild
from streamrec.pipeline.skipping import skip_lost
from streamrec.pipeline.wiring import build_local
from streamrec.storage import open_storage
from streamrec.testing.failpoints import Failpoint, observed

World = Any
FAST: dict[str, dict[str, Any]] = {"teachers": {"enabled": []}, "student": {"control": False}}


def check(world: World) -> LakeReport:
    return check_lake(world.controller().parts.lake.lake, CheckpointStore(open_storage(checkpoint_url(str(world.folder)))))


def events(world: World) -> set[tuple[int, int]]:
    """Partition and offset of the lake's rows."""
    lake = world.controller().parts.lake.lake
    return {(partition, offset) for partition in range(2) for offset in lake.rows(partition, 0, 10**9)["offset"].to_pylist()}


def agrees(world: World) -> LakeReport:
    report = check(world)
    assert report.differences == []
    assert report.rows_ahead == 0
    books = world.controller().books()
    assert books["received"] == sum(num for name, num in books.items() if name != "received")
    return report


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "deletions"])
def first_ahead(
    request: pytest.FixtureRequest, make_world: Callable[..., World], mixed: list[Record], tmp_path_factory: pytest.TempPathFactory
) -> World:
    records = mixed if request.param else [one for one in mixed if b'"deletion"' not in one.value]
    world = make_world(records, FAST, folder=tmp_path_factory.mktemp("ahead") / "state")
    controller = world.controller()
    while not (report := controller.step()) or not report.committed:
        world.clock.advance(1.0)
    with pytest.raises(world.died):
        world.play(world.deadly())
    assert check(world).rows_ahead
    return world


@pytest.fixture
def ahead(first_ahead: World, tmp_path: Path) -> World:
    """A world whose lake is ahead of its checkpoint by batches that are planned; with deletions among them, or without any."""
    return first_ahead.copy(tmp_path / "state")


def drop(world: World, part: float) -> dict[int, int]:
    """Drop so much of what no commit has read; return where the log begins."""
    topic, offsets = world.config.log.events_topic, world.controller().state.offsets
    starts = {partition: offsets[partition] + int(part * (end - offsets[partition])) for partition, end in world.log.latest(topic).items()}
    world.log.drop_before(topic, starts)
    return starts


@pytest.mark.parametrize("part", [0.1, 0.4, 1.0])
def test_what_the_lake_holds_of_plans_whose_records_are_gone_is_applied_from_there_and_is_not_lost(ahead: World, part: float) -> None:
    before, offsets, held = ahead.controller().books(), ahead.controller().state.offsets, events(ahead)
    starts = drop(ahead, part)
    kept = {(partition, offset) for partition, offset in held if offset < starts[partition]}
    num_found = sum(offset >= offsets[partition] for partition, offset in kept)
    said: list[str] = []
    assert skip_lost(again := ahead.controller(), said.append) is not None
    after = agrees(ahead)
    assert events(ahead) == kept
    assert after.applied == before["applied"] + num_found
    assert again.books().get("lost", 0) == sum(start - offsets[partition] for partition, start in starts.items()) - num_found
    assert sum(int(line.split("; ")[1].split()[0]) for line in said if "come from the lake" in line) == num_found
    ahead.play(ahead.controller())
    agrees(ahead)
    assert held - events(ahead) == set()


def test_a_deletion_of_a_step_that_is_given_up_has_no_receipt_and_is_named(ahead: World, request: pytest.FixtureRequest) -> None:
    receipts, batch = open_storage(str(ahead.folder)), ahead.controller().state.batch
    before = {key: json.loads(receipts.read(key)) for key in receipts.list("deletions")}
    given_up = {receipt["event_id"] for receipt in before.values() if receipt["batch"] > batch}
    assert bool(given_up) == ("deletions" in request.node.name)
    drop(ahead, 1.0)
    said: list[str] = []
    skip_lost(ahead.controller(), said.append)
    assert {line.split()[4] for line in said if "withdrawn" in line} == given_up
    left = {json.loads(receipts.read(key))["event_id"] for key in receipts.list("deletions")}
    assert left == {receipt["event_id"] for receipt in before.values()} - given_up


def test_a_live_version_that_learned_from_what_is_lost_is_named(ahead: World) -> None:
    batch, live = (controller := ahead.controller()).state.batch, list(controller.live().values())
    assert live
    assert live >= [version_name(batch + 1)]  # It was promoted by a step that no commit covers.
    drop(ahead, 1.0)
    said: list[str] = []
    skip_lost(again := ahead.controller(), said.append)
    assert [line.split()[0] for line in said if "step that is given up, also from what is lost" in line] == live == list(again.live().values())
    assert not [line for line in said if "is live until" in line and version_name(batch) in line]


def test_a_deletion_that_the_log_still_has_takes_what_came_from_the_lake_too(ahead: World) -> None:
    drop(ahead, 1.0)
    skip_lost(ahead.controller(), lambda _: None)
    controller = ahead.controller()
    lake: EventLake = controller.parts.lake.lake
    user = lake.between(controller.state.batch - 1, 10**9).filter(pc.field("namespace") == "default")["user_id"].drop_null()[0].as_py()
    asked = {"kind": "deletion", "event_id": "gone", "user_id": user, "event_time": ahead.clock.now_ms()}
    ahead.append([Record(user.encode(), json.dumps(asked).encode())])
    ahead.play(controller)
    assert user not in lake.between(0, 10**9).filter(pc.field("namespace") == "default")["user_id"].to_pylist()
    agrees(ahead)


@pytest.mark.parametrize("after", ["the append", "the rows are taken back"])
def test_a_run_that_dies_while_it_goes_on_loses_no_row_and_the_next_one_goes_on(ahead: World, after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    starts, held = drop(ahead, 0.5), events(ahead)
    kept = {(partition, offset) for partition, offset in held if offset < starts[partition]}
    if after == "the append":
        monkeypatch.setattr(EventLake, "take_back", lambda *_: (_ for _ in ()).throw(ahead.died))
    for _ in range(2):
        with pytest.raises(ahead.died):
            skip_lost(ahead.deadly(), lambda _: None)
        assert events(ahead) >= kept
    monkeypatch.undo()
    assert skip_lost(ahead.controller(), lambda _: None) is not None
    agrees(ahead)
    assert events(ahead) == kept
    ahead.play(ahead.controller())
    agrees(ahead)


def test_what_the_lake_holds_of_a_topic_that_was_made_anew_is_applied_before_the_new_one(ahead: World, mixed: list[Record]) -> None:
    before, held = check(ahead), events(ahead)
    ahead.log = MemoryLog()
    ahead.log.ensure_topic(ahead.config.log.events_topic, 2)
    ahead.log.ensure_topic(ahead.config.log.dead_letter_topic, 1)
    assert skip_lost(ahead.controller(), lambda _: None) is not None
    report = agrees(ahead)
    assert events(ahead) == held
    assert report.applied == before.applied + before.rows_ahead
    ahead.append(mixed[250:])
    ahead.play(ahead.controller())
    agrees(ahead)


def test_a_lake_that_was_begun_by_the_steps_that_are_given_up_is_counted_from_there(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path
) -> None:
    world = make_world(mixed[:100], {**FAST, "lake": {"enabled": False}}, folder=tmp_path / "state")
    world.play(world.controller())
    before = world.controller().books()["applied"]
    world.config = make_world([], FAST, folder=tmp_path / "state").config
    world.append(mixed[100:])
    with pytest.raises(world.died):
        world.play(world.deadly())
    drop(world, 0.8)
    assert skip_lost(world.controller(), lambda _: None) is not None
    report = agrees(world)
    assert report.left_out["earlier"] + report.removed == before
    assert report.rows == report.applied - before > 0


def test_a_lake_that_holds_events_of_one_topic_twice_can_be_rebuilt_and_they_count_once(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path
) -> None:
    """A streamrec before this one left such lakes behind, when it went on as above."""
    world = make_world(mixed, FAST, folder=tmp_path / "state")
    bootstrap(controller := world.controller(), world.log.latest(world.config.log.events_topic))
    applied, lake = controller.books()["applied"], controller.parts.lake.lake
    num_rows = check(world).rows
    for batch in (controller.state.batch + 1, controller.state.batch + 2):
        lake.append(lake_rows(lake.rows(0, 0, 50), world.config.log.events_topic, batch), batch)

    def build(lineage_url: str, reader: TableReader, *, publishes: bool) -> Controller:
        made = build_local(world.config, reader, lineage_url, world.clock, dead_letters=world.log)
        if not publishes:
            made.parts.publisher = None
        return made

    options = {"dead_letters": world.log, "on_step": lambda _: None, "say": lambda _: None}
    made = Rebuild(world.config, str(world.folder), world.log, build, **options).run(anew=True)
    assert made is not None
    assert made.books()["applied"] == num_rows <= applied
    assert made.parts.lake.lake.info()["rows"] == num_rows


def copy_of(log: MemoryLog, world: World) -> MemoryLog:
    topic, copy = world.config.log.events_topic, MemoryLog()
    rows = log.read_table([OffsetRange(topic, partition, 0, end) for partition, end in log.latest(topic).items()]).to_pylist()
    copy.ensure_topic(topic, 2)
    copy.ensure_topic(world.config.log.dead_letter_topic, 1)
    copy.append(topic, [Record(row["key"], row["value"], partition=row["partition"]) for row in rows])
    return copy


def skip_and_die(world: World, failpoint: Failpoint) -> int:
    """Die in the step that skips, where it passes a failpoint; return its batch."""
    planned = PlanStore(open_storage(str(world.folder))).batches()[-1]

    def reach(passed: Failpoint, batch: int) -> None:
        if passed is failpoint and batch > planned:
            raise world.died

    skipping = Controller(observed(world.controller().parts, str(world.folder), None, reach))
    skipping.recover()
    with pytest.raises(world.died):
        skip_lost(skipping, lambda _: None)
    return planned + 1


IN_A_SKIP = (Failpoint.PLAN_DURABLE, Failpoint.LAKE_APPENDED, Failpoint.BEFORE_COMMIT, Failpoint.COMMIT_WRITTEN, Failpoint.HEAD_MOVED)


@pytest.mark.matrix(3)
@pytest.mark.parametrize("failpoint", IN_A_SKIP)
@pytest.mark.parametrize("comes_back", [True, False])
def test_once_a_skip_is_planned_the_plans_that_it_gives_up_are_never_executed_wherever_it_died(
    ahead: World, tmp_path: Path, failpoint: Failpoint, comes_back: bool
) -> None:
    whole, held = ahead.log, events(ahead)
    ahead.log = copy_of(whole, ahead)
    drop(ahead, 0.5)
    calm = dataclasses.replace(ahead, folder=tmp_path / "calm", clock=ManualClock(ahead.clock.now_ms()))
    shutil.copytree(ahead.folder, calm.folder)
    undisturbed = calm.controller()
    assert skip_lost(undisturbed, lambda _: None) is not None
    calm.clock.advance(1.0 if failpoint is not Failpoint.HEAD_MOVED else 0.0)  # As `play` does after a step.
    calm.play(undisturbed)

    skip = skip_and_die(ahead, failpoint)
    ahead.log = whole if comes_back else ahead.log
    reports = ahead.play(again := ahead.controller())  # A plain start: nobody says that anything is to be skipped.
    assert [report.plan.batch for report in reports[:1]] == [skip + (failpoint is Failpoint.HEAD_MOVED)]
    agrees(ahead)
    books = again.books()
    assert books == undisturbed.books()
    assert books["received"] == sum(whole.latest(ahead.config.log.events_topic).values())
    assert books["lost"] > 0
    assert events(ahead) == events(calm) >= held
    names = set(again.components()) - {"lake", "other_lakes"}  # Of lakes, counts and times of commits, which a restart moves.
    assert {name: again.components()[name].digest() for name in names} == {name: undisturbed.components()[name].digest() for name in names}


def test_a_skip_that_died_before_it_was_planned_has_given_up_nothing(ahead: World, monkeypatch: pytest.MonkeyPatch) -> None:
    state = open_storage(str(ahead.folder))
    whole, held, planned, receipts = ahead.log, events(ahead), PlanStore(state).batches(), state.list("deletions")
    ahead.log = copy_of(whole, ahead)
    drop(ahead, 0.5)
    skipping = ahead.controller()
    write = PlanStore.write
    monkeypatch.setattr(PlanStore, "write", lambda plans, plan, batch: write(plans, plan, batch) if batch in planned else dies(ahead))
    with pytest.raises(ahead.died):
        skip_lost(skipping, lambda _: None)
    monkeypatch.undo()
    ahead.log = whole
    ahead.play(again := ahead.controller())
    agrees(ahead)
    assert "lost" not in again.books()
    assert again.books()["received"] == sum(whole.latest(ahead.config.log.events_topic).values())
    assert events(ahead) >= held
    assert set(state.list("deletions")) >= set(receipts)


def dies(world: World) -> dict[str, Any]:
    raise world.died


def test_a_skip_that_was_planned_stands_when_more_is_lost_meanwhile_and_when_it_is_asked_for_again(ahead: World) -> None:
    topic = ahead.config.log.events_topic
    total = sum(ahead.log.latest(topic).values())
    drop(ahead, 0.3)
    first = skip_and_die(ahead, Failpoint.LAKE_APPENDED)
    drop(ahead, 1.0)
    said: list[str] = []
    report = skip_lost(again := ahead.controller(), said.append)
    assert report is not None
    assert (report.plan.batch, report.plan.after) == (first + 1, first)
    assert len(said) >= 2
    agrees(ahead)
    assert again.books()["received"] == total
    second = skip_lost(again, said.append)
    assert second is None


def test_plans_that_were_given_up_may_be_lost_once_the_skip_is_planned(ahead: World) -> None:
    drop(ahead, 0.5)
    skip = skip_and_die(ahead, Failpoint.PLAN_DURABLE)
    batch = ahead.controller().state.batch
    for number in range(batch + 1, skip):
        (ahead.folder / "plans" / f"{number:08d}.json").unlink()
    report = skip_lost(ahead.controller(), lambda _: None)
    assert report is not None
    assert report.plan.batch == skip
    agrees(ahead)


def test_a_plan_that_a_fenced_driver_made_meanwhile_under_the_number_of_the_skip_is_not_taken_for_it(
    ahead: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(ahead, 1.0)
    batches = PlanStore.batches
    newest = batches(PlanStore(open_storage(str(ahead.folder))))[-1]
    skipping = ahead.controller()
    monkeypatch.setattr(PlanStore, "batches", lambda plans: [number for number in batches(plans) if number != newest])
    with pytest.raises(OperatorError, match=rf"batch {newest} was made by another driver meanwhile.*follows batch {newest - 1}"):
        skip_lost(skipping, lambda _: None)
    monkeypatch.undo()
    report = skip_lost(ahead.controller(), lambda _: None)
    assert report is not None
    assert report.plan.batch == newest + 1
    agrees(ahead)
