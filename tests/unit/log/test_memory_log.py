from __future__ import annotations

import threading

import pytest

from streamrec.clock import ManualClock
from streamrec.log.base import Record
from streamrec.log.memory import MemoryLog
from streamrec.log.offsets import OffsetRange


def test_times_come_from_the_injected_clock() -> None:
    log = MemoryLog(ManualClock(now_ms=7))
    log.ensure_topic("t", 1)
    log.append("t", [Record(None, b"1"), Record(None, b"2", timestamp_ms=3)])
    assert log.read_table([OffsetRange("t", 0, 0, 2)])["timestamp"].to_pylist() == [7, 3]


def test_one_name_is_one_log_of_the_process() -> None:
    assert MemoryLog.named("one") is MemoryLog.named("one")
    assert MemoryLog.named("one") is not MemoryLog.named("other")


def test_a_copy_has_the_same_offsets_and_what_is_appended_to_either_is_not_in_the_other() -> None:
    log = MemoryLog()
    log.ensure_topic("t", 1)
    log.append("t", [Record(None, b"1"), Record(None, b"2")])
    log.drop_before("t", {0: 1})
    other = log.copy()
    assert log.append("t", [Record(None, b"3")]) == [(0, 2)]
    assert (other.latest("t"), log.latest("t")) == ({0: 2}, {0: 3})
    assert other.append("t", [Record(None, b"4")]) == [(0, 2)]
    assert [one.read_table([OffsetRange("t", 0, 1, 3)])["value"].to_pylist() for one in (log, other)] == [[b"2", b"3"], [b"2", b"4"]]


def test_a_waiting_tail_wakes_for_a_record() -> None:
    log = MemoryLog()
    log.ensure_topic("t", 1)
    tail = log.follow("t", {0: 0})
    appended = threading.Timer(0.05, lambda: log.append("t", [Record(None, b"1")]))
    appended.start()
    assert tail.poll(30.0)["value"].to_pylist() == [b"1"]
    appended.join()


@pytest.mark.parametrize("num_records", [1, 9])
def test_unkeyed_records_are_spread(num_records: int) -> None:
    log = MemoryLog()
    log.ensure_topic("t", 3)
    log.append("t", [Record(None, b"")] * num_records)
    assert max(log.latest("t").values()) == -(-num_records // 3)
