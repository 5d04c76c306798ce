"""Keep one partition as Arrow IPC segments of a folder.

A segment is the file ``<first offset>-<end offset>.arrow``, so the names alone say which offsets there are. It is written under another
name, synced and renamed; then the folder is synced. Writers take turns by a lock on ``.append``. When many small segments have gathered,
the writer that made the last one merges them into one; the merged segment is there before the small ones go, and whoever finds both reads
the merged one. The step from the one to the others is taken under a lock on ``.listing``, which readers share while they list.

Whatever has another name is not looked at. A killed writer leaves at most a ``.tmp`` file or merged-away segments: the next writer removes both.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc

from streamrec.errors import Damaged, StorageError

SCHEMA = pa.schema([("timestamp", pa.int64()), ("key", pa.binary()), ("value", pa.binary())])

# A partition has at most this many segments per power of this many rows, so that listing and reading stay quick after any number of appends.
FAN_IN = 32
_MAX_POWER = 3
_SEGMENT = re.compile(r"([0-9]{20})-([0-9]{20})\.arrow")
# Bounds the memory of a merge.
_MAX_MERGED_BYTES = 64 * 1024 * 1024
# A segment may be merged away between listing and opening, once per FAN_IN appends.
_MAX_READ_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Segment:
    """Name the file of the offsets ``[start, end)``."""

    start: int
    end: int
    path: str

    @property
    def num_rows(self) -> int:
        """Return how many rows the segment has."""
        return self.end - self.start


class PartitionFolder:
    """Append to, read and merge one partition's segments; safe for any number of threads and processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self) -> None:
        """Make an empty partition."""
        with _disk(self.folder):
            self.folder.mkdir(parents=True)
            for name in (".append", ".listing"):
                (self.folder / name).touch()

    def bounds(self) -> tuple[int, int]:
        """Return the earliest offset (inclusive) and the end offset (exclusive)."""
        segments = self.segments()
        return (segments[0].start, segments[-1].end) if segments else (0, 0)

    def segments(self) -> list[Segment]:
        """Return the segments that hold the partition's rows, in order and without overlap."""
        with _disk(self.folder), self._locked(".listing", fcntl.LOCK_SH):
            return _chain(self._list()[0])[0]

    def changed_ns(self) -> int:
        """Return when an entry of the folder last changed, on the file system's clock in nanoseconds."""
        with _disk(self.folder):
            return self.folder.stat().st_mtime_ns

    def read(self, start: int, end: int) -> pa.Table:
        """Return the rows of the offsets ``[start, end)`` that are there, in the schema `SCHEMA`; the caller has checked the bounds."""
        for _ in range(_MAX_READ_ATTEMPTS):
            with _disk(self.folder), suppress(FileNotFoundError):
                return _read([segment for segment in self.segments() if segment.end > start and segment.start < end], start, end)
        what = f"Log: the segments of {self.folder} went away while they were read"
        raise StorageError(what, do="check what else removes files there")

    def append(self, rows: pa.Table) -> int:
        """Append rows of the schema `SCHEMA` and return the offset of the first; on disk when it returns."""
        with _disk(self.folder), self._locked(".append", fcntl.LOCK_EX):
            found, abandoned = self._list()
            segments, merged_away = _chain(found)
            self._remove([*abandoned, *(segment.path for segment in merged_away)])
            start = segments[-1].end if segments else 0
            segments.append(self._publish(start, rows))
            self._merge(segments)
        return start

    def drop_before(self, offset: int) -> None:
        """Remove the segments that lie wholly below an offset; the newest always stays, because it holds the end offset."""
        with _disk(self.folder), self._locked(".append", fcntl.LOCK_EX):
            segments, merged_away = _chain(self._list()[0])
            self._remove([segment.path for segment in (*merged_away, *segments[:-1]) if segment.end <= offset])

    def _publish(self, start: int, rows: pa.Table) -> Segment:
        temporary = self._write(rows)
        segment = self._named(start, start + rows.num_rows)
        temporary.replace(segment.path)
        sync_folder(self.folder)
        return segment

    def _merge(self, segments: Sequence[Segment]) -> None:
        run = _run_to_merge(segments)
        if not run or sum(Path(segment.path).stat().st_size for segment in run) > _MAX_MERGED_BYTES:
            return
        temporary = self._write(_read(run, run[0].start, run[-1].end))
        with self._locked(".listing", fcntl.LOCK_EX):
            temporary.replace(self._named(run[0].start, run[-1].end).path)
            sync_folder(self.folder)
            for segment in run:
                Path(segment.path).unlink()

    def _write(self, rows: pa.Table) -> Path:
        sink = pa.BufferOutputStream()
        with pyarrow.ipc.new_file(sink, SCHEMA) as writer:
            writer.write_table(rows)
        temporary = self.folder / f"{os.getpid()}.tmp"
        try:
            with temporary.open("wb") as file:
                file.write(sink.getvalue())
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _remove(self, paths: Sequence[str]) -> None:
        if paths:
            with self._locked(".listing", fcntl.LOCK_EX):
                for path in paths:
                    Path(path).unlink()

    def _named(self, start: int, end: int) -> Segment:
        return Segment(start, end, str(self.folder / f"{start:020d}-{end:020d}.arrow"))

    def _list(self) -> tuple[list[Segment], list[str]]:
        segments: list[Segment] = []
        abandoned: list[str] = []
        for entry in os.scandir(self.folder):
            if named := _SEGMENT.fullmatch(entry.name):
                segments.append(Segment(int(named[1]), int(named[2]), entry.path))
            elif entry.name.endswith(".tmp"):
                abandoned.append(entry.path)
        return segments, abandoned

    @contextmanager
    def _locked(self, name: str, mode: int) -> Iterator[None]:
        descriptor = os.open(self.folder / name, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, mode)
            yield
        finally:
            os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names of a folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _chain(found: Sequence[Segment]) -> tuple[list[Segment], list[Segment]]:
    chain: list[Segment] = []
    merged_away: list[Segment] = []
    for segment in sorted(found, key=lambda segment: (segment.start, -segment.end)):
        if not chain or segment.start == chain[-1].end:
            chain.append(segment)
        elif segment.end <= chain[-1].end:
            merged_away.append(segment)
        else:
            what = f"Log: segments are missing before {segment.path}"
            raise Damaged(what, got=f"a segment from offset {segment.start}", allowed=f"one from {chain[-1].end}", do="restore the folder's files")
    return chain, merged_away


