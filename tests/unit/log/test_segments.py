from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamrec.errors import Damaged, StorageError
from streamrec.log.base import Record
from streamrec.log.local import LocalAdmin, LocalLog, LocalWriter
from streamrec.log.segments import FAN_IN, SCHEMA, PartitionFolder

APPENDER = """
import sys
from pathlib import Path
import pyarrow as pa
from streamrec.log.segments import SCHEMA, PartitionFolder
folder = PartitionFolder(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    value = b"%s-%d" % (sys.argv[2].encode(), number)
    print(folder.append(pa.table([[0], [None], [value]], schema=SCHEMA)), flush=True)
"""


def rows_of(*values: bytes) -> pa.Table:
    return pa.table([[0] * len(values), [None] * len(values), list(values)], schema=SCHEMA)


def values_in(folder: PartitionFolder) -> list[bytes]:
    return list(folder.read(*folder.bounds())["value"].to_pylist())


def appender(folder: PartitionFolder, name: str, num_appends: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", APPENDER, str(folder.folder), name, str(num_appends)], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> PartitionFolder:
    made = PartitionFolder(tmp_path / "0")
    made.create()
    return made


def test_many_appends_leave_few_segments_and_every_row(folder: PartitionFolder) -> None:
    num_appends = FAN_IN * FAN_IN + 5
    for number in range(num_appends):
        assert folder.append(rows_of(b"%d" % number)) == number
        assert len(folder.segments()) < 2 * FAN_IN
    assert values_in(folder) == [b"%d" % number for number in range(num_appends)]
    assert [segment.num_rows for segment in folder.segments()] == [FAN_IN * FAN_IN, 1, 1, 1, 1, 1]
    assert {path.suffix for path in folder.folder.iterdir() if not path.name.startswith(".")} == {".arrow"}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.sampled_from([1, 2, 7, 40, 1500]), min_size=1, max_size=90), drop=st.floats(0, 1))
def test_any_row_can_be_read_whatever_the_sizes_of_the_appends(tmp_path: Path, sizes: list[int], drop: float) -> None:
    folder = PartitionFolder(tmp_path / os.urandom(8).hex())
    folder.create()
    expected: list[bytes] = []
    for size in sizes:
        new = [b"%d" % (len(expected) + number) for number in range(size)]
        assert folder.append(rows_of(*new)) == len(expected)
        expected += new
    assert values_in(folder) == expected
    middle = len(expected) // 2
    assert folder.read(middle, middle + 1)["value"].to_pylist() == [expected[middle]]
    folder.drop_before(int(drop * len(expected)))
    earliest, latest = folder.bounds()
    assert earliest <= int(drop * len(expected))
    assert latest == len(expected)
    assert values_in(folder) == expected[earliest:]


def test_several_processes_append_without_losing_or_repeating_a_row(folder: PartitionFolder) -> None:
    processes = [appender(folder, name, 40) for name in "ab"]
    told = [[int(line) for line in process.communicate(timeout=60)[0].split()] for process in processes]
    values = values_in(folder)
    assert len(values) == 80
    for name, offsets in zip("ab", told, strict=True):
        assert [values[offset] for offset in offsets] == [f"{name}-{number}".encode() for number in range(40)]


def test_a_killed_writer_loses_nothing_that_it_acknowledged(folder: PartitionFolder) -> None:
    for attempt in range(2):
        process = appender(folder, str(attempt), 100_000)
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(40 + 17 * attempt)]
        process.send_signal(signal.SIGKILL)
        told += [int(line) for line in process.communicate()[0].splitlines()]
        values = values_in(folder)
        assert [values[offset] for offset in told] == [b"%d-%d" % (attempt, number) for number in range(len(told))]
        assert len(set(values)) == len(values)
        assert len(values) - 1 <= told[-1] + 1  # at most the row under way was written and not acknowledged
    assert folder.append(rows_of(b"next")) == len(values)


