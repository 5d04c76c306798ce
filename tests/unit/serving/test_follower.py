import numpy as np
import orjson
import pytest

from streamrec.config import EventsConfig
from streamrec.errors import BrokerUnavailable, Damaged
from streamrec.events.codec import EventCodec
from streamrec.log.base import Record
from streamrec.log.memory import MemoryLog
from streamrec.serving.follower import FollowerState, LogFollower
from streamrec.serving.history_view import HistoryColumns, HistoryView

TOPIC = "events"


class World:
    """A log, a checkpoint and the failures that a test plans."""

    def __init__(self):
        self.log = MemoryLog()
        self.log.ensure_topic(TOPIC, 1)
        self.checkpoint = None
        self.failures = []
        config = EventsConfig()
        self.view = HistoryView(5, 10, config.meanings, EventCodec(config))
        self.follower = LogFollower(self.view, self.bootstrap, self.open_tail, poll_s=0.01)

    def bootstrap(self):
        self.fail()
        return self.checkpoint

    def open_tail(self, offsets):
        self.fail()
        return self.log.follow(TOPIC, {**self.log.earliest(TOPIC), **offsets})

    def fail(self):
        if self.failures:
            raise self.failures.pop(0)

    def produce(self, *items):
        start = self.log.latest(TOPIC)[0]
        events = [
            {"event_id": f"{start + n}", "user_id": "u", "item_id": item, "event_type": "click", "event_time": start + n}
            for n, item in enumerate(items)
        ]
        self.log.append(TOPIC, [Record(b"u", orjson.dumps(event)) for event in events])

    def steps(self, count):
        return [self.follower.step() for _ in range(count)]

    def items(self):
        return [self.view.table.item_ids[code][1] for code in self.view.get("default", "u").tolist()]


@pytest.fixture
def world():
    return World()


def test_whoever_wants_to_know_is_told_the_rows_once_histories_have_them(world):
    told = []
    world.follower.heard = lambda rows: told.append((rows["offset"].to_pylist(), world.items()))
    world.produce("a", "b")
    world.steps(3)
    assert told == [([0, 1], ["a", "b"])]


def checkpoint(offset, *items):
    ids = [("default", item) for item in items]
    return HistoryColumns([("default", "u")], np.array([0, len(ids)]), np.arange(len(ids), dtype=np.int32), ids, {0: offset})


def test_without_a_checkpoint_the_log_is_followed_from_its_earliest(world):
    world.produce("a", "b")
    assert world.steps(3) == [True] * 3
    assert world.items() == ["a", "b"]
    world.produce("c")
    world.follower.step()
    assert world.items() == ["a", "b", "c"]


def test_a_checkpoint_comes_first_and_the_log_from_its_offsets(world):
    world.produce("a", "b", "c")
    world.checkpoint = checkpoint(2, "x", "y")
    world.steps(3)
    assert world.items() == ["x", "y", "c"]


def test_a_broker_that_is_away_is_tried_again_without_loading_anew(world):
    world.produce("a")
    world.follower.step()
    world.failures = [BrokerUnavailable("Broker: nobody answers", got="127.0.0.1:9")]
    assert world.steps(1) == [False]
    assert "127.0.0.1:9" in world.follower.last_error
    assert world.steps(2) == [True, True]
    assert (world.items(), world.follower.last_error) == (["a"], "")


def test_a_damaged_checkpoint_is_tried_again(world):
    world.failures = [Damaged("Checkpoint: damaged")]
    assert world.steps(2) == [False, True]
    assert world.follower.state is FollowerState.OPEN


def test_a_tail_that_fails_is_opened_again_where_the_view_is(world):
    world.produce("a")
    world.steps(3)

    gone = BrokerUnavailable("Broker: gone")

    class BrokenTail:
        def poll(self, timeout_s):
            raise gone

        def close(self):
            pass

    world.follower._tail = BrokenTail()
    world.produce("b")
    assert world.steps(3) == [False, True, True]
    assert world.items() == ["a", "b"]


def test_over_a_retention_gap_a_newer_checkpoint_is_loaded(world):
    world.produce("a", "b", "c", "d")
    world.steps(2)
    world.log.drop_before(TOPIC, {0: 3})
    world.checkpoint = checkpoint(3, "a", "b", "c")
    world.view.offsets = {0: 1}
    world.follower.state = FollowerState.OPEN
    assert world.steps(5) == [True, False, True, True, True]
    assert (world.items(), world.follower.num_gaps) == (["a", "b", "c", "d"], 1)


def test_over_a_retention_gap_without_a_newer_checkpoint_it_goes_on_and_says_so(world, caplog):
    world.checkpoint = checkpoint(1, "x")
    world.produce("a", "b", "c", "d")
    world.log.drop_before(TOPIC, {0: 3})
    assert world.steps(6) == [True, True, False, True, True, True]
    assert world.items() == ["x", "d"]
    assert "retention gap" in caplog.text


def test_a_topic_that_was_made_anew_is_followed_from_its_end_and_the_histories_stay(world, caplog):
    world.checkpoint = checkpoint(9, "x")
    world.produce("a", "b")
    assert world.steps(3) == [True, True, False]
    assert "has not reached the offset" in caplog.text
    world.produce("c")
    assert world.steps(2) == [True, True]
    assert (world.items(), world.view.offsets, world.follower.num_gaps) == (["x", "c"], {0: 3}, 1)
