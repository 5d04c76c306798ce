from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from streamrec.config import LakeConfig, parse_config
from streamrec.errors import StorageError
from streamrec.events.schema import EVENT
from streamrec.log.base import Record
from streamrec.log.lake import EventLake
from streamrec.log.lake_table import lake_rows
from streamrec.pipeline import lake_writer
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.lake_check import check_lake
from streamrec.pipeline.lake_merging import merge_apart
from streamrec.pipeline.lake_writer import LakeWriter, Rounds, gone_by_ms, keep_ms
from streamrec.pipeline.layout import checkpoint_url
from streamrec.pipeline.lineage import known_lineage, lineage_of
from streamrec.state import from_bytes, to_bytes
from streamrec.storage import open_storage

World = Any
HOUR_MS = 3_600_000
FAST: dict[str, dict[str, Any]] = {"teachers": {"enabled": []}, "student": {"control": False}}


def events(*offsets: int, user: str = "u1") -> pa.Table:
    rows = [{"kind": "interaction", "namespace": "default", "user_id": user, "event_time": 5, "partition": 0, "offset": offset} for offset in offsets]
    return pa.Table.from_pylist(rows, schema=EVENT)


def writer(folder: Path, **config: Any) -> LakeWriter:
    return LakeWriter(EventLake(str(folder), lambda: "one"), LakeConfig(**config), "events")


def offsets_in(folder: Path) -> list[int]:
    return sorted(DeltaTable(folder).to_pyarrow_table()["offset"].to_pylist())


def restored(lake: LakeWriter) -> LakeWriter:
    """A writer as a restart would have it."""
    again = LakeWriter(EventLake(lake.lake.address, lambda: "one"), lake._config, "events")
    again.restore(from_bytes(to_bytes(lake.snapshot())))
    return again


def test_what_was_recorded_becomes_one_commit_at_the_checkpoint(tmp_path: Path) -> None:
    lake = writer(tmp_path / "lake")
    for batch in (1, 2, 3):
        lake.record(batch, events(batch), 1, batch - 1)
        assert not (tmp_path / "lake").exists()
    lake.commit(0)
    assert offsets_in(tmp_path / "lake") == [1, 2, 3]
    assert [entry["operation"] for entry in DeltaTable(tmp_path / "lake").history()] == ["WRITE", "CREATE TABLE"]
    lake.commit(0)  # Nothing came: no version.
    assert DeltaTable(tmp_path / "lake").version() == 1


def test_a_full_buffer_is_committed_early_so_memory_is_bounded(tmp_path: Path) -> None:
    lake = writer(tmp_path, max_buffer_bytes=2000)
    for batch in range(1, 101):
        lake.record(batch, events(batch), 1, batch - 1)
        assert lake._waiting_bytes <= 2000
    assert 1 < DeltaTable(tmp_path).version() < 50
    assert lake.lake.last_batch() > 50


@pytest.mark.parametrize("keep_for_s", [0.0, 3600.0, 86_400.0])
@pytest.mark.parametrize("again", range(0, 30, 3))
def test_what_a_merge_under_way_had_written_goes_by_the_stated_time_whatever_becomes_garbage_meanwhile(keep_for_s: float, again: int) -> None:
    """The merge read a deleted user's rows before the deletion, wrote them ten minutes after it, and its commit lost."""
    config = parse_config({"lake": {"keep_for_s": keep_for_s}})
    minute, keep = 60_000, keep_ms(config.lake)
    end = gone_by_ms(0, config)
    meanwhile = again * end // 30 // minute * minute
    rounds, done = Rounds(), []
    for now_ms in range(0, end + 1, minute):
        is_due = rounds.at_ms is not None and now_ms >= rounds.at_ms
        done += [now_ms] if is_due else []
        rounds = rounds.after(now_ms, keep, done=is_due, garbage=now_ms in (0, meanwhile))
    assert any(now_ms - 10 * minute >= max(keep, HOUR_MS) for now_ms in done)


def test_small_files_are_merged_after_so_many_commits_and_their_files_go_after_the_time_to_keep(tmp_path: Path) -> None:
    lake = writer(tmp_path, optimize_every=3, keep_for_s=0.0)
    files = []
    for batch in range(1, 8):
        lake.record(batch, events(batch), 1, batch - 1)
        lake.commit(batch * 1000)
        files.append((len(DeltaTable(tmp_path).file_uris()), len(list(tmp_path.glob("namespace=*/**/*.parquet")))))
    assert [num for num, _ in files] == [1, 2, 1, 2, 3, 1, 2]
    assert files[3] == (2, 2)  # The vacuum of the fourth commit took the three files that the third had merged.
    assert lake.lake.last_batch() == 7


