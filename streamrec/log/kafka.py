"""Read ranges of offsets from Kafka: as Ray Datasets, or with one consumer and no Ray."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import ray
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, Message, TopicPartition

from streamrec.config import LogConfig
from streamrec.errors import BrokerError
from streamrec.events.schema import LOG_ROW
from streamrec.log.kafka_client import (
    checked_servers,
    consumer_settings,
    explained,
    in_our_words,
    messages_table,
    offsets_at,
    partitions_of,
    topic_id_of,
)
from streamrec.log.kafka_reach import check_let_in
from streamrec.log.offsets import Bounds, OffsetRange, check_ranges
from streamrec.log.rows import NO_ROWS, concatenated, exactly

# A read task waits for the network: it must not take a core from the work on the rows.
READ_TASK_CPUS = 0.1
_CONSUME_AT_ONCE = 10_000
_CONSUME_WAIT_S = 0.1
_READER = {"fetch_wait_max_ms": 10, "queued_max_messages_kbytes": 65_536, "enable_partition_eof": True}
Place = tuple[str, int]


class DirectKafkaReader:
    """Read with one consumer of this process and no Ray; implements `TableReader`.

    For paths where a Ray execution costs more than the rows, and as the measure of what Ray adds. Connects at the first call; used by one thread.
    """

    def __init__(self, servers: str, cfg: LogConfig) -> None:
        self._servers = checked_servers(servers)
        self._cfg = cfg
        self._opened: Consumer | None = None

    def partitions(self, topic: str) -> list[int]:
        """Return the topic's partitions in order."""
        with self._renewed_after_failure():
            return partitions_of(self._consumer, self._servers, topic, self._cfg.connect_timeout_s)

    def earliest(self, topic: str) -> dict[int, int]:
        """Return by partition the first offset that is still there (inclusive)."""
        return self._offsets(topic, self.partitions(topic), OFFSET_BEGINNING)

    def latest(self, topic: str) -> dict[int, int]:
        """Return by partition the end offset (exclusive)."""
        return self._offsets(topic, self.partitions(topic), OFFSET_END)

    def topic_id(self, topic: str) -> str:
        """Return the id that Kafka gave the topic when it was made."""
        with self._renewed_after_failure():
            self._check_let_in()
            return topic_id_of(self._servers, self._cfg, topic)

    def read_table(self, ranges: Sequence[OffsetRange]) -> pa.Table:
        """Return the rows of exactly these offsets."""
        check_ranges(ranges, self._bounds(ranges))
        with self._renewed_after_failure():
            rows = self._consume([part for part in ranges if part.num_offsets])
        return exactly(ranges, messages_table(rows))

    def close(self) -> None:
        """Close the consumer, if there is one."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @property
    def _consumer(self) -> Consumer:
        if self._opened is None:
            self._check_let_in()
            self._opened = Consumer(consumer_settings(self._servers, self._cfg, **_READER))
        return self._opened

    def _check_let_in(self) -> None:
        if self._opened is None:  # Who has been let in stays in.
            check_let_in(self._servers, self._cfg, self._cfg.connect_timeout_s)

    @contextmanager
    def _renewed_after_failure(self) -> Iterator[None]:
        """Let the next call connect anew: a client whose broker restarted may not find it again (librdkafka issue 5301)."""
        try:
            yield
        except BrokerError:
            self.close()
            raise

    def _offsets(self, topic: str, partitions: Sequence[int], where: int) -> dict[int, int]:
        with self._renewed_after_failure():
            return offsets_at(self._consumer, self._servers, topic, partitions, where, self._cfg.connect_timeout_s)

    def _bounds(self, ranges: Sequence[OffsetRange]) -> Bounds:
        bounds: dict[Place, tuple[int, int]] = {}
        for topic in dict.fromkeys(part.topic for part in ranges):
            partitions = self.partitions(topic)
            earliest = self._offsets(topic, partitions, OFFSET_BEGINNING)
            latest = self._offsets(topic, partitions, OFFSET_END)
            bounds |= {(topic, partition): (earliest[partition], latest[partition]) for partition in partitions}
        return bounds

    def _consume(self, ranges: Sequence[OffsetRange]) -> list[Message]:
        """Return the messages of the ranges; ends early when a partition has no more or nothing came for too long."""
        left = {(part.topic, part.partition): part for part in ranges}
        num_left = sum(part.num_offsets for part in ranges)
        rows: list[Message] = []
        quiet_since = time.monotonic()
        with explained(self._servers):
            self._consumer.assign([TopicPartition(part.topic, part.partition, part.start) for part in ranges])
            try:
                while left and time.monotonic() - quiet_since < self._cfg.read_timeout_s:
                    for message in self._consumer.consume(min(max(num_left, 1), _CONSUME_AT_ONCE), _CONSUME_WAIT_S):
                        place, next_offset = self._place_of(message)
                        if place not in left:
                            continue
                        quiet_since = time.monotonic()
                        if message.error() is None and next_offset <= left[place].end:
                            rows.append(message)
                            num_left -= 1
                        if next_offset >= left[place].end:
                            del left[place]
                            # What follows the range must not fill the queue of those that are not yet complete.
                            self._consumer.incremental_unassign([TopicPartition(*place)])
            finally:
                self._consumer.unassign()
        return rows

    def _place_of(self, message: Message) -> tuple[Place, int]:
        """Return a message's partition and the offset after it; the end of a partition counts as one that is empty."""
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        error = message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            raise in_our_words(error, self._servers, topic or "")
        assert topic is not None
        assert partition is not None
        assert offset is not None
        return (topic, partition), offset if error is not None else offset + 1


