"""Keep a log in this process: for backtests and tests. No Ray, no disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from streamrec.clock import Clock, SystemClock
from streamrec.log.base import Record, check_records
from streamrec.log.offsets import OffsetRange, beyond_the_end, check_ranges, no_partition, no_topic, other_num_partitions, retention_gap
from streamrec.log.rows import concatenated, consecutive_rows
from streamrec.log.topics import checked_topic, partition_of


@dataclass
class _Partition:
    earliest: int = 0
    rows: list[tuple[int, bytes | None, bytes]] = field(default_factory=list)

    @property
    def latest(self) -> int:
        return self.earliest + len(self.rows)


class MemoryLog:
    """Implement `TableReader`, `LogWriter` and `LogAdmin` on lists, safe for threads.

    Example:
        >>> log = MemoryLog()
        >>> log.ensure_topic("events", 1)
        >>> log.append("events", [Record(key=b"u", value=b"{}")])
        [(0, 0)]
        >>> log.read_table([OffsetRange("events", 0, 0, 1)]).num_rows
        1
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._topics: dict[str, list[_Partition]] = {}
        self._changed = threading.Condition()
        self._next_unkeyed = 0

    @classmethod
    def named(cls, name: str) -> MemoryLog:
        """Return the log of this process that has this name, made at the first call."""
        with _NAMED_LOCK:
            return _NAMED.setdefault(name, cls())

    def copy(self) -> MemoryLog:
        """Return another log with the same records at the same offsets."""
        other = MemoryLog(self._clock)
        with self._changed:
            other._next_unkeyed = self._next_unkeyed
            other._topics = {
                topic: [_Partition(partition.earliest, list(partition.rows)) for partition in partitions]
                for topic, partitions in self._topics.items()
            }
        return other

    def ensure_topic(self, topic: str, num_partitions: int) -> None:
        """Create the topic unless it is there."""
        with self._changed:
            existing = self._topics.setdefault(checked_topic(topic), [_Partition() for _ in range(num_partitions)])
        if len(existing) != num_partitions:
            raise other_num_partitions(topic, len(existing), num_partitions)

    def drop_before(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Drop by partition what lies below an offset."""
        with self._changed:
            partitions = self._partitions(topic)
            for partition, offset in offsets.items():
                mine = _existing(topic, partition, partitions)
                num_dropped = max(0, min(offset, mine.latest) - mine.earliest)
                del mine.rows[:num_dropped]
                mine.earliest += num_dropped

    def partitions(self, topic: str) -> list[int]:
        """Return the topic's partitions in order."""
        return list(range(len(self._partitions(topic))))

    def earliest(self, topic: str) -> dict[int, int]:
        """Return by partition the first offset that is still there (inclusive)."""
        return {number: mine.earliest for number, mine in enumerate(self._partitions(topic))}

    def latest(self, topic: str) -> dict[int, int]:
        """Return by partition the end offset (exclusive)."""
        return {number: mine.latest for number, mine in enumerate(self._partitions(topic))}

    def topic_id(self, topic: str) -> str:
        """Return nothing: a topic has no id here."""
        return ""

    def read_table(self, ranges: Sequence[OffsetRange]) -> pa.Table:
        """Return the rows of exactly these offsets."""
        with self._changed:
            topics = {part.topic: self._partitions(part.topic) for part in ranges}
            bounds = {(topic, number): (mine.earliest, mine.latest) for topic, partitions in topics.items() for number, mine in enumerate(partitions)}
            check_ranges(ranges, bounds)
            return concatenated([_rows(part.topic, part.partition, topics[part.topic][part.partition], part.start, part.end) for part in ranges])

    def append(self, topic: str, records: Sequence[Record]) -> list[tuple[int, int]]:
        """Append and return the (partition, offset) of each record."""
        check_records(records)
        now_ms = self._clock.now_ms()
        with self._changed:
            partitions = self._partitions(topic)
            chosen = [self._choose(topic, record, len(partitions)) for record in records]
            places: list[tuple[int, int]] = []
            for record, partition in zip(records, chosen, strict=True):
                places.append((partition, partitions[partition].latest))
                timestamp_ms = now_ms if record.timestamp_ms is None else record.timestamp_ms
                partitions[partition].rows.append((timestamp_ms, record.key, record.value))
            self._changed.notify_all()
        return places

    def close(self) -> None:
        """Keep everything; there is nothing to release."""

    def follow(self, topic: str, start_offsets: Mapping[int, int]) -> MemoryTail:
        """Return a tail of this log."""
        return MemoryTail(self, topic, start_offsets)

    def wait_for(self, topic: str, next_offsets: Mapping[int, int], timeout_s: float) -> list[OffsetRange]:
        """Return what lies at or above these offsets, after waiting for it at most ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                partitions = self._partitions(topic)
                ranges = [_waiting(topic, number, start, partitions) for number, start in sorted(next_offsets.items())]
                ranges = [part for part in ranges if part.num_offsets]
                if ranges or not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    return ranges

    def _partitions(self, topic: str) -> list[_Partition]:
        if topic not in self._topics:
            raise no_topic(topic)
        return self._topics[topic]

    def _choose(self, topic: str, record: Record, num_partitions: int) -> int:
        if record.partition is not None:
            _existing(topic, record.partition, self._topics[topic])
            return record.partition
        if record.key is not None:
            return partition_of(record.key, num_partitions)
        self._next_unkeyed += 1
        return self._next_unkeyed % num_partitions


class MemoryTail:
    """Follow a `MemoryLog`."""

    def __init__(self, log: MemoryLog, topic: str, start_offsets: Mapping[int, int]) -> None:
        self._log = log
        self._topic = topic
        self._next = dict(start_offsets)

    def poll(self, timeout_s: float) -> pa.Table:
        """Return the records that came; no rows when nothing came in time."""
        ranges = self._log.wait_for(self._topic, self._next, timeout_s)
        rows = self._log.read_table(ranges)
        self._next.update({part.partition: part.end for part in ranges})
        return rows

    def close(self) -> None:
        """Stop following; there is nothing to release."""


_NAMED: dict[str, MemoryLog] = {}
_NAMED_LOCK = threading.Lock()


def _rows(topic: str, partition: int, mine: _Partition, start: int, end: int) -> pa.Table:
    rows = mine.rows[start - mine.earliest : end - mine.earliest] if end > start else []
    return consecutive_rows(topic, partition, start, [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])


def _existing(topic: str, partition: int, partitions: Sequence[_Partition]) -> _Partition:
    if not 0 <= partition < len(partitions):
        raise no_partition(topic, partition, range(len(partitions)))
    return partitions[partition]


def _waiting(topic: str, partition: int, start: int, partitions: Sequence[_Partition]) -> OffsetRange:
    mine = _existing(topic, partition, partitions)
    if start < mine.earliest:
        raise retention_gap(topic, partition, start, mine.earliest)
    if start > mine.latest:
        raise beyond_the_end(topic, partition, start, mine.latest)
    return OffsetRange(topic, partition, start, mine.latest)
