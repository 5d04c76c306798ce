from __future__ import annotations

import datetime
import errno
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.transaction import AddAction

from streamrec.errors import Damaged, StorageError
from streamrec.events.schema import EVENT
from streamrec.log.lake import REOPEN_AFTER, EventLake
from streamrec.log.lake_deletion import Asked, Deleted
from streamrec.log.lake_table import COLUMNS, PARTITION_BY, Held, lake_address, lake_rows

Ages = Callable[[Path, float], None]

DAY_MS = 86_400_000
ODD_IDS = [
    "o'brien",
    "' or '1'='1",
    "''; drop table lake; --",
    "a\\",
    "\\' or 1=1 --",
    "%",
    "a\nb",
    "日本\t",
    '"double"',
    "user_id",
    "?",
    "$1",
    "{batch}",
]


def events(*offsets: int, **values: Any) -> pa.Table:
    """Interactions of one user with an item each, a day apart."""
    usual = {"kind": "interaction", "namespace": "default", "user_id": "u1", "event_type": "click", "partition": 0}
    rows = [usual | {"event_id": f"e{n}", "item_id": f"i{n}", "event_time": n * DAY_MS + 5, "offset": n} | values for n in offsets]
    return pa.Table.from_pylist(rows, schema=EVENT)


def lake_at(folder: Path, lineage: str = "one") -> EventLake:
    return EventLake(str(folder), lambda: lineage)


def stored(folder: Path) -> list[dict[str, Any]]:
    """What a reader that does not know us sees."""
    return sorted(DeltaTable(folder).to_pyarrow_table().to_pylist(), key=lambda row: (row["batch"], row["offset"]))


def test_events_come_back_as_they_were_with_topic_batch_and_utc_date(tmp_path: Path) -> None:
    update = {"kind": "item_update", "namespace": "shop/ä b=c", "event_id": "x", "item_id": "i9", "title": "río", "categories": ["a", "b"]}
    rows = [
        {**update, "price": 2.5, "available": False, "vectors": {"text": [0.5, 1.0]}, "event_time": 3 * DAY_MS - 1, "partition": 1, "offset": 4},
        {
            "kind": "impression",
            "namespace": "default",
            "event_id": "y",
            "user_id": "u1",
            "items": ["i1", "i2"],
            "context": {"a": "b"},
            "event_time": 0,
        }
        | {"partition": 0, "offset": 9},
    ]
    given = pa.Table.from_pylist([{**row, **{k: list(v.items()) for k, v in row.items() if isinstance(v, dict)}} for row in rows], schema=EVENT)
    lake_at(tmp_path).append(lake_rows(given, "events", 7), 7)
    found = {row["event_id"]: row for row in stored(tmp_path)}
    assert [found[row["event_id"]] for row in given.to_pylist()] == [
        row | {"topic": "events", "batch": 7, "event_date": date}
        for row, date in zip(given.to_pylist(), [datetime.date(1970, 1, 3), datetime.date(1970, 1, 1)], strict=True)
    ]
    assert DeltaTable(tmp_path).metadata().partition_columns == ["namespace", "event_date"]


def test_rows_of_a_file_keep_the_order_they_were_given_in(tmp_path: Path) -> None:
    given = events(*range(500), event_time=5)
    lake_at(tmp_path).append(lake_rows(given, "events", 1), 1)
    (path,) = DeltaTable(tmp_path).file_uris()
    assert pq.read_table(path)["offset"].to_pylist() == list(range(500))


def test_a_batch_that_is_there_is_not_appended_again_whoever_tries(tmp_path: Path) -> None:
    first, second = lake_at(tmp_path), lake_at(tmp_path)
    assert first.append(lake_rows(events(1, 2), "events", 1), 1) == 2
    assert second.append(lake_rows(events(1, 2), "events", 1), 1) == 0
    both = pa.concat_tables([lake_rows(events(1, 2), "events", 1), lake_rows(events(3), "events", 4)])
    assert second.append(both, 4) == 1
    assert first.append(both, 4) == 0
    assert [row["offset"] for row in stored(tmp_path)] == [1, 2, 3]
    assert first.last_batch() == 4


