"""After a deletion no file below the lake names the user."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from streamrec.events.schema import EVENT
from streamrec.log.lake import EventLake
from streamrec.log.lake_table import COLUMNS, lake_rows

GONE = "gone-for-ever"
HOUR_S = 3600.0
Naming = Callable[[Path, str], list[str]]
Ages = Callable[[Path, float], None]


def events(user: str, *offsets: int) -> pa.Table:
    usual = {"kind": "interaction", "namespace": "default", "user_id": user, "session_id": f"of {user}", "event_type": "click", "partition": 0}
    rows = [usual | {"event_id": f"{user}/{n}", "item_id": f"i{n}", "event_time": 5, "offset": n} for n in offsets]
    return pa.Table.from_pylist(rows, schema=EVENT)


def both(batch: int, *offsets: int) -> pa.Table:
    """Rows of the user between those of others."""
    mixed = [events(GONE if n % 2 else f"u{n}", n) for n in offsets]
    return lake_rows(pa.concat_tables(mixed), "events", batch)


def lake_with_rows(folder: Path) -> EventLake:
    lake = EventLake(str(folder), lambda: "one")
    lake.append(both(1, 1, 2, 3), 1)
    lake.append(both(2, 4, 5, 6), 2)
    return lake


def test_after_a_deletion_and_a_vacuum_no_file_below_the_lake_names_the_user(tmp_path: Path, files_naming: Naming) -> None:
    lake = lake_with_rows(tmp_path)
    assert all(name.endswith(".parquet") for name in files_naming(tmp_path, GONE))
    assert lake.delete_user("default", GONE) == 3
    assert files_naming(tmp_path / "_delta_log", GONE) == []
    assert files_naming(tmp_path, GONE)
    lake.vacuum(0.0)
    assert files_naming(tmp_path, GONE) == []
    assert sorted(row["offset"] for row in DeltaTable(tmp_path).to_pyarrow_table().to_pylist()) == [2, 4, 6]


def test_merged_files_name_nobody_in_the_log_either(tmp_path: Path, files_naming: Naming) -> None:
    lake = lake_with_rows(tmp_path)
    lake.optimize()
    assert files_naming(tmp_path / "_delta_log", GONE) == []
    lake.delete_user("default", GONE)
    lake.optimize()
    lake.vacuum(0.0)
    assert files_naming(tmp_path, GONE) == []


def test_what_the_log_of_an_older_table_says_goes_when_the_time_to_keep_has_passed(tmp_path: Path, files_naming: Naming, age: Ages) -> None:
    lake = lake_with_rows(tmp_path / "new")
    folder = tmp_path / "old"
    table = DeltaTable.create(str(folder), COLUMNS, name=lake.app, partition_by=["namespace", "event_date"])
    write_deltalake(table, both(1, 1, 2, 3), mode="append", commit_properties=CommitProperties(app_transactions=[Transaction(lake.app, 1)]))
    assert files_naming(folder / "_delta_log", GONE)
    old = EventLake(str(folder), lambda: "one")
    old.append(both(2, 4, 5, 6), 2)
    assert old.delete_user("default", GONE) == 3
    old.vacuum(HOUR_S)
    assert files_naming(folder / "_delta_log", GONE)
    age(folder, 2 * HOUR_S)
    old.append(both(3, 8), 3)
    old.vacuum(HOUR_S)
    assert files_naming(folder / "_delta_log", GONE) == []
    assert old.last_batch() == 3
    assert {number: held.removed for number, held in old.held(3, {}).items()} == {0: 3}
    assert sorted(row["offset"] for row in DeltaTable(folder).to_pyarrow_table().to_pylist()) == [2, 4, 6, 8]


def test_a_row_of_a_topic_that_was_made_anew_is_not_taken_for_one_of_the_same_offset(tmp_path: Path) -> None:
    lake = EventLake(str(tmp_path), lambda: "one")
    lake.append(lake_rows(events(GONE, 1, 2), "events", 1), 1)
    lake.append(lake_rows(pa.concat_tables([events("other", 1), events(GONE, 3)]), "events", 2), 2)
    assert lake.delete_user("default", GONE) == 3
    assert [(row["user_id"], row["batch"]) for row in DeltaTable(tmp_path).to_pyarrow_table().to_pylist()] == [("other", 2)]


@pytest.mark.parametrize("before", [None, 2])
def test_readers_take_what_is_left_whatever_the_log_has_lost(tmp_path: Path, before: int | None) -> None:
    lake = lake_with_rows(tmp_path)
    num = lake.delete_user("default", GONE, before)
    lake.vacuum(0.0)
    assert EventLake(str(tmp_path), lambda: "one").rows(0, 0, 100).num_rows == 6 - num
    assert EventLake(str(tmp_path), lambda: "one").last_batch() == 2