class KafkaLog(DirectKafkaReader):
    """Read through Ray Data; implements `LogReader`.

    Each call is one execution of `ray.data.read_kafka` with one small read task per partition of the topics.
    """

    def read(self, ranges: Sequence[OffsetRange]) -> ray.data.Dataset:
        """Return a dataset of the rows of exactly these offsets, read and counted."""
        bounds = self._bounds(ranges)
        check_ranges(ranges, bounds)
        wanted = {(part.topic, part.partition): part for part in ranges if part.num_offsets}
        if not wanted:
            return ray.data.from_arrow(NO_ROWS)
        topics = list(dict.fromkeys(topic for topic, _ in wanted))
        starts: dict[str, dict[int, int | str]] = {topic: {} for topic in topics}
        ends: dict[str, dict[int, int | str]] = {topic: {} for topic in topics}
        for (topic, partition), (_, latest) in bounds.items():
            if topic in starts:
                # A partition that is not listed would be read from earliest to latest; an empty range at the end reads nothing.
                part = wanted.get((topic, partition), OffsetRange(topic, partition, latest, latest))
                starts[topic][partition], ends[topic][partition] = part.start, part.end
        try:
            dataset = self._execute(topics, starts, ends)
        except ray.exceptions.RayError:
            check_ranges(ranges, self._bounds(ranges))  # names a broker that went away, and a gap that opened meanwhile
            raise
        if dataset.count() != sum(part.num_offsets for part in ranges):
            check_ranges(ranges, self._bounds(ranges))
            exactly(ranges, _collected(dataset))
        return dataset

    def read_table(self, ranges: Sequence[OffsetRange]) -> pa.Table:
        """Return the rows of exactly these offsets, read by Ray Data."""
        return exactly(ranges, _collected(self.read(ranges)))

    def _execute(self, topics: list[str], starts: dict[str, dict[int, int | str]], ends: dict[str, dict[int, int | str]]) -> ray.data.Dataset:
        with explained(self._servers):
            dataset = ray.data.read_kafka(
                topics,
                bootstrap_servers=self._servers.split(","),
                start_offset=starts,
                end_offset=ends,
                consumer_config=consumer_settings(self._servers, self._cfg, fetch_wait_max_ms=10),
                num_cpus=READ_TASK_CPUS,
                override_num_blocks=sum(len(partitions) for partitions in starts.values()),
                timeout_ms=max(1, round(self._cfg.read_timeout_s * 1000)),
            )
            rows: ray.data.Dataset = dataset.map_batches(
                as_log_rows, batch_format="pyarrow", batch_size=None, zero_copy_batch=True, num_cpus=READ_TASK_CPUS
            ).materialize()
        return rows


def as_log_rows(batch: pa.Table) -> pa.Table:
    """Return the columns of `LOG_ROW`; headers go first of all, because their type varies by batch."""
    return batch.select(LOG_ROW.names).cast(LOG_ROW)


def _collected(dataset: ray.data.Dataset) -> pa.Table:
    return concatenated([table for table in ray.get(dataset.to_arrow_refs()) if table.num_rows])
