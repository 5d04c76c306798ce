from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streamrec.events.meaning import CONTEXT, NEGATIVE, TARGET
from streamrec.features.dedupe import hash_key
from streamrec.features.histories import SLACK, Histories, HistoryEvents, columns_of
from streamrec.features.history_table import CHUNK
from streamrec.state import ComponentState, merge, to_bytes

LENGTH = 4


class Event(NamedTuple):
    user: tuple[str, str]
    row: int
    time: int
    role: int
    weight: float = 1.0


def table(batch: list[Event]) -> HistoryEvents:
    users = list(dict.fromkeys(event.user for event in batch))
    return HistoryEvents(
        users,
        np.asarray([users.index(event.user) for event in batch], np.int64),
        np.asarray([event.row for event in batch], np.int32),
        np.asarray([event.time for event in batch], np.int64),
        np.asarray([event.role for event in batch], np.int8),
        np.asarray([event.weight for event in batch], np.float32),
        np.asarray([0 if event.user[0] == "a" else 1 for event in batch], np.int32),
    )


class NaiveHistories:
    """The same, one event after the other on Python lists."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)  # (time, row), oldest first

    def advance(self, batch: list[Event]) -> set[tuple[object, ...]]:
        queries = set()
        for user in {event.user for event in batch}:
            mine = [event for event in batch if event.user == user]
            merged = [(time, row, False) for time, row in self.entries[user]]
            merged += [(event.time, event.row, event.role == TARGET) for event in mine if event.role != NEGATIVE]
            merged.sort(key=lambda entry: entry[0])
            for time in {entry[0] for entry in merged}:
                before = [row for when, row, _ in merged if when < time]
                targets = tuple(dict.fromkeys(row for when, row, is_target in merged if when == time and is_target))
                if before and targets:
                    newest_first = before[::-1][:LENGTH]
                    history = tuple(newest_first + [-1] * (LENGTH - len(newest_first)))
                    queries.add((hash_key(*user), history, frozenset(targets), 0 if user[0] == "a" else 1))
            kept = [(time, row) for time, row, _ in merged]
            for event in sorted((event for event in mine if event.role == NEGATIVE), key=lambda event: event.time):
                found = [place for place, (time, row) in enumerate(kept) if row == event.row and time <= event.time]
                if found:
                    del kept[found[-1]]
            self.entries[user] = kept[-LENGTH:]
        return queries


many_users = st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["u1", "u2", "u3", "ü"]))
roles = st.sampled_from([TARGET, TARGET, CONTEXT, NEGATIVE])
users = st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["u1", "u2", "u3"]))
events = st.builds(Event, users, st.integers(0, 5), st.integers(0, 12), st.sampled_from([TARGET, TARGET, CONTEXT, NEGATIVE]), st.just(1.0))
batches = st.lists(st.lists(events, max_size=12), min_size=1, max_size=5)


def queries_of(histories: Histories, batch: list[Event]) -> list[tuple[object, ...]]:
    examples = histories.advance(table(batch))
    return [
        (
            int(examples.user[number]),
            tuple(examples.history[number].tolist()),
            frozenset(examples.target_rows[examples.indptr[number] : examples.indptr[number + 1]].tolist()),
            int(examples.namespace[number]),
        )
        for number in range(len(examples))
    ]


@given(batches)
def test_batches_give_the_queries_and_histories_of_one_event_at_a_time(stream: list[list[Event]]) -> None:
    histories, naive = Histories(LENGTH, 100), NaiveHistories()
    for batch in stream:
        found = queries_of(histories, batch)
        assert len(found) == len(set(found))
        assert set(found) == naive.advance(batch)
    for user, entries in naive.entries.items():
        assert histories.get(*user).tolist() == [row for _, row in entries]


@given(batches, batches)
def test_a_restored_component_has_the_same_future_bit_for_bit(past: list[list[Event]], future: list[list[Event]]) -> None:
    histories = Histories(LENGTH, 3)
    for batch in past:
        histories.advance(table(batch))
    histories.delete_user("a", "u1")
    again = Histories(LENGTH, 3)
    again.restore(histories.snapshot())
    assert again.digest() == histories.digest()
    for batch in future:
        one, other = histories.advance(table(batch)), again.advance(table(batch))
        for name in ("history", "indptr", "target_rows", "weight", "user", "namespace"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert again.digest() == histories.digest()


@given(batches, st.integers(1, 3))
def test_there_are_never_more_users_than_allowed_and_the_newest_stay(stream: list[list[Event]], bound: int) -> None:
    histories = Histories(LENGTH, bound)
    for batch in stream:
        histories.advance(table(batch))
        assert len(histories) <= bound
        present = {event.user for event in batch}
        if 0 < len(present) <= bound:
            assert present <= set(columns_of(histories.snapshot())[0])


def test_a_negative_event_takes_the_newest_occurrence_out_but_queries_of_its_batch_still_saw_it() -> None:
    user = ("a", "u1")
    histories = Histories(LENGTH, 10)
    histories.advance(table([Event(user, 1, 1, TARGET), Event(user, 1, 2, TARGET)]))
    found = queries_of(histories, [Event(user, 1, 3, NEGATIVE), Event(user, 2, 4, TARGET)])
    assert found == [(hash_key(*user), (1, 1, -1, -1), frozenset({2}), 0)]
    assert histories.get(*user).tolist() == [1, 2]


def test_a_removal_that_empties_a_history_leaves_an_empty_history() -> None:
    user = ("a", "u1")
    histories = Histories(LENGTH, 10)
    histories.advance(table([Event(user, 1, 1, TARGET)]))
    histories.advance(table([Event(user, 1, 2, NEGATIVE)]))
    assert histories.get(*user).tolist() == []
    assert queries_of(histories, [Event(user, 2, 4, TARGET)]) == []


def test_a_baskets_weight_is_the_mean_of_its_items_weights() -> None:
    user = ("a", "u1")
    histories = Histories(LENGTH, 10)
    batch = [Event(user, 1, 1, TARGET), Event(user, 2, 5, TARGET, 0.5), Event(user, 3, 5, TARGET, 1.0)]
    assert histories.advance(table(batch)).weight.tolist() == [0.75]


def test_histories_grow_past_their_first_capacity() -> None:
    histories = Histories(2, 10_000)
    for offset in (0, 5):
        batch = [Event(("a", f"u{number}"), number % 7, offset + 1, TARGET) for number in range(1500)]
        examples = histories.advance(table(batch))
    assert len(histories) == 1500
    assert len(examples) == 1500
    again = Histories(2, 10_000)
    again.restore(histories.snapshot())
    assert again.digest() == histories.digest()


class HistoriesMachine(RuleBasedStateMachine):
    """Histories, saved and restored at any time, beside a dictionary of lists."""

    def __init__(self) -> None:
        super().__init__()
        self.histories, self.naive = Histories(LENGTH, 4), NaiveHistories()
        self.touched: dict[tuple[str, str], int] = {}
        self.slots: dict[tuple[str, str], int] = {}
        self.clock = 0
        self.base, self.deltas = self.histories.snapshot(), list[ComponentState]()

    @rule(batch=st.lists(st.builds(Event, many_users, st.integers(0, 5), st.integers(0, 12), roles, st.just(1.0)), min_size=1, max_size=9))
    def advance(self, batch: list[Event]) -> None:
        assert set(queries_of(self.histories, batch)) == self.naive.advance(batch)
        self.clock += 1
        for user in dict.fromkeys(event.user for event in batch):
            self.touched[user] = self.clock
            self.slots.setdefault(user, next(slot for slot in range(99) if slot not in self.slots.values()))
        surplus = len(self.touched) - 4
        for user in sorted(self.touched, key=lambda user: (self.touched[user], self.slots[user]))[: max(0, surplus)]:
            self.forget(user)

    def forget(self, user: tuple[str, str]) -> int:
        for held in (self.touched, self.slots):
            held.pop(user, None)
        return len(self.naive.entries.pop(user, []))

    @rule(user=many_users)
    def delete(self, user: tuple[str, str]) -> None:
        assert self.histories.delete_user(*user) == self.forget(user)

    @rule(gone=st.lists(st.integers(0, 5), max_size=3))
    def forget_rows(self, gone: list[int]) -> None:
        num = sum(row in gone for entries in self.naive.entries.values() for _, row in entries)
        assert self.histories.forget_rows(np.asarray(gone, np.int32)) == num
        for user, entries in self.naive.entries.items():
            self.naive.entries[user] = [entry for entry in entries if entry[1] not in gone]

    @rule()
    def save_whole(self) -> None:
        self.base, self.deltas = self.histories.snapshot(), []

    @rule()
    def restart(self) -> None:
        self.deltas.append(self.histories.delta())
        again = Histories(LENGTH, 4)
        again.restore(self.base, self.deltas)
        assert again.digest() == self.histories.digest()
        self.histories = again

    @invariant()
    def the_same_users_have_the_same_entries(self) -> None:
        assert len(self.histories) == len(self.touched)
        self.deltas.append(self.histories.delta())
        names, indptr, rows, times = columns_of(merge(self.base, self.deltas))
        found = {
            user: list(zip(times[start:end].tolist(), rows[start:end].tolist(), strict=True))
            for user, start, end in zip(names, indptr[:-1], indptr[1:], strict=True)
        }
        assert found == {user: self.naive.entries[user] for user in self.touched}
        assert names == sorted(names, key=lambda user: (self.touched[user], self.slots[user]))


TestHistoriesMachine = HistoriesMachine.TestCase


def test_a_delta_holds_the_users_that_changed_and_nothing_else() -> None:
    histories = Histories(50, 10_000)
    histories.advance(table([Event(("a", f"u{number}"), number % 7, 1, TARGET) for number in range(2000)]))
    whole = len(to_bytes(histories.snapshot()))
    histories.advance(table([Event(("a", f"u{number}"), 3, 2, TARGET) for number in (5, 1700)]))
    histories.delete_user("a", "u9")
    delta = histories.delta()
    assert delta.arrays["@rows"].tolist() == [5, 9, 1700]
    assert len(to_bytes(delta)) < whole / 20
    assert histories.delta().arrays["@rows"].tolist() == []


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 6), st.booleans()), max_size=30))
def test_each_of_many_negative_events_takes_out_the_newest_occurrence_before_it(drawn: list[tuple[int, int, int, bool]]) -> None:
    batch = [Event(("a", f"u{user}"), row, time, NEGATIVE if gone else CONTEXT) for user, row, time, gone in drawn]
    histories, naive = Histories(LENGTH, 100), NaiveHistories()
    histories.advance(table(batch))
    naive.advance(batch)
    for user, entries in naive.entries.items():
        assert histories.get(*user).tolist() == [row for _, row in entries]


def test_a_slot_in_the_second_chunk_reads_and_restores_like_one_in_the_first() -> None:
    histories, again = Histories(2, 100_000), Histories(2, 100_000)
    num = CHUNK + 20
    for time in (1, 2, 3):
        histories.advance(table_of_users(num, time))
    again.restore(histories.snapshot())
    assert again.digest() == histories.digest()
    assert again.get("a", f"u{num - 1}").tolist() == [2, 3]
    assert len(again.advance(table_of_users(num, 4))) == num


def table_of_users(num: int, time: int) -> HistoryEvents:
    """One event a user, whose row is the time."""
    zeros = np.zeros(num, np.int32)
    users = [("a", f"u{number}") for number in range(num)]
    times = np.full(num, time, np.int64)
    return HistoryEvents(users, np.arange(num), zeros + time, times, np.full(num, TARGET, np.int8), np.ones(num, np.float32), zeros)


def test_beyond_a_large_bound_one_in_so_many_leaves_at_once() -> None:
    histories = Histories(2, 640)
    histories.advance(table_of_users(640, 1))
    assert len(histories) == 640
    histories.advance(table([Event(("b", "new"), 1, 2, TARGET)]))
    assert len(histories) == 640 - 640 // SLACK
    assert histories.get("b", "new").tolist() == [1]
    assert len(histories.get("a", "u10")) == 0
    assert len(histories.get("a", "u11")) == 1


def test_columns_are_ordered_by_the_last_update_and_hold_what_get_returns() -> None:
    histories = Histories(LENGTH, 10)
    for number, name in enumerate(["u3", "u1", "u2", "u1"]):
        histories.advance(table([Event(("a", name), number, number, TARGET)]))
    names, indptr, rows, times = columns_of(histories.snapshot())
    assert names == [("a", "u3"), ("a", "u2"), ("a", "u1")]
    assert [rows[indptr[index] : indptr[index + 1]].tolist() for index in range(3)] == [[0], [2], [1, 3]]
    assert times.tolist() == [0, 2, 1, 3]


def test_a_deleted_user_leaves_nothing_in_the_snapshot() -> None:
    histories = Histories(LENGTH, 10)
    histories.advance(table([Event(("a", "u1"), 1, 1, TARGET), Event(("b", "u1"), 2, 1, TARGET)]))
    assert histories.delete_user("a", "u1") == 1
    assert histories.delete_user("a", "u1") == 0
    assert columns_of(histories.snapshot())[0] == [("b", "u1")]
    assert histories.get("b", "u1").tolist() == [2]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 30)), max_size=60), st.sets(st.integers(0, 9), max_size=5))
def test_forgotten_rows_leave_and_the_rest_of_each_history_keeps_its_order_and_times(events: list[tuple[int, int, int]], gone: set[int]) -> None:
    histories, saved = Histories(LENGTH, 100), Histories(LENGTH, 100)
    histories.advance(table([Event(("a", f"u{user}"), row, time, TARGET) for user, row, time in events]))
    before = {f"u{user}": histories.get("a", f"u{user}").tolist() for user in range(5)}
    expected = {user: [row for row in rows if row not in gone] for user, rows in before.items()}
    histories.snapshot()
    assert histories.forget_rows(np.asarray(sorted(gone), np.int32)) == sum(len(before[user]) - len(expected[user]) for user in before)
    assert {user: histories.get("a", user).tolist() for user in before} == expected
    saved.restore(histories.snapshot())
    late = [Event(("a", user), 50, 15, TARGET) for user in before]
    assert {tuple(history) for history in histories.advance(table(late)).history.tolist()} == {
        tuple(history) for history in saved.advance(table(late)).history.tolist()
    }
    times = {(user, row): time for user, row, time in events}
    if len(times) == len(events):  # Each row once a user: its time says on which side of the late event it stands.
        for user in before:
            rows = histories.get("a", user).tolist()
            place = rows.index(50) if 50 in rows else -1
            assert all((times[int(user[1:]), row] <= 15) == (at < place) for at, row in enumerate(rows) if row != 50 and place >= 0)
