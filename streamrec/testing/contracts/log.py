"""Hold any log to the promises of `streamrec.log.base`.

Example:
    class TestMyLog(LogContract):
        @pytest.fixture
        def log(self, tmp_path):
            return LogUnderTest.at(local_address(tmp_path))
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest

from streamrec.config import LogConfig
from streamrec.errors import BrokerError, DataError, RetentionGap, RowCountMismatch
from streamrec.events.schema import LOG_ROW
from streamrec.log.base import MAX_RECORD_BYTES, LogAddress, LogAdmin, LogTail, LogWriter, Record, TableReader
from streamrec.log.connect import open_admin, open_table_reader, open_tail, open_writer
from streamrec.log.offsets import OffsetRange
from streamrec.log.topics import partition_of

_PATIENCE_S = 20.0


@dataclass(frozen=True)
class LogUnderTest:
    """Hold the parts of one log.

    Attributes:
        follow: Opens a tail of a topic at start offsets.
        reopened: Returns a reader that shares nothing with ``reader`` but the log.
    """

    reader: TableReader
    writer: LogWriter
    admin: LogAdmin
    follow: Callable[[str, Mapping[int, int]], LogTail]
    reopened: Callable[[], TableReader]

    @classmethod
    def at(cls, address: LogAddress, cfg: LogConfig | None = None) -> LogUnderTest:
        """Open the parts of the log at an address."""
        settings = cfg or LogConfig(connect_timeout_s=10.0, read_timeout_s=10.0)
        return cls(
            reader=open_table_reader(address, settings),
            writer=open_writer(address, settings),
            admin=open_admin(address, settings),
            follow=lambda topic, start_offsets: open_tail(address, topic, start_offsets, settings),
            reopened=lambda: open_table_reader(address, settings),
        )

    def close(self) -> None:
        """Close the parts."""
        for part in (self.reader, self.writer, self.admin):
            part.close()


def values(rows: pa.Table) -> list[bytes]:
    """Return the values of log rows."""
    return list(rows["value"].to_pylist())


def places_of(rows: pa.Table) -> list[tuple[int, int]]:
    """Return the (partition, offset) of log rows."""
    return list(zip(rows["partition"].to_pylist(), rows["offset"].to_pylist(), strict=True))


def numbered(num_records: int, partition: int | None = None) -> list[Record]:
    """Return records of different keys whose values are their numbers."""
    return [Record(b"key-%d" % number, b"%d" % number, partition=partition) for number in range(num_records)]


def everything(reader: TableReader, topic: str) -> list[OffsetRange]:
    """Return the ranges of all rows of a topic."""
    earliest, latest = reader.earliest(topic), reader.latest(topic)
    return [OffsetRange(topic, partition, earliest[partition], latest[partition]) for partition in reader.partitions(topic)]


def followed(tail: LogTail, num_rows: int) -> pa.Table:
    """Return what a tail gives until that are so many rows."""
    tables: list[pa.Table] = []
    deadline = time.monotonic() + _PATIENCE_S
    while sum(table.num_rows for table in tables) < num_rows and time.monotonic() < deadline:
        tables.append(tail.poll(0.1))
    return pa.concat_tables(tables)


def dropped_below(log: LogUnderTest, topic: str, offset: int) -> int:
    """Fill partition 0, drop what lies below an offset and return the earliest one left."""
    for start in range(0, offset * 2, 5):
        log.writer.append(topic, [Record(None, b"%d" % number, partition=0) for number in range(start, start + 5)])
    log.admin.drop_before(topic, {0: offset})
    return log.reader.earliest(topic)[0]


class LogContract:
    """Tests that every log passes; a subclass gives the fixture ``log``. A log may be shared: each test has a topic of its own."""

    @pytest.fixture
    def topic(self, log: LogUnderTest) -> str:
        """A new topic of two partitions."""
        name = f"contract-{uuid.uuid4().hex}"
        log.admin.ensure_topic(name, 2)
        return name

    def test_a_new_topic_is_empty(self, log: LogUnderTest, topic: str) -> None:
        """Its offsets start at 0."""
        assert log.reader.partitions(topic) == [0, 1]
        assert log.reader.earliest(topic) == log.reader.latest(topic) == {0: 0, 1: 0}

    def test_records_come_back_as_they_were(self, log: LogUnderTest, topic: str) -> None:
        """Any bytes, no key, an empty value, a given time, a megabyte."""
        records = [
            Record(bytes(range(256)), bytes(range(256)), timestamp_ms=1_000_000_000_123, partition=1),
            Record(None, b"no key", partition=1),
            Record(b"", b"", partition=1),
            Record("é".encode(), b"x" * 1_100_000, partition=1),
        ]
        before_ms = time.time_ns() // 1_000_000 - 1
        assert log.writer.append(topic, records) == [(1, 0), (1, 1), (1, 2), (1, 3)]
        rows = log.reader.read_table([OffsetRange(topic, 1, 0, 4)])
        assert rows.schema.equals(LOG_ROW)
        assert rows["key"].to_pylist() == [record.key for record in records]
        assert values(rows) == [record.value for record in records]
        assert rows["topic"].to_pylist() == [topic] * 4
        assert rows["partition"].to_pylist() == [1] * 4
        assert rows["offset"].to_pylist() == [0, 1, 2, 3]
        assert rows["timestamp"][0].as_py() == 1_000_000_000_123
        assert before_ms <= rows["timestamp"][1].as_py() <= time.time_ns() // 1_000_000 + 1

    def test_a_key_has_the_same_partition_in_every_log(self, log: LogUnderTest, topic: str) -> None:
        """The places come back in the order of the records, the offsets of a partition are consecutive."""
        records = numbered(40)
        places = log.writer.append(topic, records)
        assert [partition for partition, _ in places] == [partition_of(record.key or b"", 2) for record in records]
        for number in (0, 1):
            offsets = [offset for partition, offset in places if partition == number]
            assert offsets == list(range(len(offsets)))
            assert offsets

    def test_a_record_without_a_key_is_written_too(self, log: LogUnderTest, topic: str) -> None:
        """To a partition that the log chooses; nothing to append is fine."""
        ((partition, offset),) = log.writer.append(topic, [Record(None, b"1")])
        assert values(log.reader.read_table([OffsetRange(topic, partition, offset, offset + 1)])) == [b"1"]
        assert log.writer.append(topic, []) == []

    def test_a_range_gives_exactly_its_offsets(self, log: LogUnderTest, topic: str) -> None:
        """Start inclusive, end exclusive, the same rows every time and to every reader."""
        log.writer.append(topic, numbered(50, partition=0))
        for start, end in ((0, 50), (0, 1), (49, 50), (7, 31), (12, 12), (50, 50)):
            expected = [b"%d" % number for number in range(start, end)]
            assert values(log.reader.read_table([OffsetRange(topic, 0, start, end)])) == expected
        other = log.reopened()
        assert other.read_table(everything(other, topic)).equals(log.reader.read_table(everything(log.reader, topic)))
        other.close()

    def test_no_offsets_give_no_rows(self, log: LogUnderTest, topic: str) -> None:
        """The schema is there all the same."""
        assert log.reader.read_table([]).schema.equals(LOG_ROW)
        rows = log.reader.read_table([OffsetRange(topic, 0, 0, 0), OffsetRange(topic, 1, 0, 0)])
        assert rows.num_rows == 0
        assert rows.schema.equals(LOG_ROW)

    def test_partitions_come_in_the_order_given(self, log: LogUnderTest, topic: str) -> None:
        """Also those of several topics."""
        second = f"{topic}-second"
        log.admin.ensure_topic(second, 1)
        log.writer.append(topic, [*numbered(3, partition=0), *numbered(2, partition=1)])
        log.writer.append(second, numbered(4))
        ranges = [OffsetRange(topic, 1, 0, 2), OffsetRange(second, 0, 1, 4), OffsetRange(topic, 0, 0, 3)]
        rows = log.reader.read_table(ranges)
        places = list(zip(rows["topic"].to_pylist(), rows["partition"].to_pylist(), rows["offset"].to_pylist(), strict=True))
        assert places == [(part.topic, part.partition, offset) for part in ranges for offset in range(part.start, part.end)]

    def test_many_small_appends_lose_nothing(self, log: LogUnderTest, topic: str) -> None:
        """In order, and readable while they come."""
        for number in range(150):
            assert log.writer.append(topic, [Record(None, b"%d" % number, partition=0)]) == [(0, number)]
            if number % 37 == 0:
                assert values(log.reader.read_table([OffsetRange(topic, 0, 0, number + 1)])) == [b"%d" % n for n in range(number + 1)]
        assert values(log.reader.read_table(everything(log.reader, topic))) == [b"%d" % number for number in range(150)]

    def test_threads_may_append_at_once(self, log: LogUnderTest, topic: str) -> None:
        """Each record is there once, at the place that its thread was told."""

        def append(thread: int) -> list[tuple[int, int, bytes]]:
            told = []
            for number in range(10):
                mine = [Record(b"%d" % thread, b"%d-%d-%d" % (thread, number, part)) for part in range(3)]
                told += [(*place, record.value) for place, record in zip(log.writer.append(topic, mine), mine, strict=True)]
            return told

        with ThreadPoolExecutor(4) as pool:
            told = sorted(place for places in pool.map(append, range(4)) for place in places)
        rows = log.reader.read_table(everything(log.reader, topic))
        assert told == sorted(zip(rows["partition"].to_pylist(), rows["offset"].to_pylist(), values(rows), strict=True))
        assert len(told) == 4 * 10 * 3

    def test_what_has_left_the_log_is_a_gap(self, log: LogUnderTest, topic: str) -> None:
        """Never a silent jump; what was not dropped is still there."""
        earliest = dropped_below(log, topic, 20)
        assert 0 < earliest <= 20
        with pytest.raises(RetentionGap, match=rf"{earliest - 1}.*{earliest} or later") as caught:
            log.reader.read_table([OffsetRange(topic, 1, 0, 0), OffsetRange(topic, 0, earliest - 1, 30)])
        assert caught.value.facts == {"topic": topic, "partition": 0, "wanted": earliest - 1, "earliest": earliest}
        rows = log.reader.read_table([OffsetRange(topic, 0, earliest, 40)])
        assert values(rows) == [b"%d" % number for number in range(earliest, 40)]
        assert log.writer.append(topic, numbered(1, partition=0)) == [(0, 40)]

    def test_what_is_not_yet_there_is_a_mismatch(self, log: LogUnderTest, topic: str) -> None:
        """A plan of another log must not be taken for an empty one."""
        log.writer.append(topic, numbered(3, partition=0))
        with pytest.raises(RowCountMismatch, match="ends at offset 3") as caught:
            log.reader.read_table([OffsetRange(topic, 0, 0, 4)])
        assert caught.value.facts["latest"] == 3

    def test_topics_and_partitions_that_do_not_exist_are_named(self, log: LogUnderTest, topic: str) -> None:
        """None is created by asking for it."""
        missing = f"{topic}-missing"
        for call in (log.reader.partitions, log.reader.earliest, log.reader.latest):
            with pytest.raises(BrokerError, match=f"{missing}.*does not exist"):
                call(missing)
        with pytest.raises(BrokerError, match=f"{missing}.*does not exist"):
            log.writer.append(missing, numbered(1))
        with pytest.raises(BrokerError, match=f"{missing}.*does not exist"):
            log.reader.read_table([OffsetRange(missing, 0, 0, 0)])
        for bad in ("", "..", "a/b", "é", "x" * 201):
            with pytest.raises(BrokerError, match="not the name of a topic"):
                log.admin.ensure_topic(bad, 1)
        with pytest.raises(BrokerError, match=r"\[2\] does not exist.*\[0, 1\]"):
            log.reader.read_table([OffsetRange(topic, 2, 0, 0)])
        with pytest.raises(BrokerError, match=r"\[2\] does not exist"):
            log.writer.append(topic, [Record(None, b"1", partition=0), Record(None, b"2", partition=2)])
        with pytest.raises(BrokerError, match="two ranges"):
            log.reader.read_table([OffsetRange(topic, 0, 0, 0), OffsetRange(topic, 0, 0, 0)])
        assert log.reader.latest(topic) == {0: 0, 1: 0}

    def test_a_topic_is_created_once(self, log: LogUnderTest, topic: str) -> None:
        """Creating it again changes nothing; another number of partitions is an error."""
        log.writer.append(topic, numbered(1, partition=0))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: log.admin.ensure_topic(topic, 2), range(4)))
            list(pool.map(lambda _: log.admin.ensure_topic(f"{topic}-new", 3), range(4)))
        assert log.reader.latest(topic)[0] == 1
        assert log.reader.partitions(f"{topic}-new") == [0, 1, 2]
        with pytest.raises(BrokerError, match="another number of partitions, got 2, allowed 4"):
            log.admin.ensure_topic(topic, 4)

    @pytest.mark.parametrize(("key", "value", "name"), [(b"u", None, "value"), (b"u", "text", "value"), ("u", b"{}", "key")])
    def test_a_record_without_bytes_is_refused_by_name_before_anything_is_written(
        self, log: LogUnderTest, topic: str, key: Any, value: Any, name: str
    ) -> None:
        """A null value, a text."""
        with pytest.raises(DataError, match=f"the {name} of the record at position 1 is not bytes, got "):
            log.writer.append(topic, [Record(b"a", b"1"), Record(key, value)])
        assert sum(log.reader.latest(topic).values()) == 0

    def test_a_record_that_is_too_large_is_refused_before_anything_is_written(self, log: LogUnderTest, topic: str) -> None:
        """Its position is named; one of the largest size is taken."""
        with pytest.raises(DataError, match="position 1"):
            log.writer.append(topic, [Record(b"k", b"fine"), Record(b"k", b"x" * MAX_RECORD_BYTES)])
        assert log.reader.latest(topic) == {0: 0, 1: 0}
        log.writer.append(topic, [Record(b"k", b"x" * (MAX_RECORD_BYTES - 1), partition=0)])
        assert log.reader.read_table(everything(log.reader, topic))["value"][0].as_buffer().size == MAX_RECORD_BYTES - 1

    def test_a_tail_gives_each_record_once_and_in_order(self, log: LogUnderTest, topic: str) -> None:
        """From its start offsets on, what was there and what comes."""
        log.writer.append(topic, [*numbered(10, partition=0), *numbered(5, partition=1)])
        tail = log.follow(topic, {0: 7, 1: 0})
        rows = followed(tail, 8)
        assert rows.schema.equals(LOG_ROW)
        assert places_of(rows) == [(0, 7), (0, 8), (0, 9), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]
        assert tail.poll(0.05).num_rows == 0
        for number in range(70):
            log.writer.append(topic, [Record(None, b"%d" % number, partition=number % 2)])
            rows = followed(tail, 1)
            assert values(rows) == [b"%d" % number]
        tail.close()

    def test_a_tail_of_one_partition_gives_that_one_only(self, log: LogUnderTest, topic: str) -> None:
        """The others are somebody else's."""
        log.writer.append(topic, [*numbered(2, partition=0), *numbered(3, partition=1)])
        tail = log.follow(topic, {1: 1})
        assert places_of(followed(tail, 2)) == [(1, 1), (1, 2)]
        assert tail.poll(0.05).num_rows == 0
        tail.close()

    def test_a_tail_that_starts_outside_the_log_says_so(self, log: LogUnderTest, topic: str) -> None:
        """Below the earliest offset it is a gap, above the end another log."""
        earliest = dropped_below(log, topic, 20)
        tail = log.follow(topic, {0: earliest - 1})
        with pytest.raises(RetentionGap) as caught:
            followed(tail, 1)
        assert caught.value.facts == {"topic": topic, "partition": 0, "wanted": earliest - 1, "earliest": earliest}
        tail.close()
        tail = log.follow(topic, {0: 41})
        with pytest.raises(BrokerError, match="has not reached"):
            followed(tail, 1)
        tail.close()
