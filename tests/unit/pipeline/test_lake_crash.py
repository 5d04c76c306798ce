"""Break the stream off around the lake's commits, and compare lake and checkpoint once the plans have been executed again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from streamrec.errors import Damaged, StorageError
from streamrec.log.base import Record
from streamrec.log.lake import EventLake
from streamrec.pipeline.bootstrap import bootstrap
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.lake_check import LakeReport, check_lake
from streamrec.pipeline.layout import checkpoint_url
from streamrec.storage import open_storage
from streamrec.testing.storage_faults import FaultyStorage

World = Any
Row = tuple[Any, ...]
FAST: dict[str, dict[str, Any]] = {"teachers": {"enabled": []}, "student": {"control": False}}
Outcome = tuple[list[Row], str, dict[str, int]]


class FaultyLake(EventLake):
    """A table whose n-th append fails, before or after it had its effect, as if the process had died there."""

    def __init__(self, inner: EventLake, fail_at: int, when: Literal["before", "after"]) -> None:
        super().__init__(inner.address, lambda: inner.app.removeprefix("streamrec/"))
        self.left, self.when = fail_at, when

    def append(self, events: pa.Table, batch: int) -> int:
        self.left -= 1
        what = f"Lake: could not append to the table at {self.address} (a fault was injected)"
        if self.left == 0 and self.when == "before":
            raise StorageError(what)
        num = super().append(events, batch)
        if self.left == 0:
            raise StorageError(what)
        return num


def rows_of(folder: Path) -> list[Row]:
    """Every row of the lake, by place."""
    table = DeltaTable(folder / "lake").to_pyarrow_table()
    return sorted(
        tuple(row[name] for name in ("partition", "offset", "batch", "kind", "namespace", "event_id", "user_id")) for row in table.to_pylist()
    )


def outcome(controller: Controller, folder: Path) -> Outcome:
    return rows_of(folder), controller.components()["lake"].digest(), controller.books()


def check(world: World) -> LakeReport:
    return check_lake(world.controller().parts.lake.lake, CheckpointStore(open_storage(checkpoint_url(str(world.folder)))))


@pytest.fixture(scope="module", params=["one commit an interval", "a small buffer"])
def settings(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    return {**FAST, "lake": {"max_buffer_bytes": 9000} if request.param == "a small buffer" else {}}


@pytest.fixture
def disturbed(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path, settings: dict[str, dict[str, Any]]) -> World:
    return make_world(mixed, settings, folder=tmp_path / "state")


@pytest.fixture(scope="module")
def undisturbed(
    make_world: Callable[..., World], mixed: list[Record], tmp_path_factory: pytest.TempPathFactory, settings: dict[str, dict[str, Any]]
) -> tuple[list[Any], Outcome]:
    world = make_world(mixed, settings, folder=tmp_path_factory.mktemp("calm") / "state")
    controller = world.controller()
    plans = [report.plan for report in world.play(controller)]
    assert check(world).differences == []
    return plans, outcome(controller, world.folder)


@pytest.fixture
def calm(undisturbed: tuple[list[Any], Outcome], disturbed: World) -> Outcome:
    """The outcome of an undisturbed run, whose plans lie ready for the disturbed one."""
    plans, found = undisturbed
    store = disturbed.controller().parts.plans
    for plan in plans:
        store.write(plan.model_dump(mode="json"), plan.batch)
    return found


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_run_abandoned_again_and_again_leaves_the_lake_of_an_undisturbed_one(disturbed: World, calm: Outcome, steps: int) -> None:
    for _ in range(3):
        controller = disturbed.controller()
        for _ in range(steps):
            controller.step()
    last = disturbed.controller()
    disturbed.play(last)
    assert outcome(last, disturbed.folder) == calm
    assert check(disturbed).differences == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("fail_at", [1, 2])
def test_a_crash_before_and_after_the_lakes_commit_loses_and_repeats_nothing(disturbed: World, calm: Outcome, fail_at: int, when: Any) -> None:
    controller = disturbed.controller()
    controller.parts.lake.lake = FaultyLake(controller.parts.lake.lake, fail_at, when)
    with pytest.raises(StorageError, match=f"{disturbed.folder}/lake"):
        disturbed.play(controller)
    last = disturbed.controller()
    disturbed.play(last)
    assert outcome(last, disturbed.folder) == calm
    assert check(disturbed).differences == []


def play_anew(world: World, controller: Controller) -> None:
    controller.recover()
    world.play(controller)


@pytest.mark.matrix(5)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("fail_at", [1, 14, 25])
def test_a_crash_between_the_lakes_commit_and_the_checkpoints_loses_and_repeats_nothing(
    disturbed: World, calm: Outcome, fail_at: int, when: Any
) -> None:
    controller = disturbed.controller()
    broken = CheckpointStore(FaultyStorage(open_storage(checkpoint_url(str(disturbed.folder))), fail_at, when))
    crashed = Controller(dataclasses.replace(controller.parts, checkpoints=broken))
    with pytest.raises(StorageError, match="injected"):
        play_anew(disturbed, crashed)
    last = disturbed.controller()
    disturbed.play(last)
    assert outcome(last, disturbed.folder) == calm
    assert check(disturbed).differences == []


def test_after_a_crash_between_the_two_commits_the_recount_says_that_the_lake_is_ahead(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path
) -> None:
    world = make_world(mixed, FAST, folder=tmp_path)
    controller = world.controller()
    while not (report := controller.step()) or not report.committed:
        world.clock.advance(1.0)
    controller.parts.lake.lake = FaultyLake(controller.parts.lake.lake, 1, "after")
    with pytest.raises(StorageError, match="injected"):
        world.play(controller)
    found = check(world)
    assert (found.differences, found.rows_ahead > 0, found.last_batch > found.batch) == ([], True, True)
    world.play(world.controller())
    found = check(world)
    assert (found.differences, found.rows_ahead) == ([], 0)


def test_a_checkpoint_that_falls_back_to_an_older_one_finds_its_rows_in_the_lake(disturbed: World, calm: Outcome) -> None:
    controller = disturbed.controller()
    disturbed.play(controller)
    newest = max((disturbed.folder / "checkpoint" / "commits").iterdir())
    newest.write_bytes(b"damaged")
    last = disturbed.controller()
    disturbed.play(last)
    assert outcome(last, disturbed.folder) == calm
    assert check(disturbed).differences == []


@pytest.fixture
def played(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> World:
    world = make_world(mixed, FAST, folder=tmp_path / "state")
    world.play(world.controller())
    assert check(world).differences == []
    return world


def test_the_comparison_fails_when_one_event_is_removed(played: World) -> None:
    partition, offset, *_ = rows_of(played.folder)[100]
    DeltaTable(played.folder / "lake").delete(f"partition = {partition} and offset = {offset}")
    (difference,) = check(played).differences
    assert difference.startswith(f"partition {partition}: ")


def test_the_comparison_fails_when_one_event_is_there_twice(played: World) -> None:
    table = DeltaTable(played.folder / "lake")
    write_deltalake(table, table.to_pyarrow_table().slice(7, 1), mode="append")
    assert [text for text in check(played).differences if text.endswith("1 rows repeat the offset of another")] != []


def test_the_comparison_fails_when_a_row_has_an_offset_that_the_checkpoint_never_read(played: World) -> None:
    table = DeltaTable(played.folder / "lake")
    row = table.to_pyarrow_table().slice(7, 1)
    place = row.column_names.index("offset")
    table.delete(f"partition = {row['partition'][0]} and offset = {row['offset'][0]}")
    write_deltalake(table, row.set_column(place, "offset", pa.array([99_999])), mode="append")
    (difference,) = check(played).differences
    assert "a row has offset 99999, the checkpoint read up to" in difference


def test_the_comparison_fails_when_the_table_is_an_older_copy_and_the_stream_refuses_to_go_on(played: World) -> None:
    newest = max((played.folder / "lake" / "_delta_log").glob("*.json"))
    lake = played.controller().parts.lake.lake
    newest.unlink()
    differences = check_lake(
        EventLake(lake.address, lambda: lake.app.removeprefix("streamrec/")), CheckpointStore(open_storage(checkpoint_url(str(played.folder))))
    ).differences
    assert any("the lake ends at batch" in text for text in differences)
    with pytest.raises(Damaged, match=f"{played.folder}/lake is older than the checkpoint, got .*, no entry {newest}, .*restore that entry"):
        played.controller()  # Before a step.


def test_a_bootstrap_that_breaks_off_leaves_no_row_twice(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> None:
    world = make_world(mixed, {**FAST, "lake": {"max_buffer_bytes": 1}}, folder=tmp_path)
    ends = world.log.latest(world.config.log.events_topic)

    class Enough(Exception):
        pass

    def stop(_: Any) -> None:
        raise Enough

    for _ in range(3):
        with pytest.raises(Enough):
            bootstrap(world.controller(), ends, stop)
    assert world.controller().parts.lake.lake.last_batch() >= 1
    bootstrap(world.controller(), ends)
    report = check(world)
    assert (report.differences, report.rows_ahead) == ([], 0)
    assert report.rows == len({row[:2] for row in rows_of(tmp_path)})


def test_a_new_state_beside_an_old_table_is_refused_rather_than_taken_for_the_old_one(
    played: World, make_world: Callable[..., World], mixed: list[Record], tmp_path: Path
) -> None:
    other = make_world(mixed, {**FAST, "lake": {"address": str(played.folder / "lake")}}, folder=tmp_path / "other")
    before = rows_of(played.folder)
    with pytest.raises(StorageError, match="belongs to another state"):
        other.play(other.controller())
    assert rows_of(played.folder) == before
