"""Take away a plan whose rows the lake has and no checkpoint covers: another plan of its number would bring other rows, which the lake leaves out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamrec.errors import Damaged, RetentionGap
from streamrec.log.base import Record, TableReader
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.lake_check import LakeReport, check_lake
from streamrec.pipeline.layout import checkpoint_url
from streamrec.pipeline.lineage import current_url
from streamrec.pipeline.rebuild import Rebuild
from streamrec.pipeline.skipping import skip_lost
from streamrec.pipeline.wiring import build_local
from streamrec.storage import open_storage

World = Any
FAST: dict[str, dict[str, Any]] = {"teachers": {"enabled": []}, "student": {"control": False}}


def at(world: World, reader: TableReader | None = None, lineage_url: str = "") -> Controller:
    lineage_url = lineage_url or current_url(str(world.folder))
    return build_local(world.config, reader or world.log, lineage_url, world.clock, dead_letters=world.log)


def check(controller: Controller, world: World) -> LakeReport:
    return check_lake(controller.parts.lake.lake, CheckpointStore(open_storage(checkpoint_url(current_url(str(world.folder))))))


def plans_ahead(world: World) -> list[Path]:
    """The plans of batches that the lake has and the checkpoint does not cover."""
    report = check(at(world), world)
    paths = [world.folder / "plans" / f"{batch:08d}.json" for batch in range(report.batch + 1, report.last_batch + 1)]
    assert len(paths) > 1
    assert all(path.exists() for path in paths)
    return paths


@pytest.fixture
def ahead(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> World:
    """A world whose lake is ahead of its checkpoint by batches that are planned."""
    world = make_world(mixed, FAST, folder=tmp_path / "state")
    controller = world.controller()
    while not (report := controller.step()) or not report.committed:
        world.clock.advance(1.0)
    with pytest.raises(world.died):
        world.play(world.deadly())
    return world


def lose(path: Path) -> Path:
    return path.rename(path.parent.parent / path.name)


@pytest.mark.parametrize("place", [0, -1])
def test_a_lost_plan_of_a_batch_that_the_lake_has_is_named_and_nothing_is_executed_until_it_is_back(ahead: World, place: int) -> None:
    path = plans_ahead(ahead)[place]
    copy = lose(path)
    before = {file for file in ahead.folder.rglob("*") if file.is_file()}
    for _ in range(2):
        with pytest.raises(Damaged, match=rf"{path}.*restore it from a copy; without one make the state anew with `python -m jobs\.rebuild --anew`"):
            at(ahead).recover()
    assert {file for file in ahead.folder.rglob("*") if file.is_file()} == before
    copy.rename(path)
    controller = ahead.controller()
    ahead.play(controller)
    report = check(controller, ahead)
    assert (report.differences, report.rows_ahead) == ([], 0)


def test_a_lost_plan_is_also_named_before_the_first_commit(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> None:
    world = make_world(mixed, {**FAST, "lake": {"max_buffer_bytes": 1}}, folder=tmp_path / "state")
    world.controller().step()
    lose(path := world.folder / "plans" / "00000001.json")
    with pytest.raises(Damaged, match=str(path)):
        world.controller()


def test_without_a_copy_of_the_plan_a_rebuild_makes_the_state_anew_with_every_row(ahead: World) -> None:
    lose(plans_ahead(ahead)[0])

    def build(lineage_url: str, reader: TableReader, *, publishes: bool) -> Controller:
        controller = at(ahead, reader, lineage_url)
        if not publishes:
            controller.parts.publisher = None
        return controller

    made = Rebuild(ahead.config, str(ahead.folder), ahead.log, build, dead_letters=ahead.log, on_step=lambda _: None, say=lambda _: None).run()
    assert made is not None
    going_on = at(ahead)
    going_on.recover()
    ahead.play(going_on)
    report = check(going_on, ahead)
    assert report.differences == []
    assert going_on.lag() == 0
    assert report.applied == report.rows + report.removed + sum(report.left_out.values())


def rebuild(world: World, said: list[str], *, dies: bool = False, **options: bool) -> Controller | None:
    def on_step(_: object) -> None:
        if dies:
            raise world.died

    return world.rebuild(on_step=on_step, say=said.append).run(**options)


@pytest.mark.parametrize("part", [0.4, 1.0])
@pytest.mark.parametrize("begun", [False, True])
def test_where_the_log_has_lost_records_too_a_rebuild_that_is_told_so_takes_the_lakes_rows_and_books_the_others(
    ahead: World, part: float, begun: bool
) -> None:
    offsets = ahead.controller().state.offsets
    lose(plans_ahead(ahead)[0])
    if begun:  # It has learned nothing of the log when that loses its records.
        with pytest.raises(ahead.died):
            rebuild(ahead, [], dies=True)
    topic, ends = ahead.config.log.events_topic, ahead.log.latest(ahead.config.log.events_topic)
    starts = {partition: offset + int(part * (ends[partition] - offset)) for partition, offset in offsets.items()}
    ahead.log.drop_before(topic, starts)
    lake = at(ahead).parts.lake.lake
    kept = {(p, offset) for p in offsets for offset in lake.rows(p, 0, starts[p])["offset"].to_pylist()}
    found = sum(offset >= offsets[p] for p, offset in kept)
    live, receipts = ahead.registry().live(), open_storage(str(ahead.folder)).list("deletions")

    said: list[str] = []
    with pytest.raises(RetentionGap, match=r"begins at .* too late.*bring the records back.*jobs\.rebuild --" + ("anew" if begun else "skip-lost")):
        rebuild(ahead, said)
    assert (ahead.registry().live(), open_storage(str(ahead.folder)).list("deletions")) == (live, receipts)

    made = rebuild(ahead, said, skip_lost=True)
    assert made is not None
    going_on = at(ahead)
    going_on.recover()
    ahead.play(going_on)
    report, books = check(going_on, ahead), going_on.books()
    assert report.differences == []
    num_gone = sum(starts[partition] - offset for partition, offset in offsets.items())
    assert books["lost"] == num_gone - found
    assert sum(f"{starts[p]} instead of {offset}" in line for line in said for p, offset in offsets.items()) == len(offsets)
    assert books["received"] == sum(num for name, num in books.items() if name != "received")
    lake = going_on.parts.lake.lake
    assert {(p, offset) for p in offsets for offset in lake.rows(p, 0, starts[p])["offset"].to_pylist()} == kept
    assert going_on.state.offsets == ends


def test_deletions_that_no_commit_covers_are_named_where_a_rebuild_skips_what_is_lost(ahead: World) -> None:
    old, batch = open_storage(str(ahead.folder)), ahead.controller().state.batch
    given_up = {one["event_id"] for one in map(json.loads, map(old.read, old.list("deletions"))) if one["batch"] > batch}
    assert given_up
    lose(plans_ahead(ahead)[0])
    topic = ahead.config.log.events_topic
    ahead.log.drop_before(topic, ahead.log.latest(topic))
    said: list[str] = []
    rebuild(ahead, said, skip_lost=True)
    assert {line.split()[4] for line in said if "withdrawn" in line} == given_up
    assert not {json.loads(old.read(key))["event_id"] for key in old.list("deletions")} & given_up


def test_a_rebuild_that_is_told_to_skip_goes_on_with_what_was_begun_where_nothing_is_lost(ahead: World) -> None:
    lose(plans_ahead(ahead)[0])
    with pytest.raises(ahead.died):
        rebuild(ahead, [], dies=True)
    said: list[str] = []
    made = rebuild(ahead, said, skip_lost=True)
    assert made is not None
    assert "lost" not in made.books()
    assert "going on with lineages/0002, which an earlier run began" in said


def test_a_lost_plan_of_a_lineage_that_was_rebuilt_has_the_same_remedy(ahead: World, make_record: Callable[..., Record]) -> None:
    assert rebuild(ahead, []) is not None
    going_on = at(ahead)
    going_on.recover()
    ahead.append([make_record(f"u{number % 7}", f"i{number % 9}", 1000 + number) for number in range(200)])
    for _ in range(2):
        going_on.step()
    lost = lose(Path(current_url(str(ahead.folder))) / "plans" / f"{going_on.state.batch - 1:08d}.json")
    assert lost.exists()
    with pytest.raises(Damaged, match=r"jobs\.rebuild --anew"):
        at(ahead).recover()
    said: list[str] = []
    assert rebuild(ahead, said, anew=True) is not None
    again = at(ahead)
    again.recover()
    ahead.play(again)
    assert again.lag() == 0


def test_plans_that_no_row_needs_any_more_may_be_gone(ahead: World) -> None:
    controller = ahead.controller()
    ahead.play(controller)
    for path in (ahead.folder / "plans").iterdir():
        path.unlink()
    again = ahead.controller()
    assert again.state.batch == controller.state.batch
    assert check(again, ahead).differences == []


def test_a_lost_plan_that_the_lake_knows_nothing_of_is_made_anew(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> None:
    world = make_world(mixed, FAST, folder=tmp_path / "state")
    world.controller().step()  # Neither lake nor checkpoint has committed.
    (world.folder / "plans" / "00000001.json").unlink()
    controller = world.controller()
    world.play(controller)
    assert check(controller, world).differences == []


def test_a_lost_plan_before_one_that_is_there_is_named(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> None:
    world = make_world(mixed, FAST, folder=tmp_path / "state")
    controller = world.controller()
    for _ in range(3):
        controller.step()
    lose(path := world.folder / "plans" / "00000002.json")
    with pytest.raises(Damaged, match=rf"{path}, got the plan of batch 3, the state at batch 0, 1 of the plans between missing"):
        world.controller()


def test_numbers_that_skipping_left_out_are_no_lost_plans(ahead: World) -> None:
    topic = ahead.config.log.events_topic
    given_up = plans_ahead(ahead)
    ahead.log.drop_before(topic, ahead.log.latest(topic))
    again = ahead.controller()
    report = skip_lost(again, lambda _: None)
    assert report is not None
    assert report.plan.batch >= again.parts.lake.lake.last_batch() > int(given_up[-1].stem)
    assert ahead.controller().state.batch == report.plan.batch
    assert (check(again, ahead).differences, check(again, ahead).rows_ahead) == ([], 0)