def test_a_deletion_is_followed_by_a_vacuum_within_twice_the_time_to_keep_also_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[float] = []
    monkeypatch.setattr(EventLake, "vacuum", lambda self, keep_for_s: done.append(keep_for_s) or 0)
    lake = writer(tmp_path, keep_for_s=5400.0)  # A vacuum knows whole hours: 2.
    lake.record(1, events(1), 1, 0)
    assert lake.delete_user("default", "u1") == 1
    lake.commit(1000)
    lake = restored(lake)
    lake.commit(7_200_999)
    assert done == []
    lake.commit(7_201_000)
    lake.commit(14_400_999)
    assert done == [5400.0]
    lake.commit(14_401_000)
    assert done == [5400.0, 5400.0]
    assert lake.vacuum_at_ms is None


def test_files_that_went_while_the_clock_was_ahead_are_asked_for_until_that_time_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[float] = []
    monkeypatch.setattr(EventLake, "vacuum", lambda self, keep_for_s: done.append(keep_for_s) or 0)
    lake = writer(tmp_path, keep_for_s=3600.0)
    lake.record(1, events(1), 1, 0)
    assert lake.delete_user("default", "u1") == 1
    lake.commit(24 * HOUR_MS)
    lake.commit(0)  # The clock is right again.
    for hour in range(1, 26):
        lake = restored(lake)
        lake.commit(hour * HOUR_MS)
    assert (len(done), lake.vacuum_at_ms) == (25, 26 * HOUR_MS)
    lake.commit(26 * HOUR_MS)
    assert (len(done), lake.vacuum_at_ms) == (26, None)


def test_the_second_vacuum_waits_until_a_clock_that_was_ahead_is_caught_up_with_also_where_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[float] = []
    monkeypatch.setattr(EventLake, "vacuum", lambda self, keep_for_s: done.append(keep_for_s) or 0)
    lake = writer(tmp_path, keep_for_s=0.0)
    lake.record(1, events(1), 1, 0)
    assert lake.delete_user("default", "u1") == 1
    for _ in range(5):
        lake.commit(24 * HOUR_MS)  # The time that plans keep while the clock is behind.
    # What was never committed stays for an hour, and a merge that was under way may write for ten minutes more.
    assert (len(done), lake.vacuum_at_ms) == (1, 25 * HOUR_MS + 600_000)
    lake.commit(25 * HOUR_MS + 600_000)
    assert (len(done), lake.vacuum_at_ms) == (2, None)


def test_what_can_not_be_tidied_stops_nobody_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lake = writer(tmp_path, optimize_every=1)

    def refuse(_: EventLake) -> dict[str, int]:
        what = "Lake: could not optimize the table"
        raise StorageError(what)

    monkeypatch.setattr(lake_writer, "merge_apart", refuse)
    lake.record(1, events(1), 1, 0)
    with caplog.at_level(logging.WARNING):
        lake.commit(0)
    assert "the lake's rows are safe, but its files could not be tidied (optimize)" in caplog.text
    monkeypatch.undo()
    lake.record(2, events(2), 1, 1)
    lake.commit(0)
    assert len(DeltaTable(tmp_path).file_uris()) == 1


def test_a_deletion_reaches_what_waits_and_what_is_stored_but_nothing_that_comes_after_it(tmp_path: Path) -> None:
    lake = writer(tmp_path)
    lake.record(1, events(1, 2), 2, 0)
    lake.commit(0)
    lake.record(2, pa.concat_tables([events(3), events(4, user="u2")]), 2, 2)
    before = restored(lake)
    assert lake.delete_user("default", "u1") == 3
    lake.record(3, events(5), 1, 4)
    lake.commit(0)
    assert offsets_in(tmp_path) == [4, 5]
    # The same steps again, as after a crash.
    before.restore(before.snapshot())
    again = writer(tmp_path)
    again.record(1, events(1, 2), 2, 0)
    again.commit(0)
    again.record(2, pa.concat_tables([events(3), events(4, user="u2")]), 2, 2)
    assert again.delete_user("default", "u1") == 0
    again.record(3, events(5), 1, 4)
    again.commit(0)
    assert offsets_in(tmp_path) == [4, 5]
    assert again.digest() == lake.digest()


def agrees(world: World, controller: Any) -> bool:
    report = check_lake(controller.parts.lake.lake, CheckpointStore(open_storage(checkpoint_url(str(world.folder)))))
    assert report.differences == []
    return not report.rows_ahead


