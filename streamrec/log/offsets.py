"""Name ranges of offsets and check them against what a log holds. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streamrec.errors import BrokerError, RetentionGap, RowCountMismatch, TopicMissing, TopicReplaced

SKIP_LOST = "python -m jobs.stream --skip-lost"
"""The command that goes on where the log begins now."""

Bounds = Mapping[tuple[str, int], tuple[int, int]]
"""By (topic, partition): the earliest offset there is (inclusive) and the end offset (exclusive)."""


@dataclass(frozen=True, slots=True)
class OffsetRange:
    """Name the offsets ``[start, end)`` of one partition.

    Attributes:
        start: First offset, inclusive.
        end: Last offset, exclusive; equal to ``start`` for no offsets.
    """

    topic: str
    partition: int
    start: int
    end: int

    def __post_init__(self) -> None:
        if self.partition < 0 or not 0 <= self.start <= self.end:
            what = "Offsets: not a range"
            raise BrokerError(what, got=repr(self), allowed="partition >= 0 and 0 <= start <= end", do="correct the plan")

    @property
    def num_offsets(self) -> int:
        """Return how many offsets the range has."""
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}] offsets [{self.start}, {self.end})"


def check_ranges(ranges: Sequence[OffsetRange], bounds: Bounds) -> None:
    """Check that a log holds every offset of every range.

    Raises:
        BrokerError: A partition does not exist, or is named twice.
        RetentionGap: A range starts below the earliest offset (facts: topic, partition, wanted, earliest).
        RowCountMismatch: A range ends beyond the log's end (facts: topic, partition, wanted, latest).
    """
    seen: set[tuple[str, int]] = set()
    for part in ranges:
        place = (part.topic, part.partition)
        if place in seen:
            what = "Offsets: one partition has two ranges"
            raise BrokerError(what, got=str(part), allowed="one range per partition", do="read them in two calls")
        seen.add(place)
        if place not in bounds:
            raise no_partition(part.topic, part.partition, [partition for topic, partition in bounds if topic == part.topic])
        earliest, latest = bounds[place]
        if part.num_offsets and part.start < earliest:
            raise retention_gap(part.topic, part.partition, part.start, earliest)
        if part.end > latest:
            what = f"Log: {part.topic}[{part.partition}] ends at offset {latest} (exclusive), before the planned range does"
            raise RowCountMismatch(
                what,
                got=str(part),
                do="check that the broker holds the data of this run",
                topic=part.topic,
                partition=part.partition,
                wanted=part.end,
                latest=latest,
            )


def retention_gap(topic: str, partition: int, wanted: int, earliest: int) -> RetentionGap:
    """Return the error for an offset below the earliest one."""
    return RetentionGap(
        f"Log: {topic}[{partition}] no longer holds the offset that was asked for",
        got=f"offset {wanted}",
        allowed=f"{earliest} or later",
        do=f"lengthen the topic's retention; to go on without what is lost: {SKIP_LOST}",
        topic=topic,
        partition=partition,
        wanted=wanted,
        earliest=earliest,
    )


def topic_replaced(topic: str, held_id: str, topic_id: str, beyond: Mapping[int, tuple[int, int]]) -> TopicReplaced:
    """Return the error for a topic that is not the one that offsets belong to.

    Args:
        topic: Its name.
        held_id: Id of the topic that the offsets belong to; empty when not known.
        topic_id: Id of the topic that is there.
        beyond: Partition to the offset that it has not reached and its end offset (exclusive).
    """
    is_same = bool(held_id) and held_id == topic_id
    ends = "; ".join(f"partition {partition} ends at {end}, before offset {offset}" for partition, (offset, end) in sorted(beyond.items()))
    got = ", ".join(filter(None, [f"topic id {topic_id}" if topic_id and not is_same else "", ends]))
    return TopicReplaced(
        f"Log: topic {topic!r} " + ("has lost its newest records" if is_same else "was made anew since the state was committed"),
        got=got,
        allowed=f"topic id {held_id} and the offsets that were read" if held_id else "the offsets that were read",
        do=f"point log.broker at the broker that holds the run, or start a new `state`; to go on at the topic's beginning: {SKIP_LOST}",
        topic=topic,
        topic_id=topic_id,
        held_id=held_id,
        beyond={partition: list(pair) for partition, pair in beyond.items()},
    )


def beyond_the_end(topic: str, partition: int, wanted: int, latest: int) -> TopicReplaced:
    """Return the error for following a partition from an offset that it has not reached."""
    return TopicReplaced(
        f"Log: {topic}[{partition}] has not reached the offset to follow it from",
        got=f"offset {wanted}",
        allowed=f"at most {latest}",
        do="check that the broker holds the data of this run",
        topic=topic,
        partition=partition,
        wanted=wanted,
        latest=latest,
    )


def no_partition(topic: str, partition: int, existing: Sequence[int]) -> BrokerError:
    """Return the error for a partition that does not exist."""
    return BrokerError(
        f"Log: {topic}[{partition}] does not exist",
        got=f"partition {partition}",
        allowed=f"one of {list(existing)}",
        do="check log.num_partitions",
        topic=topic,
        partition=partition,
    )


def no_topic(topic: str, address: str = "") -> TopicMissing:
    """Return the error for a topic that does not exist, at the address where one is known."""
    where = f" at {address}" if address else ""
    do = (
        "wait if the broker is starting or stopping, otherwise correct its name or start the stream (python -m jobs.stream), which creates its topics"
    )
    return TopicMissing(f"Log: topic {topic!r} does not exist{where}", do=do, topic=topic, address=address)


def other_num_partitions(topic: str, existing: int, wanted: int) -> BrokerError:
    """Return the error for a topic that exists with another number of partitions."""
    return BrokerError(
        f"Log: topic {topic!r} exists with another number of partitions",
        got=existing,
        allowed=f"{wanted} as configured",
        do="set log.num_partitions to what is there, or choose another topic name",
        topic=topic,
        existing=existing,
        wanted=wanted,
    )