def _power(num_rows: int) -> int:
    power = 0
    while power < _MAX_POWER and num_rows >= FAN_IN ** (power + 1):
        power += 1
    return power


def _run_to_merge(segments: Sequence[Segment]) -> list[Segment]:
    """Return the newest segments of at most some power when there are `FAN_IN` of them: then the merged one has a higher power."""
    for power in range(_MAX_POWER):
        first = len(segments)
        while first > 0 and _power(segments[first - 1].num_rows) <= power:
            first -= 1
        if len(segments) - first >= FAN_IN:
            return list(segments[first:])
    return []


def _read(segments: Sequence[Segment], start: int, end: int) -> pa.Table:
    tables = []
    for segment in segments:
        rows = _rows_of(segment)
        first = max(start, segment.start)
        tables.append(rows.slice(first - segment.start, min(end, segment.end) - first))
    return pa.concat_tables(tables) if tables else SCHEMA.empty_table()


def _rows_of(segment: Segment) -> pa.Table:
    """Return the rows of a segment's file.

    Raises:
        Damaged: It is not what was written.
    """
    found = "no Arrow file"
    with pa.OSFile(segment.path) as source:
        try:
            rows = pyarrow.ipc.open_file(source).read_all()
            rows.validate(full=True)
        except (pa.ArrowException, OSError) as error:  # Of a file that ends early Arrow says that it could not be read.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            found = str(error)
        else:
            if rows.schema.equals(SCHEMA) and rows.num_rows == segment.num_rows:
                return rows
            found = f"{rows.num_rows} rows of {', '.join(rows.schema.names)}"
    what = f"Log: the segment {segment.path} is torn"
    remedy = (
        "restore it from a copy; without one remove it and the older ones of its folder, and lose their records: python -m jobs.stream --skip-lost"
    )
    raise Damaged(what, got=found, allowed=f"{segment.num_rows} rows as they were written", do=remedy)


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        remedy = "free some space" if error.errno in {errno.ENOSPC, errno.EDQUOT} else "check the folder and its permissions"
        what = f"Log: the disk refused ({error.strerror}) in {folder}"
        raise StorageError(what, do=remedy, errno=error.errno) from error