@pytest.fixture
def half(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> World:
    """A stream that has read half of its events, without a lake."""
    world = make_world(mixed[: len(mixed) // 2], {**FAST, "lake": {"enabled": False}}, folder=tmp_path / "state")
    world.play(world.controller())
    assert not (tmp_path / "state" / "lake").exists()
    return world


def with_lake(world: World, **lake: Any) -> World:
    world.config = world.config.model_copy(update={"lake": LakeConfig(**lake)})
    return world


def test_a_lake_that_begins_in_the_middle_of_a_stream_holds_what_comes_from_then_on(half: World, mixed: list[Record]) -> None:
    world = with_lake(half)
    earlier = world.controller().state.counts["applied"]
    world.append(mixed[len(mixed) // 2 :])
    controller = world.controller()
    world.play(controller)
    assert agrees(world, controller)
    assert controller.parts.lake.snapshot().meta["left_out"]["earlier"] == earlier


def test_a_lake_that_was_switched_off_for_a_while_goes_on_behind_the_gap(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path
) -> None:
    third = len(mixed) // 3
    world = make_world(mixed[:third], FAST, folder=tmp_path)
    for enabled, part in ((True, []), (False, mixed[third : 2 * third]), (True, mixed[2 * third :])):
        with_lake(world, enabled=enabled)
        world.append(part)
        controller = world.controller()
        world.play(controller)
    assert agrees(world, controller)
    assert controller.parts.lake.snapshot().meta["left_out"]["earlier"] > 0


def test_a_new_address_begins_a_new_table_and_only_deletions_reach_the_old_one(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path
) -> None:
    world = make_world(mixed[:200], FAST, folder=tmp_path / "state")
    world.play(world.controller())
    old = offsets_in(tmp_path / "state" / "lake")
    with_lake(world, address=str(tmp_path / "elsewhere"))
    world.append(one for one in mixed[200:] if b"deletion" not in one.value)
    controller = world.controller()
    world.play(controller)
    assert agrees(world, controller)
    assert offsets_in(tmp_path / "state" / "lake") == old
    assert len(offsets_in(tmp_path / "elsewhere")) > 0


def test_after_the_storage_refused_the_checkpoint_before_stays_and_a_restart_brings_every_row(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path
) -> None:
    world = make_world(mixed, FAST, folder=tmp_path)
    (tmp_path / "lake").write_text("in the way")
    with pytest.raises(StorageError, match=f"{tmp_path}/lake"):
        world.play(world.controller())
    assert CheckpointStore(open_storage(checkpoint_url(str(tmp_path)))).load_newest() is None
    (tmp_path / "lake").unlink()
    controller = world.controller()
    world.play(controller)
    assert agrees(world, controller)


def test_a_controller_that_keeps_nothing_writes_no_lake(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> None:
    world = make_world(mixed[:50], FAST, folder=tmp_path)
    controller = world.controller(durable=False)
    assert controller.parts.lake is None
    controller.step()
    assert not (tmp_path / "lake").exists()


def test_a_lineage_is_made_once_and_goes_with_the_checkpoint(tmp_path: Path) -> None:
    name = lineage_of(str(tmp_path / "a"))
    assert lineage_of(str(tmp_path / "a")) == known_lineage(str(tmp_path / "a")) == name
    assert lineage_of(str(tmp_path / "b")) != name


def test_a_merge_in_a_process_of_its_own_says_what_it_did_or_why_it_did_not(tmp_path: Path) -> None:
    lake = writer(tmp_path, optimize_every=0)
    for batch in (1, 2, 3):
        lake.record(batch, events(batch), 1, batch - 1)
        lake.commit(0)
    assert merge_apart(lake.lake) == {"files_before": 3, "files_after": 1}
    stranger = EventLake(str(tmp_path), lambda: "another")
    with pytest.raises(StorageError, match=r"could not be merged: Lake: the table at .* belongs to another state"):
        merge_apart(stranger)


def test_a_merge_does_not_outlive_the_process_that_began_it(tmp_path: Path) -> None:
    lake = EventLake(str(tmp_path), lambda: "one")
    lake.append(lake_rows(events(1), "events", 1), 1)
    entry = Path(lake.next_entry())
    os.mkfifo(entry)
    words = "from streamrec.log.lake import EventLake; from streamrec.pipeline.lake_merging import merge_apart; "
    words += f"merge_apart(EventLake({str(tmp_path)!r}, lambda: 'one'))"
    parent = subprocess.Popen([sys.executable, "-c", words])
    with entry.open("wb"):  # Opens when the merge reads it, which goes on for as long as nothing comes.
        merges = psutil.Process(parent.pid).children()
        parent.kill()
        parent.wait()
        gone, alive = psutil.wait_procs(merges, timeout=60)
        for process in alive:
            process.kill()
    assert (len(gone), alive) == (1, [])
