"""How fresh a replica's answers are, by the log's times."""

from __future__ import annotations

import pyarrow as pa
import pytest

from streamrec.clock import ManualClock
from streamrec.log.rows import consecutive_rows
from streamrec.serving.freshness import MODEL, MOST_WAITING, SAMPLED, STATE, Freshness
from streamrec.telemetry.numbers import Numbers

TOPIC = "events"


class World:
    """A clock, a replica's numbers, and what is timed by them."""

    def __init__(self) -> None:
        self.clock, self.numbers = ManualClock(), Numbers(replica="r1")
        self.fresh = Freshness(self.numbers, TOPIC, self.clock)

    def rows(self, start: int, *ages_s: float, partition: int = 0) -> pa.Table:
        """Records that were appended so many seconds ago."""
        now_ms, num = self.clock.now_ms(), len(ages_s)
        return consecutive_rows(TOPIC, partition, start, [now_ms - round(1000 * age) for age in ages_s], [b"u"] * num, [b"{}"] * num)

    def seen(self, name: str) -> tuple[int, float]:
        """How many were timed, and the sum of their seconds."""
        (one,) = self.numbers.taken()[name].values()
        return sum(one.buckets), pytest.approx(one.value)


@pytest.fixture
def world() -> World:
    made = World()
    made.clock.advance(100.0)
    return made


def test_records_are_timed_once_histories_have_them_and_again_once_a_version_answers_that_learned_them(world: World) -> None:
    world.fresh.heard(world.rows(0, 0.3, 0.1))
    assert (world.seen(STATE), world.seen(MODEL)) == ((2, 0.4), (0, 0.0))
    world.clock.advance(1.0)
    world.fresh.answers_with({TOPIC: {"0": 1}})
    assert world.seen(MODEL) == (1, 1.3)
    world.clock.advance(1.0)
    world.fresh.answers_with({TOPIC: {"0": 1}})  # Rolled back, or promoted again.
    assert world.seen(MODEL) == (1, 1.3)
    world.fresh.answers_with({TOPIC: {"0": 9}})
    assert world.seen(MODEL) == (2, 1.3 + 2.1)
    assert world.seen(STATE) == (2, 0.4)


def test_another_partitions_and_another_topics_offsets_say_nothing(world: World) -> None:
    world.fresh.heard(world.rows(0, 0.0, partition=1))
    world.fresh.answers_with({TOPIC: {"0": 99}, "other": {"1": 99}})
    world.fresh.answers_with({})
    assert world.seen(MODEL)[0] == 0
    world.fresh.answers_with({TOPIC: {"0": 99, "1": 1}})
    assert world.seen(MODEL)[0] == 1


def test_what_was_in_the_log_before_the_replica_began_is_not_timed(world: World) -> None:
    world.fresh.heard(world.rows(0, 3600.0, 100.1, 99.9))
    assert world.seen(STATE) == (1, 99.9)
    world.fresh.answers_with({TOPIC: {"0": 3}})
    assert world.seen(MODEL) == (1, 99.9)


def test_a_clock_that_is_behind_the_logs_gives_nothing_below_zero(world: World) -> None:
    world.fresh.heard(world.rows(0, -5.0))
    assert world.seen(STATE) == (1, 0.0)


def test_of_a_large_read_a_few_are_timed_evenly_and_no_read_is_none(world: World) -> None:
    world.fresh.heard(world.rows(0))
    world.fresh.heard(world.rows(0, *[0.001 * age for age in range(1000, -1, -1)]))
    assert world.seen(STATE) == (SAMPLED, 1.0 + 0.667 + 0.334 + 0.0)


def test_what_waits_for_a_version_is_bounded_and_its_oldest_stay_among_it(world: World) -> None:
    sent = 3 * MOST_WAITING
    for start in range(0, sent, SAMPLED):
        world.fresh.heard(world.rows(start, *[0.0] * SAMPLED))
        world.clock.advance(0.01)
    world.fresh.answers_with({TOPIC: {"0": sent}})
    num, total_s = world.seen(MODEL)
    assert MOST_WAITING / 2 <= num <= MOST_WAITING
    assert total_s.expected / num == pytest.approx(0.01 * sent / SAMPLED / 2, rel=0.01)
    world.fresh.heard(world.rows(sent, 0.0))
    world.fresh.answers_with({TOPIC: {"0": sent + 1}})
    assert world.seen(MODEL)[0] == num + 1
