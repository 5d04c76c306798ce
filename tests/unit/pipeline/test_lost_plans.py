"""Take away a plan whose rows the lake has and no checkpoint covers: another plan of its number would bring other rows, which the lake leaves out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamrec.errors import Damaged
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
        with pytest.raises(Damaged, match=rf"{path}.*restore it from a copy; without one make the state anew with `python -m jobs\.rebuild`"):
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
