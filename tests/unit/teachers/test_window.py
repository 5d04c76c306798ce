from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamrec.features.dedupe import hash_key
from streamrec.state import ComponentState
from streamrec.teachers.window import EventWindow

HASHES = {user: hash_key("a", f"u{user}") for user in range(4)}
steps = st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=9), min_size=1, max_size=6)


def fill(window: EventWindow, batch: list[tuple[int, int]], start: int) -> None:
    users = np.asarray([HASHES[user] for user, _ in batch], np.int64)
    rows = np.arange(start, start + len(batch), dtype=np.int32)
    window.add(users, rows, np.asarray([time for _, time in batch], np.int64))


def naive_sequences(events: list[tuple[int, int, int]], length: int) -> list[list[int]]:
    """Each user's rows by time, cut from the newest in pieces of length + 1 that share one row."""
    of_user: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for arrival, (user, time, row) in enumerate(events):
        of_user[user].append((time, arrival, row))
    pieces = []
    for mine in of_user.values():
        rows = [row for _, _, row in sorted(mine)]
        stop = len(rows)
        while stop > 1:
            pieces.append(rows[max(0, stop - length - 1) : stop])
            stop -= length
    return sorted(pieces)


@given(steps, st.integers(1, 4), st.integers(4, 25))
def test_sequences_are_each_users_events_in_time_order_cut_from_the_newest(batches: list[list[tuple[int, int]]], length: int, capacity: int) -> None:
    window, events = EventWindow(capacity), []
    for batch in batches:
        fill(window, batch, len(events))
        events += [(user, time, len(events) + place) for place, (user, time) in enumerate(batch)]
    found, begins, arrived, num_arrived = window.sequences(length)
    assert found.shape[1] == length + 1
    assert sorted([row for row in piece if row >= 0] for piece in found.tolist()) == naive_sequences(events[-capacity:], length)
    assert all(-1 not in piece[: sum(row >= 0 for row in piece)] for piece in found.tolist())
    assert num_arrived == len(events)
    assert arrived.tolist() == [max(piece) for piece in found.tolist()], "rows are numbered by arrival"
    for piece, begun in zip(found.tolist(), begins.tolist(), strict=True):
        users = [events[row] for row in piece if row >= 0]
        assert begun[1 : len(users)] == [one[1] != other[1] for one, other in pairwise(users)]


@given(steps, st.integers(0, 3), st.integers(4, 25))
def test_a_snapshot_with_deltas_is_the_same_window_also_after_a_deletion(batches: list[list[tuple[int, int]]], gone: int, capacity: int) -> None:
    window, again = EventWindow(capacity), EventWindow(capacity)
    base, deltas = window.snapshot(), []
    for number, batch in enumerate(batches):
        fill(window, batch, 10 * number)
        if number == len(batches) // 2:
            window.delete_user("a", f"u{gone}")
            assert not (window._state().arrays["user"] == HASHES[gone]).any()
        delta = window.delta()
        if delta is None:
            base, deltas = window.snapshot(), []
        else:
            deltas.append(delta)
    again.restore(base, deltas)
    assert again.digest() == window.digest()
    for one, other in zip(again.sequences(3), window.sequences(3), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_empty_window_has_no_sequences() -> None:
    assert EventWindow(5).sequences(3).rows.shape == (0, 4)
    again = EventWindow(5)
    again.restore(ComponentState())
    assert len(again) == 0
