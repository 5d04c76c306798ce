from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from streamrec.errors import Damaged
from streamrec.events.schema import EVENT
from streamrec.log.lake import EventLake
from streamrec.log.lake_table import lake_rows

DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "empty": lambda whole: b"",
    "torn": lambda whole: whole[: len(whole) // 2],
    "zeros": lambda whole: bytes(len(whole)),
    "zeros in its middle": lambda whole: whole[: len(whole) // 3] + bytes(40) + whole[len(whole) // 3 + 40 :],
    "gone": lambda whole: None,
}
USES: dict[str, Callable[[EventLake], object]] = {
    "info": EventLake.info,
    "append": lambda lake: lake.append(rows(9), 9),
    "delete": lambda lake: lake.delete_user("default", "u1"),
    "recount": lambda lake: lake.held(9, {0: 10}),
}


def rows(batch: int) -> pa.Table:
    row = {"kind": "interaction", "namespace": "default", "user_id": f"u{batch}", "event_time": batch, "partition": 0, "offset": batch}
    return lake_rows(pa.Table.from_pylist([row], schema=EVENT), "events", batch)


def lake_at(folder: Path) -> EventLake:
    return EventLake(str(folder), lambda: "one")


def filled(folder: Path, first: int, last: int) -> None:
    lake = lake_at(folder)
    for batch in range(first, last + 1):
        lake.append(rows(batch), batch)


def newest(folder: Path) -> Path:
    return max((folder / "_delta_log").glob("*.checkpoint.parquet"))


def spoil(path: Path, how: str) -> None:
    spoilt = DAMAGE[how](path.read_bytes())
    path.unlink()
    if spoilt is not None:
        path.write_bytes(spoilt)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def vacuumed(tmp_path: Path, age: Callable[[Path, float], None]) -> Path:
    """A table of five rows, of which one was deleted, with entries since the checkpoint; the entries before it are gone."""
    filled(tmp_path, 1, 4)
    lake_at(tmp_path).delete_user("default", "u2")
    lake_at(tmp_path).vacuum(0.0)
    age(tmp_path, 3601.0)
    DeltaTable(tmp_path).cleanup_metadata()
    filled(tmp_path, 5, 5)
    assert not (tmp_path / "_delta_log" / f"{0:020d}.json").exists()
    return tmp_path


@pytest.mark.parametrize("note", ["whole", "torn", "gone"])
@pytest.mark.parametrize("how", DAMAGE)
def test_a_checkpoint_of_the_log_that_is_damaged_is_named_by_whoever_opens_the_table_and_nothing_is_written(
    vacuumed: Path, how: str, note: str
) -> None:
    path, last = newest(vacuumed), vacuumed / "_delta_log" / "_last_checkpoint"
    whole, said = path.read_bytes(), last.read_bytes()
    spoil(path, how)
    if note != "whole":
        spoil(last, note)
    before = contents(vacuumed)
    # Without the note nobody knows that there was a checkpoint, and the entries that it stood for are missed.
    blamed = path if how != "gone" or note == "whole" else vacuumed / "_delta_log" / f"{0:020d}.json"
    for use in USES.values():
        with pytest.raises(Damaged, match=rf"{blamed} .*restore that file from a copy.*without one give `lake\.address` a new folder"):
            use(lake_at(vacuumed))
    assert contents(vacuumed) == before
    path.write_bytes(whole)
    last.write_bytes(said)
    assert lake_at(vacuumed).append(rows(6), 6) == 1
    assert sorted(DeltaTable(vacuumed).to_pyarrow_table()["offset"].to_pylist()) == [1, 3, 4, 5, 6]


@pytest.mark.parametrize("has_older", [False, True])
@pytest.mark.parametrize("how", DAMAGE)
def test_where_the_entries_are_enough_without_it_removing_it_brings_back_every_row(tmp_path: Path, how: str, has_older: bool) -> None:
    filled(tmp_path, 1, 2)
    if has_older:
        lake_at(tmp_path).vacuum(0.0)
    filled(tmp_path, 3, 4)
    lake_at(tmp_path).delete_user("default", "u3")
    DeltaTable(tmp_path).create_checkpoint()
    filled(tmp_path, 5, 5)
    path, last = newest(tmp_path), tmp_path / "_delta_log" / "_last_checkpoint"
    spoil(path, how)
    remedy = "remove _last_checkpoint beside it" if how == "gone" else "remove it and _last_checkpoint beside it"
    with pytest.raises(Damaged, match=rf"{path} .*{remedy}: the entries of the log are enough without it"):
        lake_at(tmp_path).last_batch()
    path.unlink(missing_ok=True)
    last.unlink()
    filled(tmp_path, 5, 6)
    assert sorted(DeltaTable(tmp_path).to_pyarrow_table()["offset"].to_pylist()) == [1, 2, 4, 5, 6]


def test_entries_of_which_one_is_torn_are_not_enough_without_it(tmp_path: Path) -> None:
    filled(tmp_path, 1, 3)
    DeltaTable(tmp_path).create_checkpoint()
    spoil(tmp_path / "_delta_log" / f"{1:020d}.json", "torn")
    spoil(newest(tmp_path), "torn")
    with pytest.raises(Damaged, match=f"{newest(tmp_path)} .*restore that file from a copy, since entries that it stands for are gone or torn"):
        lake_at(tmp_path).last_batch()


def test_a_checkpoint_that_is_not_the_newest_and_a_torn_note_are_needed_by_nobody(tmp_path: Path) -> None:
    filled(tmp_path, 1, 2)
    DeltaTable(tmp_path).create_checkpoint()
    older = newest(tmp_path)
    filled(tmp_path, 3, 3)
    DeltaTable(tmp_path).create_checkpoint()
    assert newest(tmp_path) > older
    spoil(older, "torn")
    spoil(tmp_path / "_delta_log" / "_last_checkpoint", "torn")
    assert lake_at(tmp_path).append(rows(4), 4) == 1
    assert sorted(DeltaTable(tmp_path).to_pyarrow_table()["offset"].to_pylist()) == [1, 2, 3, 4]
