import pytest

from streamrec.clock import ManualClock
from streamrec.registry.swaps import REPLICA_LEASE_S, BoardState


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def state(clock):
    state = BoardState(clock)
    state.saw("a")
    state.saw("b")
    return state


def test_a_swap_takes_until_the_last_live_replica_has_acknowledged(state, clock):
    state.publish("v1", None)
    clock.advance(0.01)
    state.ack("a", 1, "")
    assert state.report()[0]["all_replicas_ms"] is None
    assert state.report()[0]["waiting"] == ["b"]
    clock.advance(0.01)
    state.ack("b", 1, "")
    assert state.report()[0]["all_replicas_ms"] == pytest.approx(20)


def test_a_repeated_acknowledgement_changes_nothing(state, clock):
    state.publish("v1", None)
    state.ack("a", 1, "")
    clock.advance(1)
    state.ack("a", 1, "")
    assert state.report()[0]["acked_ms"] == {"a": 0.0}


def test_promotion_numbers_never_go_back(state):
    assert state.publish("v5", 5)
    assert not state.publish("v4", 4)
    assert not state.publish("v5", 5)
    assert (state.seq, state.version) == (5, "v5")
    assert state.publish("v4", 6)
    assert state.version == "v4"


def test_a_replica_that_is_gone_does_not_hold_a_swap_up(state, clock):
    state.publish("v1", None)
    state.ack("a", 1, "")
    clock.advance(REPLICA_LEASE_S + 1)
    state.saw("a")
    assert state.report()[0]["all_replicas_ms"] == pytest.approx(0)


def test_a_replica_that_leaves_is_not_waited_for(state):
    state.publish("v1", None)
    state.ack("a", 1, "")
    state.left("b")
    assert state.report()[0]["all_replicas_ms"] is not None


def test_a_replica_that_refuses_is_named_with_its_reason(state):
    state.publish("v1", None)
    state.ack("a", 1, "")
    state.ack("b", 1, "not finite")
    assert state.report()[0]["refused"] == {"b": "not finite"}
    assert state.report()[0]["all_replicas_ms"] is None


def test_a_replica_that_came_later_counts_when_it_acknowledges(state, clock):
    state.publish("v1", None)
    state.ack("a", 1, "")
    state.ack("b", 1, "")
    clock.advance(3)
    state.ack("late", 1, "")
    assert state.report()[0]["replicas"] == 3
    assert state.report()[0]["all_replicas_ms"] == pytest.approx(0)
