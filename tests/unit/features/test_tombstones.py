from __future__ import annotations

import numpy as np
import pytest

from streamrec.errors import ConfigError
from streamrec.features.tombstones import Tombstones
from streamrec.state import ComponentState, from_bytes, to_bytes

KEY = b"k" * 16


def asked(key: bytes = KEY) -> Tombstones:
    tombstones = Tombstones(key)
    tombstones.add("default", "u1", 1000, 0, 7)
    tombstones.add("shop", "u2", 2000, 1, 8)
    return tombstones


def covered(tombstones: Tombstones, *events: tuple[str, str, int, int, int]) -> list[bool]:
    users = list(dict.fromkeys(event[:2] for event in events))
    index = np.asarray([users.index(event[:2]) for event in events])
    return tombstones.covers(users, index, [np.asarray([event[at] for event in events]) for at in (2, 3, 4)]).tolist()


def test_what_a_user_did_before_the_request_is_covered_in_its_namespace_only() -> None:
    events = [("default", "u1", 999, 0, 50), ("shop", "u1", 999, 0, 51), ("default", "u2", 999, 0, 52), ("shop", "u2", 1999, 0, 53)]
    assert covered(asked(), *events) == [True, False, False, True]


def test_what_comes_after_the_request_in_the_streams_order_begins_a_new_life() -> None:
    at = [("default", "u1", 1000, 0, 6), ("default", "u1", 1000, 0, 7), ("default", "u1", 1000, 0, 8), ("default", "u1", 1000, 1, 0)]
    assert covered(asked(), *at, ("default", "u1", 1001, 0, 1)) == [True, False, False, False, False]


def test_the_newest_of_several_requests_counts_whatever_their_order() -> None:
    tombstones = asked()
    tombstones.add("default", "u1", 500, 0, 9)
    assert covered(tombstones, ("default", "u1", 900, 0, 99)) == [True]
    tombstones.add("default", "u1", 1500, 0, 10)
    assert covered(tombstones, ("default", "u1", 1400, 0, 99)) == [True]
    assert len(tombstones) == 2


def test_without_any_request_nothing_is_covered() -> None:
    assert covered(Tombstones(KEY), ("default", "u1", 0, 0, 0)) == [False]
    assert not Tombstones(KEY).covers([], np.zeros(0, np.int64), [np.zeros(0)] * 3).size


def test_what_had_been_sent_ahead_of_the_request_is_covered_and_what_is_newer_still_begins_a_new_life() -> None:
    tombstones = Tombstones(KEY)
    tombstones.add("default", "u1", 1000, 0, 7, until_ms=5000)
    assert covered(tombstones, ("default", "u1", 5000, 0, 50), ("default", "u1", 5001, 0, 51), ("shop", "u1", 900, 0, 52)) == [True, False, False]
    assert tombstones.covers_record("default", "u1", 5000, 1, 50)
    assert not tombstones.covers_record("default", "u1", 5001, 1, 50)
    tombstones.add("default", "u1", 2000, 0, 60, until_ms=500)
    assert covered(tombstones, ("default", "u1", 5000, 0, 70)) == [True]
    other = Tombstones(KEY)
    other.restore(from_bytes(to_bytes(tombstones.snapshot())))
    assert other.digest() == tombstones.digest()
    assert covered(other, ("default", "u1", 5000, 0, 70)) == [True]


def test_when_a_user_was_last_seen_before_asking_is_not_kept() -> None:
    states = []
    for until_ms in (999, 5):
        tombstones = Tombstones(KEY)
        tombstones.add("default", "u1", 1000, 0, 7, until_ms)
        states.append(to_bytes(tombstones.snapshot()))
    assert states[0] == states[1]


def test_a_state_that_does_not_say_how_far_ahead_events_lay_is_read_with_the_requests_time() -> None:
    state = asked().snapshot()
    old = ComponentState({name: values for name, values in state.arrays.items() if name != "until"}, state.meta)
    other = Tombstones(KEY)
    other.restore(old)
    assert other.digest() == asked().digest()


def test_snapshot_and_deltas_give_the_same_state_through_bytes() -> None:
    tombstones = asked()
    base = tombstones.snapshot()
    tombstones.add("default", "u3", 3000, 0, 11)
    first = tombstones.delta()
    tombstones.add("default", "u1", 4000, 0, 12)
    second = tombstones.delta()
    assert len(second.arrays["user"]) == 1
    other = Tombstones(KEY)
    other.restore(from_bytes(to_bytes(base)), [from_bytes(to_bytes(first)), from_bytes(to_bytes(second))])
    assert other.digest() == tombstones.digest()
    assert covered(other, ("default", "u1", 3999, 0, 0), ("default", "u3", 3000, 0, 12)) == [True, False]


def test_ids_can_not_be_read_back_or_compared_without_the_key() -> None:
    state, other = asked().snapshot(), asked(b"another key").snapshot()
    assert b"u1" not in to_bytes(state)
    assert not np.intersect1d(state.arrays["user"], other.arrays["user"]).size


def test_another_key_is_refused_because_deleted_users_would_come_back() -> None:
    with pytest.raises(ConfigError, match="STREAMREC_TOMBSTONE_KEY"):
        Tombstones(b"another key").restore(asked().snapshot())


def test_a_state_without_tombstones_restores_empty() -> None:
    tombstones = asked()
    tombstones.restore(ComponentState())
    assert len(tombstones) == 0


def test_once_their_topic_is_no_more_requests_count_by_their_time_alone() -> None:
    tombstones = asked()
    assert tombstones.covers_record("default", "u1", 5000, 0, 6), "a place before the request"
    tombstones.snapshot()
    tombstones.leave_places()
    assert not tombstones.covers_record("default", "u1", 5000, 0, 6)
    at = [("default", "u1", 1000, 0, 8), ("default", "u1", 1000, 3, 10**9), ("default", "u1", 1001, 0, 1)]
    assert covered(tombstones, *at) == [True, True, False]
    other = asked()
    other.restore(from_bytes(to_bytes(asked().snapshot())), [from_bytes(to_bytes(tombstones.delta()))])
    assert other.digest() == tombstones.digest()
    tombstones.add("default", "u1", 2000, 0, 4)
    assert covered(tombstones, ("default", "u1", 2000, 0, 3), ("default", "u1", 2000, 0, 5)) == [True, False]
