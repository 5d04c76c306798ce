from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from streamrec.features.dedupe import Dedupe, EventKeys, hash_key
from streamrec.features.hashes import first_of_each, hash_id, hash_ids, namespace_seeds
from streamrec.state import ComponentState, from_bytes, to_bytes

Event = tuple[str, str, str | None, int]  # namespace, event id, user id, event time


def keys_of(events: list[Event], kind: str = "interaction") -> EventKeys:
    names = ("namespace", "event_id", "user_id", "event_time")
    columns: dict[str, Any] = {name: [event[place] for event in events] for place, name in enumerate(names)}
    types = [pa.string(), pa.string(), pa.string(), pa.int64()]
    table = pa.table([pa.array(columns[name], kind) for name, kind in zip(names, types, strict=True)], names=list(names))
    return EventKeys.of(table.append_column("kind", pa.array([kind] * len(events), pa.string())))


def feed(dedupe: Dedupe, events: list[Event], oldest_ms: int | None = None) -> list[bool]:
    keys = keys_of(events)
    fresh = dedupe.fresh(keys, oldest_ms)
    dedupe.remember(keys.select(fresh))
    return list(fresh.tolist())


class Model:
    """What dedupe promises, with a list."""

    def __init__(self, horizon: int) -> None:
        self.horizon = horizon
        self.entries: list[Event | None] = []  # None: removed with its user
        self.oldest_ms = -(10**18)

    def known(self) -> list[Event]:
        last = self.entries[max(0, len(self.entries) - self.horizon) :]
        return [event for event in last if event is not None and event[3] >= self.oldest_ms]

    def feed(self, events: list[Event], oldest_ms: int | None) -> list[bool]:
        self.oldest_ms = max(self.oldest_ms, self.oldest_ms if oldest_ms is None else oldest_ms)
        seen = {event[:2] for event in self.known()}
        fresh = [event[:2] not in seen and event[:2] not in {earlier[:2] for earlier in events[:place]} for place, event in enumerate(events)]
        self.entries += [event for event, is_fresh in zip(events, fresh, strict=True) if is_fresh]
        return fresh

    def delete(self, namespace: str, user: str) -> int:
        gone = len([event for event in self.live() if (event[0], event[2]) == (namespace, user)])
        self.entries = [None if event is not None and (event[0], event[2]) == (namespace, user) else event for event in self.entries]
        return gone

    def live(self) -> list[Event]:
        """What is still in the ring: time-forgotten ids leave it in order of arrival."""
        last = self.entries[max(0, len(self.entries) - self.horizon) :]
        while last and (last[0] is None or last[0][3] < self.oldest_ms):
            last = last[1:]
        return [event for event in last if event is not None]


events = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]), st.sampled_from([f"e{number}" for number in range(30)]), st.sampled_from(["u", "v", None]), st.integers(0, 99)
    ),
    max_size=12,
)


class DedupeMachine(RuleBasedStateMachine):
    @initialize(horizon=st.integers(1, 25))
    def begin(self, horizon: int) -> None:
        self.dedupe, self.model = Dedupe(horizon), Model(horizon)
        self.base: ComponentState | None = None
        self.deltas: list[ComponentState] = []

    @rule(batch=events, oldest_ms=st.none() | st.integers(0, 110))
    def feed(self, batch: list[Event], oldest_ms: int | None) -> None:
        assert feed(self.dedupe, batch, oldest_ms) == self.model.feed(batch, oldest_ms)

    @rule(namespace=st.sampled_from(["a", "b"]), user=st.sampled_from(["u", "v"]))
    def delete_user(self, namespace: str, user: str) -> None:
        assert self.dedupe.delete_user(namespace, user) == self.model.delete(namespace, user)
        assert self.dedupe.delete_user(namespace, user) == 0

    @rule()
    def commit(self) -> None:
        state = self.dedupe.delta()
        assert (state is None) == (self.base is None)
        if state is None:
            self.base, self.deltas = self.dedupe.snapshot(), []
        else:
            self.deltas.append(state)

    @rule()
    def snapshot(self) -> None:
        self.base, self.deltas = self.dedupe.snapshot(), []

    @rule()
    def commit_and_restart(self) -> None:
        self.commit()
        assert self.base is not None
        again = Dedupe(self.dedupe.horizon)
        states = [from_bytes(to_bytes(state)) for state in (self.base, *self.deltas)]
        again.restore(states[0], states[1:])
        assert again.digest() == self.dedupe.digest()
        self.dedupe = again

    @invariant()
    def knows_what_the_model_knows(self) -> None:
        if hasattr(self, "model"):
            assert len(self.dedupe) == len(self.model.known()) <= self.dedupe.horizon


DedupeMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestDedupeAgainstAModel = DedupeMachine.TestCase