def test_of_two_writers_that_saw_the_same_table_the_second_finds_its_batch_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = lake_at(tmp_path), lake_at(tmp_path)
    first.append(lake_rows(events(1), "events", 1), 1)
    asked = second.last_batch
    was = asked()

    def stale() -> int:
        monkeypatch.setattr(second, "last_batch", asked)
        first.append(lake_rows(events(2), "events", 2), 2)  # After the second one has looked, before it commits.
        return was

    monkeypatch.setattr(second, "last_batch", stale)
    assert second.append(lake_rows(events(2), "events", 2), 2) == 0
    assert [row["offset"] for row in stored(tmp_path)] == [1, 2]


def test_a_table_of_another_state_is_refused(tmp_path: Path) -> None:
    lake_at(tmp_path).append(lake_rows(events(1), "events", 1), 1)
    for call in (lambda lake: lake.append(lake_rows(events(1), "events", 1), 1), EventLake.last_batch, EventLake.info):
        with pytest.raises(StorageError, match=f"{tmp_path} belongs to another state"):
            call(lake_at(tmp_path, "two"))


def test_a_table_that_is_removed_below_its_writer_is_told_to_be_restored(tmp_path: Path) -> None:
    lake = lake_at(tmp_path / "lake")
    lake.append(lake_rows(events(1), "events", 1), 1)
    shutil.rmtree(tmp_path / "lake")
    with pytest.raises(StorageError) as caught:
        lake.append(lake_rows(events(2), "events", 2), 2)
    assert str(caught.value).endswith("restore what is gone from a copy, then start again")


@pytest.mark.parametrize("name", ODD_IDS)
def test_a_deletion_removes_exactly_the_rows_of_the_user_whatever_the_id(tmp_path: Path, name: str) -> None:
    lake = lake_at(tmp_path)
    everybody = [
        events(number, user_id=user, namespace=namespace) for number, (user, namespace) in enumerate([(user, "default") for user in ODD_IDS])
    ]
    twin = events(100, user_id=name, namespace=name)
    lake.append(lake_rows(pa.concat_tables([*everybody, events(101, user_id=name, event_time=5), twin]), "events", 1), 1)
    assert lake.delete_user("default", name) == 2
    left = [(row["namespace"], row["user_id"]) for row in stored(tmp_path)]
    assert left == [("default", user) for user in ODD_IDS if user != name] + [(name, name)]
    assert lake.delete_user("default", name) == 0
    assert lake.delete_user(name, name) == 1


