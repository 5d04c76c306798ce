from __future__ import annotations

from streamrec.clock import ManualClock
from streamrec.registry.swaps import REPLICA_LEASE_S, BoardState
from streamrec.registry.telling import STREAM, Telling
from streamrec.telemetry.numbers import Numbers, Taken


def counted(num: float) -> Taken:
    numbers = Numbers()
    numbers.put("streamrec_lag_records", num)
    return numbers.taken()


def values(sources: list[Taken], name: str) -> list[float]:
    return [one.value for source in sources for one in source.get(name, {}).values()]


def test_the_newest_numbers_of_each_source_are_told_to_whoever_asks_and_not_its_own() -> None:
    clock = ManualClock()
    telling = Telling(clock, BoardState(clock))
    telling.tell(STREAM, counted(7))
    telling.tell("r1", counted(1))
    telling.tell("r2", counted(2))
    telling.tell("r1", counted(3))
    assert sorted(values(telling.told(), "streamrec_lag_records")) == [2, 3, 7]
    assert sorted(values(telling.told("r1"), "streamrec_lag_records")) == [2, 7]
    telling.left("r2")
    assert values(telling.told("r1"), "streamrec_lag_records") == [7]


def test_a_replica_that_says_nothing_is_forgotten_and_a_streams_silence_is_told() -> None:
    clock = ManualClock()
    telling = Telling(clock, BoardState(clock))
    telling.tell(STREAM, counted(7))
    telling.tell("r1", counted(1))
    clock.advance(REPLICA_LEASE_S + 1)
    told = telling.told()
    assert values(told, "streamrec_lag_records") == [7]
    assert [(key, one.value) for source in told for key, one in source.get("streamrec_told_age_seconds", {}).items()] == [
        ((STREAM,), REPLICA_LEASE_S + 1)
    ]
    clock.advance(3600)
    assert values(telling.told(), "streamrec_lag_records") == []


def test_the_board_tells_of_its_replicas_and_of_the_last_swap() -> None:
    clock = ManualClock()
    state = BoardState(clock)
    telling = Telling(clock, state)
    state.saw("r1")
    state.publish("v1", 1)
    assert values(telling.told(), "streamrec_replicas") == [1]
    assert values(telling.told(), "streamrec_swap_seconds") == []
    clock.advance(0.02)
    state.ack("r1", 1, "")
    assert [round(value, 6) for value in values(telling.told(), "streamrec_swap_seconds")] == [0.02]
