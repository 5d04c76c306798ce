from __future__ import annotations

from collections.abc import Sequence

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.clock import ManualClock
from streamrec.config import parse_config
from streamrec.errors import BrokerUnavailable
from streamrec.log.base import Record
from streamrec.log.memory import MemoryLog
from streamrec.log.offsets import OffsetRange
from streamrec.pipeline.dead_letter_box import DeadLetterBox, Letter, Place, Replayed
from streamrec.pipeline.dead_letters import dead_letters
from streamrec.pipeline.resend import Refused, Repair, Resender, repaired

CONFIG = parse_config({})
EVENTS, LETTERS = CONFIG.log.events_topic, CONFIG.log.dead_letter_topic
EVENT = {"event_id": "e", "user_id": "u", "item_id": "i", "event_type": "klick", "event_time": 5}


class Dying(MemoryLog):
    """Die before a marker is in the log."""

    dies = False

    def append(self, topic: str, records: Sequence[Record]) -> list[tuple[int, int]]:
        if topic == LETTERS and self.dies:
            what = "Broker: away"
            raise BrokerUnavailable(what)
        return super().append(topic, records)


def log_with(num_letters: int) -> Dying:
    log = Dying(ManualClock(now_ms=10))
    log.ensure_topic(EVENTS, 2)
    log.ensure_topic(LETTERS, 2)
    for offset in range(num_letters):
        value = orjson.dumps({**EVENT, "event_id": f"e{offset}", "user_id": f"u{offset}"})
        row = {"topic": EVENTS, "partition": 0, "offset": offset, "reason": "unknown_event_type", "detail": "", "key": b"k", "value": value}
        log.append(LETTERS, dead_letters(row))
    return log


def replay(log: MemoryLog, wanted: Sequence[int], *, again: bool = False) -> list[Replayed | Refused]:
    """As the verb does."""
    box = DeadLetterBox(log, LETTERS)
    before = box.num_replays()
    chosen = [letter for letter in box.letters() if letter.place.offset in wanted and (again or letter.place not in before)]
    resender = Resender(CONFIG, log, ManualClock(now_ms=10), Repair({"event_type": "click"}))
    return resender.send([(letter, before.get(letter.place, 0)) for letter in chosen])


def ids_in(log: MemoryLog) -> list[str]:
    rows = log.read_table([OffsetRange(EVENTS, number, 0, end) for number, end in log.latest(EVENTS).items()])
    return sorted(orjson.loads(value)["event_id"] for value in rows["value"].to_pylist())


@given(st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=6))
def test_whatever_is_asked_for_in_whatever_order_each_letter_is_sent_once(calls: list[list[int]]) -> None:
    log = log_with(6)
    for wanted in calls:
        replay(log, wanted)
    assert ids_in(log) == sorted({f"e{offset}" for wanted in calls for offset in wanted})


def test_a_replay_that_dies_before_its_marker_sends_the_same_event_id_when_it_is_repeated() -> None:
    log = log_with(2)
    log.dies = True
    with pytest.raises(BrokerUnavailable):
        replay(log, [0, 1])
    log.dies = False
    assert len(replay(log, [0, 1])) == 2
    assert replay(log, [0, 1]) == []
    assert ids_in(log) == ["e0", "e0", "e1", "e1"]


def test_an_asked_for_replay_that_dies_before_its_marker_keeps_its_new_id_too() -> None:
    log = log_with(1)
    replay(log, [0])
    log.dies = True
    with pytest.raises(BrokerUnavailable):
        replay(log, [0], again=True)
    log.dies = False
    replay(log, [0], again=True)
    replay(log, [0], again=True)
    assert ids_in(log) == ["e0", "e0~2", "e0~2", "e0~3"]


@given(st.binary(max_size=40) | st.just(b'{"event_id": 5}') | st.just(orjson.dumps(EVENT)), st.integers(0, 2))
def test_any_bytes_are_sent_or_refused_and_never_raise(value: bytes, num_replays: int) -> None:
    log = log_with(0)
    letter = Letter(Place(EVENTS, 0, 1), "not_json", "", None, value, 0)
    (outcome,) = Resender(CONFIG, log, ManualClock(now_ms=10), Repair({"event_type": "click"})).send([(letter, num_replays)])
    assert isinstance(outcome, Replayed) == bool(ids_in(log))


def test_a_letter_that_is_not_changed_keeps_its_bytes() -> None:
    value = b' {"event_id" : "e" } '
    letter = Letter(Place(EVENTS, 0, 1), "missing_field", "", None, value, 0)
    assert repaired(letter, Repair()) == value
    assert orjson.loads(repaired(letter, Repair({"user_id": "7"}))) == {"event_id": "e", "user_id": "7"}
