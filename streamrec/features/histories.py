"""Keep each user's last items, and cut training examples out of ordered events.

Shapes: ``N`` history length, ``E`` events of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamrec.events.meaning import NEGATIVE, TARGET
from streamrec.features.dedupe import NEVER_MS
from streamrec.features.examples import Examples
from streamrec.features.history_table import CHUNK, HistoryTable, User
from streamrec.state import ComponentState, digest_of, merge, unpack_strings

SLACK = 64
"""Beyond the bound one user in so many leaves at once, so that the oldest need not be looked for at each batch."""


@dataclass(frozen=True)
class HistoryEvents:
    """Hold a batch of interactions for `Histories.advance`.

    Attributes:
        users: (namespace, user id), each once, in the order of their first event. [U]
        user_of_event: Index into ``users``. [E] int64
        rows: Item rows. [E] int32
        times: Event time in ms UTC. [E] int64
        roles: Codes of `streamrec.events.meaning`. [E] int8
        weights: Weight of the event type. [E] float32
        namespaces: Namespace codes. [E] int32
    """

    users: Sequence[User]
    user_of_event: NDArray[np.int64]
    rows: NDArray[np.int32]
    times: NDArray[np.int64]
    roles: NDArray[np.int8]
    weights: NDArray[np.float32]
    namespaces: NDArray[np.int32]


class Histories:
    """Hold the last ``N`` (row, event time) of each user, oldest first.

    Bounded: beyond ``max_users`` those that were updated longest ago leave, and with them one in `SLACK` of the bound.

    **Contract.** `advance` is a pure function of the state and the batch: the same batches in the same order give the same state and the
    same examples. A query's history holds only what happened strictly before its basket's event time. `delta` holds the users that changed.
    """

    name = "histories"

    def __init__(self, length: int, max_users: int) -> None:
        self.length = length
        self.max_users = max_users
        self._table = HistoryTable(length)
        self._clock = 0

    def __len__(self) -> int:
        return len(self._table)

    def get(self, namespace: str, user_id: str) -> NDArray[np.int32]:
        """Return the user's recent item rows, newest last; empty when unknown. [<= N] int32."""
        return self._table.get((namespace, user_id))

    def newest_ms(self, namespace: str, user_id: str) -> int:
        """Return the newest event time in the user's history, the smallest integer without any."""
        slot = self._table.find((namespace, user_id))
        return NEVER_MS if slot < 0 else int(self._table.read(np.asarray([slot]))[2].max(initial=NEVER_MS))

    def held(self, rows: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return which of the item rows any history holds. [num]."""
        return self._table.held(rows)

    def advance(self, events: HistoryEvents) -> Examples:
        """Cut examples out of the events, then append the events to the histories.

        A basket is the target events of one user at one event time; it makes a query when the user had anything before that time.
        A negative event takes the item's newest occurrence out at the end of the batch, so that no query sees the future.

        Returns:
            Queries ordered by the user's slot, then event time.
        """
        if not events.users:
            return Examples.empty(self.length)
        self._clock += 1
        slots = self._table.slots_of(events.users, self._clock)[events.user_of_event]
        merged = _merge(self._table, slots, events)
        examples = _cut_examples(merged, self.length, self._table.hashes)
        self._store(_without_negatives(merged, slots, events))
        surplus = len(self) - self.max_users
        if surplus > 0:
            self._table.remove(self._table.oldest(surplus + self.max_users // SLACK))
        return examples

    def _store(self, entries: _Entries) -> None:
        starts, ends = entries.segments()
        starts = np.maximum(starts, ends - self.length)
        sizes = ends - starts
        source = np.repeat(starts - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())
        held = np.searchsorted(entries.touched, entries.slots[ends - 1]) if len(ends) else np.zeros(0, np.int64)
        all_sizes = np.zeros(len(entries.touched), np.int64)
        all_sizes[held] = sizes
        self._table.write(entries.touched, all_sizes, entries.rows[source], entries.times[source])

    def snapshot(self) -> ComponentState:
        """Return users and their entries by slot."""
        self._table.forget_changes()
        return self._state()

    def _state(self) -> ComponentState:
        arrays, meta = self._table.state()
        return ComponentState(arrays, {**meta, "clock": self._clock})

    def delta(self) -> ComponentState:
        """Return the users that changed since the last snapshot or delta, those that left among them."""
        arrays, meta = self._table.take_changed()
        return ComponentState(arrays, {**meta, "clock": self._clock})

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`."""
        state = merge(base, deltas)
        self._clock = int(state.meta.get("clock", 0))
        self._table.restore(state)

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Forget the user's history and return how many entries went."""
        slot = self._table.find((namespace, user_id))
        if slot < 0:
            return 0
        size = int(self._table.sizes[slot])
        self._table.remove([slot])
        return size

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Take the rows out of all histories and return how many entries went; a history keeps its order, and may become empty."""
        return self._table.forget_rows(rows)

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(self._state())


def columns_of(state: ComponentState) -> tuple[list[tuple[str, str]], NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """Return what `Histories.snapshot` holds as columns, least recently updated user first.

    Returns:
        (users (namespace, id) [U], indptr [U + 1], item rows oldest first [T] int32, event times in ms UTC [T] int64)
    """
    arrays, namespaces = state.arrays, state.meta.get("namespaces", [])
    used = np.flatnonzero(arrays["touched"]) if "touched" in arrays else np.zeros(0, np.int64)
    if not len(used):
        return [], np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64)
    order = used[np.argsort(arrays["touched"][used], kind="stable")]
    ids, codes = unpack_strings(arrays["user_bytes"], arrays["user_offsets"]), arrays["namespace"][order].tolist()
    users = [(namespaces[code], ids[slot]) for code, slot in zip(codes, order.tolist(), strict=True)]
    starts, sizes = arrays["entry_offsets"][order], np.diff(arrays["entry_offsets"])[order]
    indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    rows, times = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.int64)
    for first in range(0, len(order), CHUNK):  # in parts, because the index is as large as what it picks
        part = slice(first, first + CHUNK)
        into = slice(indptr[first], indptr[min(first + CHUNK, len(order))])
        source = np.repeat(starts[part] - indptr[:-1][part], sizes[part]) + np.arange(into.start, into.stop)
        rows[into], times[into] = arrays["entry_rows"][source], arrays["entry_times"][source]
    return users, indptr, rows, times


@dataclass(frozen=True)
class _Entries:
    """History entries of the touched users, ordered by (slot, time, arrival). All arrays [L]; ``touched`` are the users' slots."""

    slots: NDArray[np.int64]
    rows: NDArray[np.int32]
    times: NDArray[np.int64]
    is_target: NDArray[np.bool_]
    weights: NDArray[np.float32]
    namespaces: NDArray[np.int32]
    touched: NDArray[np.int64]

    def segments(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return start (inclusive) and end (exclusive) of each user's entries."""
        edges = np.flatnonzero(np.diff(self.slots)) + 1
        bounds = np.concatenate([[0], edges, [len(self.slots)]]).astype(np.int64)
        return (bounds[:-1], bounds[1:]) if len(self.slots) else (bounds[:0], bounds[:0])


def _merge(table: HistoryTable, slots: NDArray[np.int64], events: HistoryEvents) -> _Entries:
    """Join stored entries of the touched users with the new ones in time order; stored come first on a tie."""
    touched = np.unique(slots)
    sizes, old_rows, old_times = table.read(touched)
    positive = np.flatnonzero(events.roles != NEGATIVE)
    num_stored = len(old_rows)
    all_slots = np.concatenate([np.repeat(touched, sizes), slots[positive]])
    times = np.concatenate([old_times, events.times[positive]])
    order = np.lexsort((times, all_slots))
    zeros = np.zeros(num_stored, np.int32)
    return _Entries(
        slots=all_slots[order],
        rows=np.concatenate([old_rows, events.rows[positive]])[order],
        times=times[order],
        is_target=np.concatenate([zeros.astype(bool), events.roles[positive] == TARGET])[order],
        weights=np.concatenate([zeros.astype(np.float32), events.weights[positive]])[order],
        namespaces=np.concatenate([zeros, events.namespaces[positive]])[order],
        touched=touched,
    )


def _cut_examples(entries: _Entries, length: int, hashes: NDArray[np.int64]) -> Examples:
    """Make one query per (user, event time) that has new targets and something before it."""
    num = len(entries.slots)
    if num == 0:
        return Examples.empty(length)
    new_user = np.concatenate([[True], np.diff(entries.slots) != 0])
    new_group = new_user | np.concatenate([[True], np.diff(entries.times) != 0])
    group = np.cumsum(new_group) - 1
    group_start = np.flatnonzero(new_group)
    user_start = np.maximum.accumulate(np.where(new_user, np.arange(num), 0))
    targets = np.flatnonzero(entries.is_target & (group_start[group] > user_start))
    if len(targets) == 0:
        return Examples.empty(length)
    # One target per (query, item): a basket is a set.
    _, first = np.unique(group[targets].astype(np.int64) << 32 | entries.rows[targets].astype(np.int64), return_index=True)
    targets = targets[np.sort(first)]
    queries, start, counts = np.unique(group[targets], return_index=True, return_counts=True)
    begin = group_start[queries]
    index = begin[:, None] - 1 - np.arange(length)[None, :]
    inside = index >= user_start[begin][:, None]
    history = np.where(inside, entries.rows[np.maximum(index, 0)], -1).astype(np.int32)
    weight = np.add.reduceat(entries.weights[targets], start) / counts
    return Examples(
        history,
        np.concatenate([start, [len(targets)]]).astype(np.int64),
        entries.rows[targets],
        weight.astype(np.float32),
        hashes[entries.slots[begin]],
        entries.namespaces[targets[start]],
    )


def _without_negatives(entries: _Entries, slots: NDArray[np.int64], events: HistoryEvents) -> _Entries:
    """Take out, for each negative event, the item's newest occurrence that is not after it.

    In time order an occurrence opens a bracket and a negative event closes the last one that is open, of one user and item. Both ends of a pair
    stand side by side once brackets are sorted by how many are open around them.
    """
    negatives = np.flatnonzero(events.roles == NEGATIVE)
    if len(negatives) == 0:
        return entries
    negative_keys = slots[negatives] << 32 | events.rows[negatives]
    entry_keys = entries.slots << 32 | entries.rows
    candidates = np.flatnonzero(np.isin(entry_keys, negative_keys))
    key = np.concatenate([entry_keys[candidates], negative_keys])
    time = np.concatenate([entries.times[candidates], events.times[negatives]])
    change = np.repeat([1, -1], [len(candidates), len(negatives)])
    order = np.lexsort((-change, time, key))
    key, change = key[order], change[order]
    first = np.concatenate([[True], np.diff(key) != 0])
    group = np.cumsum(first) - 1
    total = np.cumsum(change)
    depth = total - (total - change)[first][group]
    # A negative event that finds nothing open lowers the floor of its group; groups are set far apart to share one running minimum.
    apart = group * (2 * len(key) + 1)
    floor = np.minimum(np.minimum.accumulate(depth - apart) + apart, 0)
    lowers = floor < np.where(first, 0, np.concatenate([[0], floor[:-1]]))
    level = depth - floor + (change < 0)
    nested = np.lexsort((level, group))
    nested = nested[~lowers[nested]]
    opens = nested[np.flatnonzero(change[nested] < 0) - 1]
    keep = np.ones(len(entries.rows), bool)
    keep[candidates[order[opens]]] = False
    return _Entries(
        entries.slots[keep], entries.rows[keep], entries.times[keep],
        entries.is_target[keep], entries.weights[keep], entries.namespaces[keep], entries.touched,
    )  # fmt: skip
