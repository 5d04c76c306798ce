from __future__ import annotations

import numpy as np
import pytest

from streamrec.errors import ConfigError
from streamrec.features.tombstones import NEVER, Tombstones
from streamrec.state import ComponentState, from_bytes, to_bytes

KEY = b"k" * 16


def asked(key: bytes = KEY) -> Tombstones:
    tombstones = Tombstones(key)
    tombstones.add("default", "u1", 1000, 0, 7)
    tombstones.add("shop", "u2", 2000, 1, 8)
    return tombstones


def test_a_request_is_found_again_in_its_namespace_only() -> None:
    times = asked().times_of([("default", "u1"), ("shop", "u1"), ("default", "u2"), ("shop", "u2")])
    assert times.tolist() == [1000, NEVER, NEVER, 2000]


def test_the_newest_of_several_requests_counts_whatever_their_order() -> None:
    tombstones = asked()
    tombstones.add("default", "u1", 500, 0, 9)
    assert tombstones.times_of([("default", "u1")]).tolist() == [1000]
    tombstones.add("default", "u1", 1500, 0, 10)
    assert tombstones.times_of([("default", "u1")]).tolist() == [1500]
    assert len(tombstones) == 2


def test_without_any_request_nobody_is_looked_up() -> None:
    assert Tombstones(KEY).times_of([("default", "u1")]).tolist() == [NEVER]


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
    assert other.times_of([("default", "u1"), ("default", "u3")]).tolist() == [4000, 3000]


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
