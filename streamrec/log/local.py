"""Keep a log as files of one machine: one folder per topic, in it one folder per partition.

For a laptop with nothing else, and for tests. The contract is Kafka's as far as `streamrec.log.base` states it; several processes may
write at once. The layout of a partition is described in `streamrec.log.segments`.
"""

from __future__ import annotations

import errno
import shutil
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from itertools import count, takewhile
from pathlib import Path

import pyarrow as pa
import ray

from streamrec.clock import Clock, SystemClock
from streamrec.errors import StorageError
from streamrec.log.base import Record, check_records
from streamrec.log.offsets import OffsetRange, beyond_the_end, check_ranges, no_partition, no_topic, other_num_partitions, retention_gap
from streamrec.log.rows import NO_ROWS, concatenated, consecutive_rows
from streamrec.log.segments import SCHEMA, PartitionFolder, sync_folder
from streamrec.log.topics import checked_topic, partition_of

# How often a waiting tail looks at its folders: bounds what it adds to freshness.
_LOOK_EVERY_S = 0.004
# Two changes within one tick of the file system's clock have one time; a time this old can't hide a second change.
_SETTLED_AFTER_NS = 20_000_000


class LocalLog:
    """Read a log of files; implements `LogReader`.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> LocalAdmin(folder).ensure_topic("events", 2)
        >>> LocalWriter(folder).append("events", [Record(key=b"u", value=b"{}", partition=1)])
        [(1, 0)]
        >>> LocalLog(folder).latest("events")
        {0: 0, 1: 1}
    """

    def __init__(self, folder: str | Path) -> None:
        self._topics = _Topics(folder)

    def partitions(self, topic: str) -> list[int]:
        """Return the topic's partitions in order."""
        return list(range(len(self._topics.of(topic))))

    def earliest(self, topic: str) -> dict[int, int]:
        """Return by partition the first offset that is still there (inclusive)."""
        return {number: folder.bounds()[0] for number, folder in enumerate(self._topics.of(topic))}

    def latest(self, topic: str) -> dict[int, int]:
        """Return by partition the end offset (exclusive)."""
        return {number: folder.bounds()[1] for number, folder in enumerate(self._topics.of(topic))}

    def topic_id(self, topic: str) -> str:
        """Return nothing: a topic has no id here."""
        return ""

    def read_table(self, ranges: Sequence[OffsetRange]) -> pa.Table:
        """Return the rows of exactly these offsets, without Ray."""
        return concatenated(self._read(ranges))

    def read(self, ranges: Sequence[OffsetRange]) -> ray.data.Dataset:
        """Return a dataset of the rows of exactly these offsets, one block per range that has any.

        The files are this machine's, so the driver reads them: no read task would start sooner.
        """
        tables = [table.combine_chunks() for table in self._read(ranges) if table.num_rows]
        return ray.data.from_arrow(tables or [NO_ROWS])

    def close(self) -> None:
        """Release nothing: files are opened for the time of a read."""

    def _read(self, ranges: Sequence[OffsetRange]) -> list[pa.Table]:
        folders = [self._topics.folder(part.topic, part.partition) for part in ranges]
        check_ranges(ranges, {(part.topic, part.partition): folder.bounds() for part, folder in zip(ranges, folders, strict=True)})
        return [_rows(part.topic, part.partition, folder, part.start, part.end) for part, folder in zip(ranges, folders, strict=True)]


class LocalWriter:
    """Append to a log of files; implements `LogWriter`."""

    def __init__(self, folder: str | Path, clock: Clock | None = None) -> None:
        self._topics = _Topics(folder)
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._next_unkeyed = 0

    def append(self, topic: str, records: Sequence[Record]) -> list[tuple[int, int]]:
        """Append and return the (partition, offset) of each record; on disk when it returns."""
        check_records(records)
        folders = self._topics.of(topic)
        chosen = [self._choose(topic, record, len(folders)) for record in records]
        now_ms = self._clock.now_ms()
        offsets: dict[int, int] = {}
        for partition in sorted(set(chosen)):
            mine = [record for record, its in zip(records, chosen, strict=True) if its == partition]
            times = [now_ms if record.timestamp_ms is None else record.timestamp_ms for record in mine]
            columns = [times, [record.key for record in mine], [record.value for record in mine]]
            offsets[partition] = folders[partition].append(pa.table(columns, schema=SCHEMA))
        places: list[tuple[int, int]] = []
        for partition in chosen:
            places.append((partition, offsets[partition]))
            offsets[partition] += 1
        return places

    def close(self) -> None:
        """Release nothing: what was appended is on disk."""

    def _choose(self, topic: str, record: Record, num_partitions: int) -> int:
        if record.partition is not None:
            self._topics.folder(topic, record.partition)
            return record.partition
        if record.key is not None:
            return partition_of(record.key, num_partitions)
        with self._lock:
            self._next_unkeyed += 1
            return self._next_unkeyed % num_partitions