@pytest.mark.parametrize("num_removed", [0, 1, FAN_IN - 1])
def test_a_writer_killed_in_the_middle_of_a_merge_leaves_every_row_once(
    folder: PartitionFolder, num_removed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = num_removed
    unlink = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        unlink(path, missing_ok)

    for number in range(FAN_IN - 1):
        folder.append(rows_of(b"%d" % number))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            folder.append(rows_of(b"%d" % (FAN_IN - 1)))
    assert values_in(folder) == [b"%d" % number for number in range(FAN_IN)]
    (folder.folder / "123.tmp").write_bytes(b"left by a killed writer")
    assert folder.append(rows_of(b"next")) == FAN_IN
    assert len(list(folder.folder.glob("*.arrow"))) == 2
    assert list(folder.folder.glob("*.tmp")) == []


def test_a_full_disk_keeps_what_was_there(folder: PartitionFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.append(rows_of(b"0"))

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=r"No space left.*free some space"):
            folder.append(rows_of(b"1"))
    assert list(folder.folder.glob("*.tmp")) == []
    assert folder.append(rows_of(b"2")) == 1
    assert values_in(folder) == [b"0", b"2"]


def test_a_segment_that_somebody_removed_is_missed(folder: PartitionFolder) -> None:
    for number in range(3):
        folder.append(rows_of(b"%d" % number))
    Path(folder.segments()[1].path).unlink()
    with pytest.raises(Damaged, match=r"segments are missing before.*got a segment from offset 2, allowed one from 1"):
        folder.read(0, 3)


def test_dropping_everything_keeps_the_end(folder: PartitionFolder) -> None:
    folder.drop_before(10)
    for number in range(3):
        folder.append(rows_of(b"%d" % number))
    folder.drop_before(100)
    assert folder.bounds() == (2, 3)
    assert folder.append(rows_of(b"3")) == 3


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: bytes(len(data)), lambda _: b""], ids=["halved", "zeroed", "emptied"]
)
def test_a_torn_segment_is_told_by_its_file_with_what_to_do(folder: PartitionFolder, damage: Callable[[bytes], bytes]) -> None:
    folder.append(rows_of(b"a", b"b"))
    folder.append(rows_of(b"c"))
    torn = Path(folder.segments()[0].path)
    torn.write_bytes(damage(torn.read_bytes()))
    with pytest.raises(Damaged, match=rf"Log: the segment {torn} is torn, got .*, allowed 2 rows as they were written, restore it from a copy"):
        values_in(folder)
    torn.unlink()
    assert values_in(folder) == [b"c"]


def test_a_segment_under_the_name_of_another_is_torn(folder: PartitionFolder) -> None:
    folder.append(rows_of(b"a", b"b"))
    other = Path(folder.segments()[0].path)
    folder.append(rows_of(b"c"))
    other.write_bytes(Path(folder.segments()[1].path).read_bytes())
    with pytest.raises(Damaged, match=rf"{other} is torn, got 1 rows of timestamp, key, value, allowed 2 rows"):
        values_in(folder)


def test_a_foreign_file_beside_segments_is_not_looked_at(folder: PartitionFolder) -> None:
    folder.append(rows_of(b"a"))
    segment = Path(folder.segments()[0].path)
    foreign = [segment.with_name(name) for name in (f"{segment.stem} copy.arrow", "notes.arrow", "1-2.arrow", ".DS_Store", f"{segment.name}.bak")]
    for path in foreign:
        path.write_bytes(segment.read_bytes())
    assert folder.append(rows_of(b"b")) == 1
    assert values_in(folder) == [b"a", b"b"]
    assert all(path.exists() for path in foreign)


def test_a_foreign_file_in_a_topics_folder_is_no_partition(tmp_path: Path) -> None:
    LocalAdmin(tmp_path).ensure_topic("events", 2)
    for name in (".DS_Store", "notes.txt", "7"):
        (tmp_path / "events" / name).write_bytes(b"x")
    (tmp_path / "events" / "old").mkdir()
    assert LocalLog(tmp_path).partitions("events") == [0, 1]
    assert LocalLog(tmp_path).latest("events") == {0: 0, 1: 0}
    LocalAdmin(tmp_path).ensure_topic("events", 2)
    assert LocalWriter(tmp_path).append("events", [Record(b"u", b"{}", partition=1)]) == [(1, 0)]