def test_users_who_leave_together_take_one_scan_and_one_commit_and_each_only_its_own_rows(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    rows = [events(number, user_id=f"u{number % 7}", namespace=f"n{number % 2}", event_time=number) for number in range(42)]
    lake.append(lake_rows(pa.concat_tables(rows), "events", 1), 1)
    version = DeltaTable(tmp_path).version()
    asked = [Deleted("n0", "u1"), Deleted("n1", "u2"), Deleted("n0", "nobody"), Deleted("n0", "u4", (11, 5, 0)), Deleted("n0", "u1")]
    assert lake.delete_users(asked) == [3, 3, 0, 1, 0]
    assert DeltaTable(tmp_path).version() == version + 1
    left = Counter((row["namespace"], row["user_id"]) for row in stored(tmp_path))
    everybody = Counter({(f"n{space}", f"u{user}"): 3 for space in (0, 1) for user in range(7)})
    assert left == everybody - Counter({("n0", "u1"): 3, ("n1", "u2"): 3, ("n0", "u4"): 1})
    assert lake.held(1, {})[0].removed == 7
    assert lake.delete_users([]) == []


def test_a_user_of_many_rows_takes_several_commits_and_is_counted_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrec.log.lake.ROWS_AT_ONCE", 4)
    lake = lake_at(tmp_path)
    lake.append(lake_rows(events(*range(10)), "events", 1), 1)
    assert lake.delete_users([Deleted("default", "u2"), Deleted("default", "u1")]) == [0, 10]
    assert lake.held(1, {0: 0}) == {0: Held(removed=10)}


def test_a_step_that_deletes_again_is_told_the_counts_of_its_first_time_and_a_later_one_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamrec.log.lake.ROWS_AT_ONCE", 4)
    lake = lake_at(tmp_path)
    lake.append(lake_rows(pa.concat_tables([events(*range(10)), events(10, 11, user_id="u2")]), "events", 1), 1)
    users, step = [Deleted("default", "u2"), Deleted("default", "u1"), Deleted("default", "nobody")], Asked("", 5)
    assert lake.delete_users(users, 5, step) == [2, 10, 0]
    assert lake_at(tmp_path).delete_users(users, 5, step) == [2, 10, 0]
    assert lake.delete_users(users, 5, Asked("lineages/0002", 5)) == [0, 0, 0]
    assert lake.delete_users(users, 6, Asked("", 6)) == [0, 0, 0]
    assert "u2" not in "".join(path.read_text() for path in (tmp_path / "_delta_log").glob("*.json"))


SPOILT = {"halved": lambda data: data[: len(data) // 2], "zeroed": lambda data: bytes(len(data)), "empty": lambda data: b"", "gone": None}


@pytest.mark.parametrize("how", SPOILT)
def test_a_file_of_rows_that_is_damaged_or_gone_is_named_by_every_reader_and_the_others_are_not(tmp_path: Path, how: str) -> None:
    lake = lake_at(tmp_path)
    for number in (1, 2, 3):
        lake.append(lake_rows(events(number, user_id=f"u{number}"), "events", number), number)
    path = sorted(tmp_path.glob("namespace=*/**/*.parquet"))[1]
    whole, spoil = path.read_bytes(), SPOILT[how]
    path.unlink() if spoil is None else path.write_bytes(spoil(whole))
    calls: list[Callable[[EventLake], object]] = [
        lambda one: one.delete_user("default", "u2"),
        lambda one: one.held(3, {}),
        lambda one: one.rows(0, 0, 9),
        EventLake.extent,
        EventLake.optimize,
    ]
    for call in calls:
        if call is EventLake.optimize:
            lake.append(lake_rows(events(4, event_time=2 * DAY_MS + 6), "events", 4), 4)  # Something to merge the file with.
        with pytest.raises(Damaged, match=re.escape(str(path))) as caught:
            call(lake_at(tmp_path))
        assert caught.value.remedy.startswith("restore that file from a copy; without one give `lake.address` a new folder")
    path.write_bytes(whole)
    assert lake_at(tmp_path).delete_user("default", "u2") == 1


def test_a_namespace_that_holds_what_text_takes_for_the_end_of_a_line_is_no_torn_entry(tmp_path: Path) -> None:
    lake_at(tmp_path).append(lake_rows(events(1, namespace="a\u2028b\x85c"), "t", 1), 1)
    assert lake_at(tmp_path).last_batch() == 1


TORN: dict[str, Callable[[bytes], bytes | None]] = {
    "empty": lambda whole: b"",
    "half": lambda whole: whole[: len(whole) // 2],
    "zeros": lambda whole: bytes(len(whole)),
    "gone": lambda whole: None,
}


@pytest.mark.parametrize("how", TORN)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_entry_of_the_log_that_is_not_the_newest_is_named_before_anything_is_appended(tmp_path: Path, number: int, how: str) -> None:
    lake = lake_at(tmp_path)
    lake.append(lake_rows(events(1, 2), "t", 1), 1)
    lake.delete_user("default", "u1")
    lake.append(lake_rows(events(3), "t", 2), 2)
    entry = tmp_path / "_delta_log" / f"{number:020d}.json"
    whole = entry.read_bytes()
    torn = TORN[how](whole)
    entry.unlink()
    if torn is not None:
        entry.write_bytes(torn)
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    actions: list[Callable[[EventLake], object]] = [
        EventLake.last_batch,
        lambda lake: lake.append(lake_rows(events(4), "t", 3), 3),
        lambda lake: lake.delete_user("default", "u1"),
    ]
    state = "gone" if how == "gone" else "torn"
    for act in actions:
        with pytest.raises(
            Damaged, match=f"an entry of the table's log is {state}, {entry} .*restore that file from a copy; without one give `lake.address`"
        ):
            act(lake_at(tmp_path))
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before
    entry.write_bytes(whole)
    assert lake_at(tmp_path).last_batch() == 2
    assert [row["offset"] for row in stored(tmp_path)] == [3]


def test_an_entry_that_a_checkpoint_of_the_log_stands_for_may_be_gone_or_torn(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    for batch in (1, 2):
        lake.append(lake_rows(events(batch), "t", batch), batch)
    DeltaTable(tmp_path).create_checkpoint()
    log = tmp_path / "_delta_log"
    (log / f"{0:020d}.json").unlink()
    (log / f"{1:020d}.json").write_bytes(b"")
    again = lake_at(tmp_path)
    again.append(lake_rows(events(3), "t", 3), 3)
    assert [row["offset"] for row in stored(tmp_path)] == [1, 2, 3]


def test_entries_that_a_vacuum_removes_between_listing_and_reading_are_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = lake_at(tmp_path)
    for batch in (1, 2):
        lake.append(lake_rows(events(batch), "t", batch), batch)
    first = tmp_path / "_delta_log" / f"{0:020d}.json"
    read = Path.read_bytes

    def late(path: Path) -> bytes:
        if path == first and path.exists():
            DeltaTable(tmp_path).create_checkpoint()
            first.unlink()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", late)
    assert lake_at(tmp_path).last_batch() == 2
    assert not first.exists()


def test_a_deletion_leaves_what_later_batches_brought_and_says_how_many_rows_went_for_ever(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    lake.append(lake_rows(events(1, 2), "events", 1), 1)
    lake.append(lake_rows(events(3), "events", 2), 2)
    assert lake.delete_user("default", "u1", 2) == 2
    assert lake.held(2, {0: 0}) == {0: Held(rows=1, highest=3, removed=2)}
    assert lake.delete_user("default", "u1") == 1
    assert lake_at(tmp_path).held(2, {0: 0, 5: 0}) == {0: Held(removed=3), 5: Held()}


def test_a_reader_finishes_on_the_version_it_opened_until_the_files_have_been_kept_long_enough(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    lake.append(lake_rows(events(1, 2), "events", 1), 1)
    reader = DeltaTable(tmp_path)
    assert lake.delete_user("default", "u1") == 2
    assert lake.vacuum(3600.0) == 0
    assert reader.to_pyarrow_table().num_rows == 2
    assert lake.vacuum(0.0) == 2
    with pytest.raises(OSError, match="not found"):
        reader.to_pyarrow_table()


def test_merging_and_vacuum_lose_neither_rows_nor_the_number_of_the_last_batch(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    for batch in range(1, 131):  # The log is folded into a checkpoint every hundred versions.
        lake.append(lake_rows(events(batch, event_time=5), "events", batch), batch)
    lake.append(lake_rows(events(500, user_id="gone", event_time=5), "events", 131), 131)
    assert lake.delete_user("default", "gone") == 1
    assert lake.optimize() == {"files_before": 130, "files_after": 1}
    assert lake.vacuum(0.0) >= 130
    table = DeltaTable(tmp_path)
    table.create_checkpoint()
    table.cleanup_metadata()
    again = lake_at(tmp_path)
    assert again.last_batch() == 131
    assert again.append(lake_rows(events(131, event_time=5), "events", 131), 131) == 0
    assert again.held(131, {}) == {0: Held(rows=130, highest=130, removed=1)}
    assert again.info()["rows"] == 130
    assert again.info()["files"] == 1


def test_whoever_reads_delta_tables_reads_it_after_all_that_we_do_to_it(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    for batch in range(1, 5):
        lake.append(lake_rows(events(batch, 10 + batch, user_id=f"u{batch % 2}"), "t", batch), batch)
    lake.delete_user("default", "u1")
    lake.optimize()
    lake.vacuum(0.0)
    # Without features: Spark 4.0 with Delta 4.0, Polars 2.1 and DuckDB 2.0 by Arrow were seen to read such a table; any other reader must, too.
    protocol = DeltaTable(tmp_path).protocol()
    assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2)
    assert not protocol.reader_features
    assert len(stored(tmp_path)) == 4


def test_vacuum_takes_the_files_of_a_commit_that_was_never_finished_after_an_hour_whatever_is_kept(tmp_path: Path, age: Ages) -> None:
    lake = lake_at(tmp_path)
    lake.append(lake_rows(events(1), "events", 1), 1)
    orphan = tmp_path / "namespace=default" / "orphan.parquet"
    orphan.write_bytes(b"half")
    assert lake.vacuum(0.0) == 0
    assert orphan.exists()
    age(tmp_path, 3601.0)
    assert lake.vacuum(7200.0) == 0
    assert lake.vacuum(0.0) == 1
    assert not orphan.exists()


@pytest.mark.parametrize("keep_for_s", [0.0, 3600.0])
def test_a_vacuum_beside_a_writer_that_has_not_committed_yet_costs_it_nothing(tmp_path: Path, keep_for_s: float) -> None:
    """As a merge that is under way, or one that outlives the stream that began it: it has written its file, and its entry comes after the vacuum."""
    lake = lake_at(tmp_path)
    for batch in (1, 2):
        lake.append(lake_rows(events(batch), "events", batch), batch)
    lake.vacuum(keep_for_s)  # The first one tells the table how long its log is kept, which ends what others do meanwhile.
    writer, beside = DeltaTable(tmp_path), lake_at(tmp_path / "scratch")
    beside.append(lake_rows(events(3), "events", 3), 3)
    (written,) = (tmp_path / "scratch").glob("namespace=*/**/*.parquet")
    target = tmp_path / written.relative_to(tmp_path / "scratch")
    target.parent.mkdir()
    shutil.move(written, target)
    shutil.rmtree(tmp_path / "scratch")
    assert lake.vacuum(keep_for_s) == 0
    path, size = str(target.relative_to(tmp_path)), target.stat().st_size
    values = {name: value for name, _, value in (part.partition("=") for part in target.relative_to(tmp_path).parts[:-1])}
    added = AddAction(path=path, size=size, partition_values=values, modification_time=0, data_change=True, stats="{}")
    writer.create_write_transaction([added], "append", writer.schema(), partition_by=PARTITION_BY)
    assert [row["offset"] for row in stored(tmp_path)] == [1, 2, 3]


class Beside(EventLake):
    """A table to which another process commits, once, after it was opened and before it is used."""

    is_yet = False

    def __init__(self, folder: Path, act: Callable[[EventLake], object]) -> None:
        super().__init__(str(folder), lambda: "one")
        self._act = act

    def _table(self) -> DeltaTable | None:
        opened = super()._table()
        if not self.is_yet:
            self.is_yet = True
            self._act(lake_at(Path(self.address)))
        return opened


def replaced(lake: EventLake) -> None:
    """Merge, and vacuum what was merged."""
    lake.append(lake_rows(events(9, user_id="other", event_time=5), "events", 3), 3)
    lake.optimize()
    lake.vacuum(0.0)


@pytest.mark.parametrize("use", ["optimize", "delete"])
def test_who_is_overtaken_by_a_merge_and_a_vacuum_looks_again(tmp_path: Path, use: str) -> None:
    for batch in (1, 2):
        lake_at(tmp_path).append(lake_rows(events(batch, event_time=5), "events", batch), batch)
    lake = Beside(tmp_path, replaced)
    if use == "optimize":
        assert lake.optimize()["files_after"] == 1
    else:
        assert lake.delete_user("default", "u1") == 2
    assert len(stored(tmp_path)) == (3 if use == "optimize" else 1)


@pytest.mark.parametrize(
    "act",
    [
        lambda lake: lake.append(lake_rows(events(9, user_id="u2", event_time=5), "events", 9), 9),
        EventLake.optimize,
        lambda lake: lake.vacuum(7200.0),
    ],
)
def test_a_deletion_beside_another_commit_looks_again(tmp_path: Path, act: Callable[[EventLake], object]) -> None:
    """delta-rs can't read its own words for the condition when it looks whether the other commit matters."""
    for batch in (1, 2):
        lake_at(tmp_path).append(lake_rows(pa.concat_tables([events(batch, event_time=5), events(50 + batch, user_id="u2")]), "events", batch), batch)
    assert Beside(tmp_path, act).delete_user("default", "u1") == 2
    assert {row["user_id"] for row in stored(tmp_path)} == {"u2"}


@pytest.mark.parametrize("use", [lambda lake: lake.append(lake_rows(events(3), "events", 3), 3), lambda lake: lake.delete_user("default", "u1")])
def test_a_commit_that_could_not_be_brought_to_the_disk_is_told_also_beside_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[[EventLake], object]
) -> None:
    for batch in (1, 2):
        lake_at(tmp_path).append(lake_rows(events(batch), "events", batch), batch)
    lake_at(tmp_path).delete_user("default", "nobody")

    def refuse(address: str, version: int) -> None:
        monkeypatch.undo()
        lake_at(tmp_path).append(lake_rows(events(9, user_id="other"), "events", 9), 9)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("streamrec.log.lake.sync_commit", refuse)
    with pytest.raises(StorageError, match=r"Input/output error.*free space there or restore access"):
        use(lake_at(tmp_path))


def test_a_merge_beside_which_another_commit_came_and_went_is_no_failure(tmp_path: Path) -> None:
    for batch in (1, 2):
        lake_at(tmp_path).append(lake_rows(events(batch, event_time=5), "events", batch), batch)
    lake_at(tmp_path).vacuum(0.0)

    def act(lake: EventLake) -> None:
        lake.append(lake_rows(events(9, user_id="other"), "events", 9), 9)
        lake.delete_user("default", "other")
        lake.vacuum(0.0)

    assert Beside(tmp_path, act).optimize()["files_after"] == 1
    assert {row["user_id"] for row in stored(tmp_path)} == {"u1"}


def test_a_reader_that_is_overtaken_is_told_so_and_not_of_damage(tmp_path: Path) -> None:
    for batch in (1, 2):
        lake_at(tmp_path).append(lake_rows(events(batch, event_time=5), "events", batch), batch)
    with pytest.raises(StorageError, match=r"could not read the table at .*another process has changed it meanwhile.*start again") as caught:
        Beside(tmp_path, replaced).held(2, {})
    assert not isinstance(caught.value, Damaged)


def test_vacuum_takes_what_a_killed_merge_had_begun_to_write(tmp_path: Path, age: Ages) -> None:
    lake = lake_at(tmp_path)
    lake.append(lake_rows(events(1), "events", 1), 1)
    (written,) = stored(tmp_path)
    staged = [tmp_path / "namespace=default" / "event_date=2026-11-28" / "part-1.zstd.parquet#1", tmp_path / "_delta_log" / "_commit_1.json.tmp"]
    staged[0].parent.mkdir(parents=True, exist_ok=True)
    for path in staged:
        path.write_bytes(b"PAR1")
    assert lake.vacuum(0.0) == 0
    assert all(path.exists() for path in staged)
    age(tmp_path, 3601.0)
    assert lake.vacuum(0.0) == 2
    assert not any(path.exists() for path in staged)
    assert stored(tmp_path) == [written]


def test_a_recount_tells_duplicates_and_rows_of_later_batches(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    lake.append(lake_rows(pa.concat_tables([events(1, 2, 2), events(2, partition=1)]), "events", 1), 1)
    lake.append(lake_rows(events(7), "events", 3), 3)
    assert lake.held(2, {0: 0}) == {0: Held(rows=3, highest=2, rows_ahead=1, lowest_ahead=7, duplicates=1), 1: Held(rows=1, highest=2)}


def test_a_storage_that_refuses_is_named_and_after_it_is_back_the_same_call_succeeds(tmp_path: Path) -> None:
    address = tmp_path / "lake"
    address.write_text("in the way")
    lake = lake_at(address)
    with pytest.raises(StorageError, match=f"Lake: could not .* the table at {address}") as caught:
        lake.append(lake_rows(events(1), "events", 1), 1)
    assert caught.value.facts["address"] == str(address)
    address.unlink()
    assert lake.append(lake_rows(events(1), "events", 1), 1) == 1


def test_a_table_does_not_stay_open_for_ever_and_misses_nothing_and_its_log_is_short_for_whoever_opens_it(tmp_path: Path) -> None:
    lake, opened = lake_at(tmp_path / "lake"), []
    for batch in range(1, 2 * REOPEN_AFTER + 5):
        assert lake.append(lake_rows(events(batch, event_time=5), "t", batch), batch) == 1
        opened.append(lake._opened)
    assert list(Counter(map(id, opened)).values()) == [REOPEN_AFTER + 1, REOPEN_AFTER + 1, 2]
    assert [row["batch"] for row in stored(tmp_path / "lake")] == list(range(1, 2 * REOPEN_AFTER + 5))
    summed_up = json.loads((tmp_path / "lake/_delta_log/_last_checkpoint").read_text())["version"]
    assert lake.info()["version"] - summed_up < REOPEN_AFTER


@pytest.mark.parametrize("num", [1, REOPEN_AFTER + 1])
def test_a_table_that_vanishes_is_not_begun_anew_in_silence(tmp_path: Path, num: int) -> None:
    lake = lake_at(tmp_path / "lake")
    for batch in range(1, num + 1):
        lake.append(lake_rows(events(batch, event_time=5), "t", batch), batch)
    (tmp_path / "lake").rename(tmp_path / "gone")
    with pytest.raises(StorageError):
        lake.append(lake_rows(events(num + 1, event_time=5), "t", num + 1), num + 1)
    assert not (tmp_path / "lake").exists()


def test_a_table_that_nobody_wrote_is_empty_and_is_not_made_by_looking(tmp_path: Path) -> None:
    lake = lake_at(tmp_path / "lake")
    assert (lake.last_batch(), lake.delete_user("default", "u1"), lake.vacuum(0.0)) == (0, 0, 0)
    assert lake.optimize() == {"files_before": 0, "files_after": 0}
    assert lake.info()["rows"] == 0
    assert list(tmp_path.iterdir()) == []


def test_the_tables_columns_are_those_of_an_event_its_place_its_batch_and_its_date() -> None:
    assert COLUMNS.names == [*EVENT.names, "topic", "batch", "event_date"]


@pytest.mark.parametrize(
    ("address", "taken"), [("/a/b", "/a/b"), ("file:///a/b%20c", "/a/b c"), ("s3://bucket/x/", "s3://bucket/x"), ("gs://bucket/x", "gs://bucket/x")]
)
def test_addresses_are_those_of_a_state(address: str, taken: str) -> None:
    assert lake_address(address) == taken
