"""Read the dead-letter topic: parts joined, each letter once, and what became of it.

A letter that was sent again has a marker behind it in the topic, under the same key and so in the same partition. Letters are given one
after another as the topic holds them; what stays in memory is a bit for each letter seen, a number for each one that was sent again, and
the parts of letters that are not whole yet. A record that is not under its place's key, or of a place that `Place.parse` would not take, is foreign.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow.compute as pc

from streamrec.errors import DataError, RetentionGap, StorageError
from streamrec.log.base import Record, TableReader
from streamrec.log.offsets import OffsetRange
from streamrec.migrations import migrated, number_of
from streamrec.pipeline.dead_letters import PART_BYTES

# Rows of one read follow the size of those before: a letter's part may have 700 KB, and most have 300 bytes.
_FIRST_ROWS, _MAX_ROWS = 64, 1024
_SMALL_READ_BYTES, _LARGE_READ_BYTES = 2 * 2**20, 16 * 2**20
_BLOCK_BITS = 8
# The log tells a record's size in 31 bits, so no writer of ours makes more; whoever says otherwise would have us list what is missing.
_MAX_PARTS = 2**31 // PART_BYTES


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Name the place that a rejected record had in the log.

    Example:
        >>> Place.parse("streamrec.events/0/17")
        Place(topic='streamrec.events', partition=0, offset=17)
    """

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Return the place that a text names.

        Raises:
            DataError: It names none.
        """
        topic, *numbers = text.split("/")
        if topic and len(numbers) == 2 and all(number.isascii() and number.isdigit() for number in numbers):
            return cls(topic, int(numbers[0]), int(numbers[1]))
        what = "Dead letter: not a place"
        raise DataError(what, got=repr(text), allowed="TOPIC/PARTITION/OFFSET", do="take one from `streamrec dlq list`")


@dataclass(frozen=True, slots=True)
class Letter:
    """Hold a dead letter whose parts are joined.

    Attributes:
        place: Where the rejected record was.
        reason: A code of `streamrec.events.schema.REASONS`.
        detail: What was wrong with this record.
        key: The record's own key.
        value: The record's own bytes.
        time_ms: Processing time of the letter, as the dead-letter topic has it.
        missing_parts: Parts that the topic does not hold; the key and the value lack them.
    """

    place: Place
    reason: str
    detail: str
    key: bytes | None
    value: bytes | None
    time_ms: int
    missing_parts: tuple[int, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Return the size of the record's value, as far as it is there."""
        return len(self.value or b"")


@dataclass(frozen=True, slots=True)
class Replayed:
    """Say that a dead letter was sent again.

    Attributes:
        place: Where the rejected record was.
        to: Where the repaired one went.
        event_id: The event id that it went with.
        time_ms: Processing time of the replay.
    """

    place: Place
    to: Place
    event_id: str
    time_ms: int

    def record(self) -> Record:
        """Return the marker for the dead-letter topic."""
        sent = {**_as_json(self.to), "event_id": self.event_id, "time_ms": self.time_ms}
        return Record(str(self.place).encode(), orjson.dumps({"format": number_of("letter"), **_as_json(self.place), "replayed": sent}))