def test_many_ids_in_batches_of_any_size_are_each_fresh_once_until_the_horizon_forgets_them() -> None:
    dedupe, rng = Dedupe(5000), np.random.default_rng(0)
    order: list[int] = []
    while len(order) < 40_000:
        start = len(order)
        numbers = [*range(start, start + int(rng.integers(1, 4000))), *rng.integers(max(0, start - 5000), start + 1, 50).tolist()]
        fresh = feed(dedupe, [("a", f"event-{number}", f"u{number % 7}", number) for number in numbers])
        recent = set(order[-5000:])
        expected = []
        for number in numbers:
            expected.append(number not in recent)
            recent.add(number)
        assert fresh == expected
        order += [number for number, is_fresh in zip(numbers, fresh, strict=True) if is_fresh]
        assert len(dedupe) == min(len(order), 5000)


def test_a_delta_holds_what_came_and_no_more() -> None:
    dedupe = Dedupe(10_000)
    feed(dedupe, [("a", f"e{number}", "u", number) for number in range(3000)])
    dedupe.snapshot()
    feed(dedupe, [("a", f"f{number}", "u", number) for number in range(7)])
    state = dedupe.delta()
    assert state is not None
    assert {name: len(array) for name, array in state.arrays.items()} == {"ids": 7, "users": 7, "times": 7, "removed": 0}


def test_a_deletions_own_id_outlives_the_user_so_that_the_same_request_is_not_heard_twice() -> None:
    dedupe = Dedupe(100)
    feed(dedupe, [("a", "e1", "u", 5), ("a", "e2", "v", 5)])
    request = keys_of([("a", "d1", "u", 6)], "deletion")
    dedupe.remember(request)
    assert dedupe.delete_user("a", "u") == 1
    assert not dedupe.fresh(request, None).any()
    assert feed(dedupe, [("a", "e1", "u", 5), ("a", "e2", "v", 5)]) == [True, False]


def test_a_smaller_horizon_after_a_restart_keeps_the_newest_ids() -> None:
    wide, narrow = Dedupe(100), Dedupe(10)
    feed(wide, [("a", f"e{number}", "u", number) for number in range(50)])
    narrow.restore(wide.snapshot())
    assert len(narrow) == 10
    assert feed(narrow, [("a", f"e{number}", "u", number) for number in (39, 40, 49)]) == [True, False, False]


def test_a_horizon_of_zero_drops_nothing_and_survives_all_the_same() -> None:
    dedupe = Dedupe(0)
    assert feed(dedupe, [("a", "x", "u", 1), ("a", "x", "u", 1)]) == [True, True]
    again = Dedupe(0)
    again.restore(dedupe.snapshot(), [dedupe.delta() or ComponentState()])
    assert again.delete_user("a", "u") == 0
    assert again.digest() == dedupe.digest()


def test_equal_ids_in_two_namespaces_are_two_and_no_concatenation_collides() -> None:
    assert feed(Dedupe(100), [("a", "x", "u", 1), ("b", "x", "u", 1), ("a", "x", "u", 1)]) == [True, True, False]
    assert hash_key("ab", "c") != hash_key("a", "bc")
    assert hash_id("ab", "c") != hash_id("a", "bc")


def reference_hash(namespace: str, identifier: str) -> int:
    def mixed(value: int) -> int:
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            value = (value ^ value >> 33) * factor % 2**64
        return value ^ value >> 33

    value = 0
    for text in (namespace, identifier):
        data = text.encode()
        value = mixed(value ^ len(data))
        for start in range(0, len(data), 8):
            value = mixed(value ^ int.from_bytes(data[start : start + 8], "little"))
    return value


@given(st.lists(st.tuples(st.sampled_from(["", "a", "shop ü"]), st.none() | st.text(max_size=30)), min_size=1, max_size=20), st.integers(0, 3))
def test_a_key_has_the_same_hash_in_every_column(keys: list[tuple[str, str | None]], cut: int) -> None:
    names, ids = (pa.array([key[place] for key in keys], pa.string()) for place in (0, 1))
    found = hash_ids(namespace_seeds(pa.chunked_array([names]).slice(cut)), pa.chunked_array([ids.slice(0, cut), ids.slice(cut)]).slice(cut)).tolist()
    assert found == [0 if one is None else reference_hash(name, one) for name, one in keys[cut:]]


def test_similar_ids_do_not_collide_and_spread_over_all_bits() -> None:
    ids = [f"user-{number}" for number in range(50_000)] + [f"{number:032x}" for number in range(50_000)] + [str(10**15 + n) for n in range(50_000)]
    hashes = hash_ids(namespace_seeds(pa.chunked_array([pa.repeat("default", len(ids))])), pa.chunked_array([ids]))
    assert len(np.unique(hashes)) == len(ids)
    shares = [float((hashes >> np.uint64(bit) & np.uint64(1)).mean()) for bit in range(64)]
    assert max(abs(share - 0.5) for share in shares) < 0.01


@given(st.lists(st.integers(0, 9), max_size=30))
def test_the_first_of_each_value_is_found(values: list[int]) -> None:
    expected = [value not in values[:place] for place, value in enumerate(values)]
    assert first_of_each(np.asarray(values, np.uint64)).tolist() == expected
