from concurrent.futures import Future

import pytest

from streamrec.clock import ManualClock
from streamrec.errors import BrokerUnavailable
from streamrec.serving.impressions import ImpressionLog
from streamrec.serving.requests import RecommendRequest

FACTS = {"model_version": "v00000007", "source": "student", "request_id": "r"}
ANSWER = {"items": [{"item_id": "a"}, {"item_id": "b"}], **FACTS}


class Sink:
    def __init__(self):
        self.events = []
        self.is_full = False

    def submit(self, events):
        if self.is_full:
            what = "Events: too many requests wait for the broker"
            raise BrokerUnavailable(what)
        self.events += events
        return Future()


@pytest.fixture
def sink():
    return Sink()


def test_an_answer_becomes_an_impression_with_an_id_of_its_own(sink):
    log = ImpressionLog(1.0, sink.submit, ManualClock(7), student="small")
    for _ in range(2):
        log.shown(RecommendRequest("u", "shop"), ANSWER)
    first, second = sink.events
    assert first["event_id"] != second["event_id"]
    assert {name: value for name, value in first.items() if name != "event_id"} == {
        "kind": "impression", "namespace": "shop", "user_id": "u", "items": ["a", "b"], "event_time": 7, "request_id": "r",
        "context": {"student": "small", "model_version": "v00000007", "source": "student", "share": 1.0},
    }  # fmt: skip


def test_a_share_is_logged_and_of_lists_each_item_once(sink):
    draws = iter([0.29, 0.3, 0.9])
    log = ImpressionLog(0.3, sink.submit, draw=lambda: next(draws))
    lists = {"lists": [ANSWER, {"items": [{"item_id": "b"}, {"item_id": "c"}]}], **FACTS}
    for _ in range(3):
        log.shown(RecommendRequest("u", "shop"), lists)
    assert [event["items"] for event in sink.events] == [["a", "b", "c"]]


def test_an_answer_to_nobody_or_with_nothing_is_no_impression(sink):
    log = ImpressionLog(1.0, sink.submit)
    log.shown(RecommendRequest(None, "shop", ("a",)), ANSWER)
    log.shown(RecommendRequest("u", "shop"), {"items": [], **FACTS})
    assert (sink.events, log.num_logged) == ([], 0)


def test_what_does_not_fit_is_dropped_and_counted(sink):
    log = ImpressionLog(1.0, sink.submit)
    sink.is_full = True
    log.shown(RecommendRequest("u", "shop"), ANSWER)
    assert (log.num_logged, log.num_dropped) == (0, 1)