class DeadLetterBox:
    """Read the dead letters that the topic holds when the box is opened; what comes later is not seen.

    Args:
        reader: Reads the log; closed by whoever opened it.
        topic: The dead-letter topic.
        last: Look at the newest so many of its records alone, about as many of each partition; None looks at all.

    Attributes:
        num_records: How many records the topic holds.
        num_before: How many of them are not looked at.
        num_foreign: How many records of the last reading are no dead letters that this streamrec can read.
        first_foreign: Where the first of them lies in the topic.

    Raises:
        TopicMissing: There is no such topic.
    """

    def __init__(self, reader: TableReader, topic: str, last: int | None = None) -> None:
        self._reader = reader
        self._topic = topic
        self._ends = reader.latest(topic)
        earliest = reader.earliest(topic)
        each = None if last is None else max(1, last // max(1, len(self._ends)))
        self._starts = {part: max(start, 0 if each is None else self._ends[part] - each) for part, start in earliest.items()}
        self.num_before = sum(self._starts[part] - start for part, start in earliest.items())
        self.num_records = sum(end - earliest[part] for part, end in self._ends.items())
        self._see_no_foreign()

    def replays(self, place: Place | None = None) -> Iterator[Replayed]:
        """Give every marker, or those of one letter."""
        for content, _ in self._records(place):
            if isinstance(content, Replayed):
                yield content

    def num_replays(self) -> dict[Place, int]:
        """Return how often each letter was sent again; letters that never were are not in it."""
        counts: dict[Place, int] = {}
        for replayed in self.replays():
            counts[replayed.place] = counts.get(replayed.place, 0) + 1
        return counts

    def letters(self, place: Place | None = None) -> Iterator[Letter]:
        """Give every letter once, in the order in which they became whole; those with missing parts come last. See ``num_foreign`` then.

        Args:
            place: Only this one.
        """
        self._see_no_foreign()
        seen = _Places()
        pending: dict[Place, _Parts] = {}
        for content, time_ms in self._records(place):
            if not isinstance(content, _Part) or content.place in seen:
                continue
            parts = pending.setdefault(content.place, _Parts(content, time_ms))
            parts.pieces[content.number] = (content.key, content.value)
            if len(parts.pieces) == content.of:
                seen.add(content.place)
                yield pending.pop(content.place).joined()
        yield from (parts.joined() for parts in pending.values())

    def _see_no_foreign(self) -> None:
        self.num_foreign = 0
        self.first_foreign: Place | None = None

    def _records(self, place: Place | None) -> Iterator[tuple[_Part | Replayed, int]]:
        for partition, end in sorted(self._ends.items()):
            position, num_rows = self._starts[partition], _FIRST_ROWS
            while position < end:
                wanted = OffsetRange(self._topic, partition, position, min(position + num_rows, end))
                try:
                    rows = self._reader.read_table([wanted])
                except RetentionGap as gap:  # retention went on while we read
                    position = max(position + 1, int(gap.facts["earliest"]))
                    continue
                position = wanted.end
                if rows.nbytes < _SMALL_READ_BYTES:
                    num_rows = min(2 * num_rows, _MAX_ROWS)
                elif rows.nbytes > _LARGE_READ_BYTES:
                    num_rows = max(num_rows // 2, 1)
                if place is not None:
                    rows = rows.filter(pc.equal(rows["key"], str(place).encode()))
                names = ("offset", "timestamp", "key")
                for offset, time_ms, key, value in zip(*(rows[name].to_pylist() for name in names), rows["value"], strict=True):
                    content = _parse(key, value.as_py())
                    if content is None:
                        self.num_foreign += 1
                        self.first_foreign = self.first_foreign or Place(self._topic, partition, offset)
                    else:
                        yield content, time_ms


@dataclass(frozen=True, slots=True)
class _Part:
    place: Place
    reason: str
    detail: str
    number: int
    of: int
    key: bytes | None
    value: bytes | None


@dataclass
class _Parts:
    first: _Part
    time_ms: int
    pieces: dict[int, tuple[bytes | None, bytes | None]] = field(default_factory=dict)

    def joined(self) -> Letter:
        there = [self.pieces[number] for number in sorted(self.pieces)]
        key, value = (None if None in column else b"".join(column) for column in zip(*there, strict=True))
        missing = tuple(number for number in range(self.first.of) if number not in self.pieces)
        return Letter(self.first.place, self.first.reason, self.first.detail, key, value, self.time_ms, missing)


class _Places:
    """Remember places: dense ones, such as those of a broken producer, take a bit each."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[str, int, int], int] = {}

    def __contains__(self, place: Place) -> bool:
        block, bit = self._find(place)
        return bool(self._blocks.get(block, 0) & bit)

    def add(self, place: Place) -> None:
        block, bit = self._find(place)
        self._blocks[block] = self._blocks.get(block, 0) | bit

    def _find(self, place: Place) -> tuple[tuple[str, int, int], int]:
        block, position = place.offset >> _BLOCK_BITS, place.offset & ((1 << _BLOCK_BITS) - 1)
        return (place.topic, place.partition, block), 1 << position


def _as_json(place: Place) -> dict[str, Any]:
    return {"topic": place.topic, "partition": place.partition, "offset": place.offset}


def _place(content: dict[str, Any]) -> Place:
    return Place.parse(str(Place(str(content["topic"]), int(content["partition"]), int(content["offset"]))))


def _parse(record_key: bytes | None, value: bytes | None) -> _Part | Replayed | None:
    """Return what a record of the topic says, or None when it is none of ours, or of a newer streamrec."""
    try:
        content = orjson.loads(value or b"")
        place = _place(content)
        if record_key != str(place).encode():  # Whoever looks for a letter looks for its key.
            return None
        content = migrated("letter", content, content.get("format"))
        if "replayed" in content:
            sent = content["replayed"]
            return Replayed(place, _place(sent), str(sent["event_id"]), int(sent["time_ms"]))
        key, original = (None if data is None else base64.b64decode(data) for data in (content["key_base64"], content["value_base64"]))
        number, num_parts = int(content.get("part", 0)), int(content.get("parts", 1))
        if not 0 <= number < num_parts <= _MAX_PARTS:
            return None
        return _Part(place, str(content["reason"]), str(content["detail"]), number, num_parts, key, original)
    except (orjson.JSONDecodeError, binascii.Error, KeyError, TypeError, ValueError, AttributeError, OverflowError, DataError, StorageError):
        return None