class LocalAdmin:
    """Create the topics of a log of files; implements `LogAdmin`."""

    def __init__(self, folder: str | Path) -> None:
        self._root = Path(folder).absolute()

    def ensure_topic(self, topic: str, num_partitions: int) -> None:
        """Create the topic unless it is there: all its partitions appear at once."""
        folder = self._root / checked_topic(topic)
        if not folder.exists():
            self._create(folder, num_partitions)
        existing = len(_Topics(self._root).of(topic))
        if existing != num_partitions:
            raise other_num_partitions(topic, existing, num_partitions)

    def drop_before(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Drop by partition the segments that lie wholly below an offset, except for the newest."""
        topics = _Topics(self._root)
        for partition, offset in offsets.items():
            topics.folder(topic, partition).drop_before(offset)

    def close(self) -> None:
        """Release nothing."""

    def _create(self, folder: Path, num_partitions: int) -> None:
        making = self._root / f".{uuid.uuid4().hex}"
        try:
            for number in range(num_partitions):
                PartitionFolder(making / str(number)).create()
            sync_folder(making)
            making.rename(folder)
            sync_folder(self._root)
        except OSError as error:
            shutil.rmtree(making, ignore_errors=True)
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                what = f"Log: the disk refused ({error.strerror}) in {self._root}"
                raise StorageError(what, do="check the folder and its permissions", errno=error.errno) from error


class LocalTail:
    """Follow a topic of files; implements `LogTail`."""

    def __init__(self, folder: str | Path, topic: str, start_offsets: Mapping[int, int]) -> None:
        self._topic = topic
        self._topics = _Topics(folder)
        self._next = dict(sorted(start_offsets.items()))
        self._settled_ns: dict[int, int] = {}

    def poll(self, timeout_s: float) -> pa.Table:
        """Return the records that came; looks every few milliseconds until some did or the time is over."""
        deadline = time.monotonic() + timeout_s
        while True:
            rows = [table for partition in self._next if (table := self._news(partition)).num_rows]
            left_s = deadline - time.monotonic()
            if rows or left_s <= 0:
                return concatenated(rows)
            time.sleep(min(_LOOK_EVERY_S, left_s))

    def close(self) -> None:
        """Release nothing."""

    def _news(self, partition: int) -> pa.Table:
        folder = self._topics.folder(self._topic, partition)
        changed_ns = folder.changed_ns()
        if self._settled_ns.get(partition) == changed_ns:
            return NO_ROWS
        settled = time.time_ns() - changed_ns > _SETTLED_AFTER_NS
        start = self._next[partition]
        earliest, latest = folder.bounds()
        if start < earliest:
            raise retention_gap(self._topic, partition, start, earliest)
        if start > latest:
            raise beyond_the_end(self._topic, partition, start, latest)
        rows = _rows(self._topic, partition, folder, start, latest)
        self._next[partition] = latest
        if settled:
            self._settled_ns[partition] = changed_ns
        return rows


class _Topics:
    """Find the partitions of topics; a topic never changes its number of partitions."""

    def __init__(self, folder: str | Path) -> None:
        self._root = Path(folder).absolute()
        self._known: dict[str, list[PartitionFolder]] = {}

    def of(self, topic: str) -> list[PartitionFolder]:
        known = self._known.get(topic)
        if known is None:
            folder = self._root / checked_topic(topic)
            if not folder.is_dir():
                raise no_topic(topic)
            # What else lies there, such as what a file manager leaves, is no partition.
            known = [PartitionFolder(folder / str(number)) for number in takewhile(lambda number: (folder / str(number)).is_dir(), count())]
            self._known[topic] = known
        return known

    def folder(self, topic: str, partition: int) -> PartitionFolder:
        folders = self.of(topic)
        if not 0 <= partition < len(folders):
            raise no_partition(topic, partition, range(len(folders)))
        return folders[partition]


def _rows(topic: str, partition: int, folder: PartitionFolder, start: int, end: int) -> pa.Table:
    if start >= end:
        return NO_ROWS
    rows = folder.read(start, end)
    if rows.num_rows != end - start:  # dropped since the bounds were checked
        raise retention_gap(topic, partition, start, folder.bounds()[0])
    return consecutive_rows(topic, partition, start, rows["timestamp"], rows["key"], rows["value"])
