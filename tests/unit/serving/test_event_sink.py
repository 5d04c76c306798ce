import pytest

from streamrec.clock import ManualClock
from streamrec.config import EventsConfig
from streamrec.errors import BrokerUnavailable
from streamrec.events.codec import EventCodec
from streamrec.log.memory import MemoryLog
from streamrec.log.offsets import OffsetRange
from streamrec.serving.event_sink import EventSink

TOPIC = "events"


@pytest.fixture
def log():
    log = MemoryLog()
    log.ensure_topic(TOPIC, 1)
    return log


@pytest.fixture
def sink(log):
    return EventSink(EventCodec(EventsConfig()), lambda: log, TOPIC, max_waiting=3, clock=ManualClock(10_000))


def event(number, **more):
    return {"event_id": f"e{number}", "user_id": "u", "item_id": "i", "event_type": "click", "event_time": 5_000, **more}


def test_events_are_acknowledged_with_their_place_and_others_with_the_reason(sink, log):
    done = sink.submit([event(1), {"event_id": "e2"}, event(3), 5])
    assert not done.done()
    assert sink.step(0) == 4
    results = done.result(timeout=0)
    assert [result["status"] for result in results] == ["accepted", "rejected", "accepted", "rejected"]
    assert (results[0]["partition"], results[0]["offset"], results[2]["offset"]) == (0, 0, 1)
    assert (results[1]["reason"], results[3]["reason"]) == ("missing_field", "not_an_object")
    rows = log.read_table([OffsetRange(TOPIC, 0, 0, 2)])
    assert rows["key"].to_pylist() == [b"u", b"u"]
    assert (sink.num_accepted, sink.num_rejected) == (2, 2)


def test_item_updates_are_keyed_by_their_item(sink, log):
    sink.submit([{"kind": "item_update", "event_id": "e", "item_id": "thing", "event_time": 5}])
    sink.step(0)
    assert log.read_table([OffsetRange(TOPIC, 0, 0, 1)])["key"].to_pylist() == [b"thing"]


def test_requests_that_wait_together_are_appended_together(sink, log):
    first, second = sink.submit([event(1), {}]), sink.submit([event(2)])
    assert sink.step(0) == 3
    assert [result["status"] for result in first.result(0)] == ["accepted", "rejected"]
    assert second.result(0)[0]["offset"] == 1


def test_a_kind_that_is_not_accepted_is_rejected_and_says_where_to_send_it(sink, log):
    sink.kinds = ("interaction",)
    waiting = sink.submit([{"kind": "deletion", "event_id": "d", "user_id": "u", "event_time": 1000}, event(1)])
    sink.step(0)
    refused, accepted = waiting.result(0)
    assert (refused["status"], refused["reason"]) == ("rejected", "kind_not_accepted")
    assert "serving.accepts" in refused["detail"]
    assert accepted["status"] == "accepted"
    assert log.latest(TOPIC) == {0: 1}


def test_nothing_waiting_is_no_work(sink):
    assert sink.step(0) == 0


def test_a_request_that_was_given_up_is_not_appended(sink, log):
    sink.submit([event(1)]).cancel()
    sink.step(0)
    assert log.latest(TOPIC) == {0: 0}


def test_a_broker_that_fails_fails_the_waiting_requests_and_is_connected_anew(log):
    writers = []

    away = BrokerUnavailable("Broker: nobody answers", got="127.0.0.1:9")

    class Broken:
        def append(self, topic, records):
            raise away

        def close(self):
            raise away

    def open_writer():
        writers.append(Broken() if not writers else log)
        return writers[-1]

    sink = EventSink(EventCodec(EventsConfig()), open_writer, TOPIC, clock=ManualClock(10_000))
    lost = sink.submit([event(1)])
    sink.step(0)
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:9"):
        lost.result(timeout=0)
    kept = sink.submit([event(1)])
    sink.step(0)
    assert kept.result(timeout=0)[0]["status"] == "accepted"
    assert len(writers) == 2


def test_too_many_waiting_requests_are_refused_at_once(sink):
    for number in range(3):
        sink.submit([event(number)])
    with pytest.raises(BrokerUnavailable, match="too many requests"):
        sink.submit([event(4)])


def test_closing_refuses_who_still_waits(sink):
    waiting = sink.submit([event(1)])
    sink.close()
    with pytest.raises(BrokerUnavailable, match="stopping"):
        waiting.result(timeout=0)
