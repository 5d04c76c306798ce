"""Recount a lake that has rows of a topic and of the one that was made anew in its place, whose offsets begin again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from streamrec.log.base import Record
from streamrec.log.memory import MemoryLog
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.lake_check import LakeReport, check_lake
from streamrec.pipeline.layout import checkpoint_url
from streamrec.pipeline.skipping import skip_lost
from streamrec.storage import open_storage

World = Any
FAST: dict[str, dict[str, Any]] = {"teachers": {"enabled": []}, "student": {"control": False}, "lake": {"optimize_every": 2}}
CUT = 150
"""Records of the first topic; the second has the others, and more than the first, or fewer."""


def check(world: World) -> LakeReport:
    return check_lake(world.controller().parts.lake.lake, CheckpointStore(open_storage(checkpoint_url(str(world.folder)))))


def anew(world: World, records: list[Record]) -> None:
    """Make the topic anew with other records, and go on with it."""
    topic = world.config.log.events_topic
    world.log = MemoryLog()
    world.log.ensure_topic(topic, 2)
    world.log.ensure_topic(world.config.log.dead_letter_topic, 1)
    assert skip_lost(world.controller(), lambda _: None) is not None
    world.append(records)
    world.play(world.controller())


@pytest.fixture(scope="module", params=["fewer", "more"])
def records(request: pytest.FixtureRequest, mixed: list[Record]) -> list[Record]:
    """Of the second topic: with fewer its offsets end before those of the first, with more behind them. Both delete users of the first."""
    rest = mixed[CUT:]
    return rest[: CUT // 3] if request.param == "fewer" else rest


@pytest.fixture(scope="module")
def first_two(make_world: Callable[..., World], mixed: list[Record], records: list[Record], tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(mixed[:CUT], FAST, folder=tmp_path_factory.mktemp("two") / "state")
    world.play(world.controller())
    first = check(world)
    anew(world, records)
    second = check(world)
    assert (first.differences, first.topic_batch, first.rows_before) == ([], 0, 0)
    assert second.rows_before < first.rows
    assert second.removed > first.removed
    return world


@pytest.fixture
def two(first_two: World, tmp_path: Path) -> World:
    return first_two.copy(tmp_path / "state")


def table_of(world: World) -> DeltaTable:
    return DeltaTable(world.folder / "lake")


def rows_since(world: World, *, before: bool = False) -> pa.Table:
    """The rows of the second topic, or of the first."""
    batch = check(world).topic_batch
    return table_of(world).to_pyarrow_table(filters=[("batch", "<" if before else ">", batch)])


def test_a_lake_agrees_after_its_topic_was_made_anew_also_after_merges_deletions_and_restarts(two: World, make_record: Callable[..., Record]) -> None:
    for number in range(4):
        two.append([make_record(f"u{number}", "i1", 7000 + number)])
        two.play(two.controller())
    report = check(two)
    assert report.differences == []
    assert (report.rows_before, report.rows - report.rows_before) == (rows_since(two, before=True).num_rows, rows_since(two).num_rows)
    assert report.rows_before > 0
    assert report.rows - report.rows_before > 0
    assert report.topic_batch > 0


def test_a_topic_that_is_made_anew_once_more_leaves_a_lake_that_agrees(two: World, mixed: list[Record]) -> None:
    first = check(two)
    anew(two, mixed[-20:])
    report = check(two)
    assert report.differences == []
    assert report.topic_batch > first.topic_batch
    assert first.rows_before < report.rows_before <= first.rows


@pytest.mark.parametrize("before", [False, True])
def test_a_lost_row_of_either_topic_is_found(two: World, before: bool) -> None:
    row = rows_since(two, before=before).slice(3, 1).to_pylist()[0]
    table_of(two).delete(f"batch = {row['batch']} and partition = {row['partition']} and offset = {row['offset']}")
    (difference,) = check(two).differences
    assert difference.startswith(f"partition {row['partition']}: ")


@pytest.mark.parametrize("before", [False, True])
def test_a_row_of_either_topic_that_is_there_twice_is_found(two: World, before: bool) -> None:
    write_deltalake(table_of(two), rows_since(two, before=before).slice(3, 1), mode="append")
    assert [text for text in check(two).differences if text.endswith("1 rows repeat the offset of another")] != []


def moved(two: World, offset: int, batch: int | None = None) -> None:
    """Give a row of the second topic another offset, or batch and offset."""
    row = rows_since(two).slice(3, 1)
    values = row.to_pylist()[0]
    table_of(two).delete(f"batch = {values['batch']} and partition = {values['partition']} and offset = {values['offset']}")
    for name, value in {"offset": offset, **({} if batch is None else {"batch": batch})}.items():
        row = row.set_column(row.column_names.index(name), name, pa.array([value]))
    write_deltalake(table_of(two), row, mode="append")


def test_a_row_since_with_an_offset_that_was_never_read_is_found(two: World) -> None:
    moved(two, 99_999)
    (difference,) = check(two).differences
    assert "a row has offset 99999, the checkpoint read up to" in difference


def test_a_row_since_that_repeats_an_offset_of_its_topic_in_another_batch_is_found(two: World) -> None:
    rows = rows_since(two).to_pylist()
    moved_row = rows[3]
    other = next(row for row in rows if row["partition"] == moved_row["partition"] and row["offset"] != moved_row["offset"])
    moved(two, other["offset"], max(row["batch"] for row in rows))
    (difference,) = check(two).differences
    assert difference.endswith("1 rows repeat the offset of another")
