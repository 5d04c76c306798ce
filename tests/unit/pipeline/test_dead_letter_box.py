from __future__ import annotations

from collections.abc import Sequence

import orjson
import pyarrow as pa
import pytest

from streamrec.log.base import Record
from streamrec.log.memory import MemoryLog
from streamrec.log.offsets import OffsetRange
from streamrec.pipeline.dead_letter_box import DeadLetterBox, Place, Replayed
from streamrec.pipeline.dead_letters import PART_BYTES, dead_letters

TOPIC = "dead"


def letters_of(offset: int, value: bytes | None = b"{", key: bytes | None = b"u") -> list[Record]:
    row = {"topic": "events", "partition": 1, "offset": offset, "reason": "not_json", "detail": "why", "key": key, "value": value}
    return dead_letters(row)


class WatchedLog(MemoryLog):
    """Remember how many rows each read gave, and drop rows between reads when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[int] = []
        self.drop_to: int | None = None

    def read_table(self, ranges: Sequence[OffsetRange]) -> pa.Table:
        if self.drop_to is not None and self.reads:
            self.drop_before(TOPIC, {0: self.drop_to})
        rows = super().read_table(ranges)
        self.reads.append(rows.num_rows)
        return rows


@pytest.fixture
def log() -> WatchedLog:
    log = WatchedLog()
    log.ensure_topic(TOPIC, 1)
    return log


def append(log: MemoryLog, *records: Record) -> None:
    log.append(TOPIC, list(records))


def test_letters_come_one_after_another_from_reads_of_bounded_size(log: WatchedLog) -> None:
    append(log, *(record for offset in range(10_000) for record in letters_of(offset)))
    letters = DeadLetterBox(log, TOPIC).letters()
    assert next(letters).place == Place("events", 1, 0)
    assert len(log.reads) == 1
    assert log.reads[0] <= 64
    assert [letter.place.offset for letter in letters] == list(range(1, 10_000))
    assert max(log.reads) == 1024


def test_reads_of_large_letters_shrink(log: WatchedLog) -> None:
    append(log, *(record for offset in range(200) for record in letters_of(offset, b"x" * PART_BYTES)))
    assert sum(letter.num_bytes for letter in DeadLetterBox(log, TOPIC).letters()) == 200 * PART_BYTES
    assert log.reads == sorted(log.reads, reverse=True)
    assert log.reads[1] < log.reads[0]


@pytest.mark.parametrize(("key", "value"), [(None, None), (b"", b""), (b"k" * (PART_BYTES + 1), b"v"), (None, b"v" * (3 * PART_BYTES)), (b"k", None)])
def test_a_letters_key_and_value_are_the_records_own(log: WatchedLog, key: bytes | None, value: bytes | None) -> None:
    append(log, *letters_of(3, value, key))
    (letter,) = DeadLetterBox(log, TOPIC).letters()
    assert (letter.key, letter.value, letter.missing_parts) == (key, value, ())


def test_parts_that_two_senders_wrote_between_one_another_are_one_letter(log: WatchedLog) -> None:
    parts = letters_of(3, b"a" * PART_BYTES + b"b" * PART_BYTES + b"c")
    append(log, parts[0], parts[1], parts[0], *letters_of(4), parts[1], parts[2], parts[2])
    assert [(letter.place.offset, letter.num_bytes, letter.missing_parts) for letter in DeadLetterBox(log, TOPIC).letters()] == [
        (4, 1, ()),
        (3, 2 * PART_BYTES + 1, ()),
    ]


def test_a_letter_that_comes_again_behind_later_ones_is_given_once(log: WatchedLog) -> None:
    offsets = [5, 900, 70_000, 5, 6, 900, 70_000, 70_001]
    append(log, *(record for offset in offsets for record in letters_of(offset)))
    assert [letter.place.offset for letter in DeadLetterBox(log, TOPIC).letters()] == [5, 900, 70_000, 6, 70_001]


def test_what_retention_takes_while_reading_is_jumped_over(log: WatchedLog) -> None:
    append(log, *(record for offset in range(500) for record in letters_of(offset)))
    log.drop_to = 300
    given = [letter.place.offset for letter in DeadLetterBox(log, TOPIC).letters()]
    assert given == [*range(64), *range(300, 500)]


def test_markers_are_found_by_their_letter_and_what_came_after_opening_is_not_seen(log: WatchedLog) -> None:
    sent = [Replayed(Place("events", 1, offset), Place("events", 0, 9), f"e{offset}", 77) for offset in (1, 2, 2)]
    append(log, *letters_of(1), *letters_of(2), *(replayed.record() for replayed in sent))
    box = DeadLetterBox(log, TOPIC)
    append(log, sent[0].record(), *letters_of(3))
    assert box.num_replays() == {Place("events", 1, 1): 1, Place("events", 1, 2): 2}
    assert list(box.replays(Place("events", 1, 2))) == [sent[1], sent[2]]
    assert [letter.place.offset for letter in box.letters()] == [1, 2]
    assert box.num_foreign == 0


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"[]",
        b'{"topic": "events", "partition": 1, "offset": 2, "format": "of another program"}',
        b'{"topic": "events", "partition": 1, "offset": 2, "format": 99, "reason": "not_json"}',
        b'{"topic": "events", "partition": 1e308, "offset": 1e999, "format": 1}',
        b'{"topic": "events", "partition": 1, "offset": 2, "replayed": {"topic": "events", "partition": 0, "offset": 1}}',
    ],
)
def test_a_record_that_is_no_letter_is_counted_and_stops_no_other(log: WatchedLog, value: bytes | None) -> None:
    append(log, *letters_of(1))
    log._partitions(TOPIC)[0].rows.append((0, None, value))
    append(log, *letters_of(3))
    box = DeadLetterBox(log, TOPIC)
    assert box.num_replays() == {}
    assert [letter.place.offset for letter in box.letters()] == [1, 3]
    assert (box.num_foreign, str(box.first_foreign)) == (1, "dead/0/1")


def content_of(**changes: object) -> dict[str, object]:
    return {**orjson.loads(letters_of(2)[0].value or b""), **changes}


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (content_of(parts=1_000_000_000), b"events/1/2"),
        (content_of(part=3, parts=3), b"events/1/2"),
        (content_of(part=-1), b"events/1/2"),
        (content_of(offset=-5), b"events/1/-5"),
        (content_of(partition=-1), b"events/-1/2"),
        (content_of(topic="a/b"), b"a/b/1/2"),
        (content_of(topic=""), b"/1/2"),
        (content_of(), b"another"),
        (content_of(), None),
        ({**orjson.loads(Replayed(Place("events", 1, 2), Place("events", 0, 9), "e2", 77).record().value or b"")}, b"another"),
    ],
)
def test_what_no_writer_of_ours_makes_is_foreign_to_whoever_lists_and_whoever_looks_for_it(
    log: WatchedLog, content: dict[str, object], key: bytes | None
) -> None:
    append(log, *letters_of(1), Record(key, orjson.dumps(content)), *letters_of(3))
    box = DeadLetterBox(log, TOPIC)
    assert box.num_replays() == {}
    assert [letter.place.offset for letter in box.letters()] == [1, 3]
    assert (box.num_foreign, str(box.first_foreign)) == (1, "dead/0/1")
    assert list(box.letters(Place("events", 1, 2))) == []
    assert [letter.place.offset for letter in box.letters(Place("events", 1, 3))] == [3]


def test_a_marker_lies_under_its_letters_key_so_that_it_comes_behind_it() -> None:
    marker = Replayed(Place("events", 1, 1), Place("events", 0, 9), "e1", 77).record()
    assert marker.key == letters_of(1)[0].key
    assert orjson.loads(marker.value)["replayed"]["offset"] == 9


def test_of_a_long_topic_the_newest_records_alone_are_read_as_many_of_each_partition() -> None:
    log = WatchedLog()
    log.ensure_topic(TOPIC, 2)
    for partition in (0, 1):
        for offset in range(50 if partition else 3):
            records = letters_of(100 * partition + offset)
            log.append(TOPIC, [Record(record.key, record.value, partition=partition) for record in records])
    box = DeadLetterBox(log, TOPIC, last=20)
    assert (box.num_records, box.num_before) == (53, 40)
    assert [letter.place.offset for letter in box.letters()] == [0, 1, 2, *range(140, 150)]
    assert sum(log.reads) == 13
    assert DeadLetterBox(log, TOPIC).num_before == 0
