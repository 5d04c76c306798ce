"""Keep each user's last items, and cut training examples out of ordered events.

Shapes: ``N`` history length, ``E`` events of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.events.meaning import NEGATIVE, TARGET
from streamrec.features.dedupe import hash_key
from streamrec.features.examples import Examples
from streamrec.state import ComponentState, digest_of, pack_strings, unpack_strings


@dataclass(frozen=True)
class HistoryEvents:
    """Hold a batch of interactions for `Histories.advance`.

    Attributes:
        users: (namespace, user id) of each event, length E.
        rows: Item rows. [E] int32
        times: Event time in ms UTC. [E] int64
        roles: Codes of `streamrec.events.meaning`. [E] int8
        weights: Weight of the event type. [E] float32
        namespaces: Namespace codes. [E] int32
    """

    users: Sequence[tuple[str, str]]
    rows: NDArray[np.int32]
    times: NDArray[np.int64]
    roles: NDArray[np.int8]
    weights: NDArray[np.float32]
    namespaces: NDArray[np.int32]


class Histories:
    """Hold the last ``N`` (row, event time) of each user, oldest first.

    Bounded: beyond ``max_users`` the users that were updated longest ago leave.

    **Contract.** `advance` is a pure function of the state and the batch: the same batches in the same order give the same state and the
    same examples. A query's history holds only what happened strictly before its basket's event time.
    """

    name = "histories"

    def __init__(self, length: int, max_users: int) -> None:
        self.length = length
        self.max_users = max_users
        self._slots: dict[tuple[str, str], int] = {}
        self._free: list[int] = []
        self._clock = 0
        self._allocate(1024)

    def _allocate(self, capacity: int) -> None:
        self._rows = np.zeros((capacity, self.length), np.int32)
        self._times = np.zeros((capacity, self.length), np.int64)
        self._sizes = np.zeros(capacity, np.int64)
        self._touched = np.zeros(capacity, np.int64)
        self._hashes = np.zeros(capacity, np.int64)

    def __len__(self) -> int:
        return len(self._slots)

    def get(self, namespace: str, user_id: str) -> NDArray[np.int32]:
        """Return the user's recent item rows, newest last; empty when unknown. [<= N] int32."""
        slot = self._slots.get((namespace, user_id))
        return np.zeros(0, np.int32) if slot is None else self._rows[slot, : self._sizes[slot]].copy()

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
        slots = self._slots_of(events.users)
        merged = _merge(self, slots, events)
        examples = _cut_examples(merged, self.length, self._hashes)
        kept = _without_negatives(merged, slots, events)
        self._store(kept)
        self._evict()
        return examples

    def _slots_of(self, users: Sequence[tuple[str, str]]) -> NDArray[np.int64]:
        result = np.empty(len(users), np.int64)
        for index, user in enumerate(users):
            slot = self._slots.get(user)
            if slot is None:
                slot = self._free.pop() if self._free else len(self._slots)
                if slot >= len(self._sizes):
                    self._grow()
                self._slots[user] = slot
                self._sizes[slot] = 0
                self._hashes[slot] = hash_key(*user)
            result[index] = slot
        self._touched[result] = self._clock
        return result

    def _grow(self) -> None:
        old = self._tables()
        self._allocate(2 * len(self._sizes))
        for new, previous in zip(self._tables(), old, strict=True):
            new[: len(previous)] = previous

    def _tables(self) -> tuple[NDArray[Any], ...]:
        return self._rows, self._times, self._sizes, self._touched, self._hashes

    def _store(self, entries: _Entries) -> None:
        starts, ends = entries.segments()
        starts = np.maximum(starts, ends - self.length)
        sizes = ends - starts
        position = np.arange(self.length)[None, :]
        source = np.minimum(starts[:, None] + position, len(entries.rows) - 1)
        inside = position < sizes[:, None]
        self._sizes[entries.touched] = 0
        slots = entries.slots[ends - 1] if len(ends) else np.zeros(0, np.int64)
        if len(slots):
            self._rows[slots] = np.where(inside, entries.rows[source], 0)
            self._times[slots] = np.where(inside, entries.times[source], 0)
            self._sizes[slots] = sizes

    def _evict(self) -> None:
        surplus = len(self._slots) - self.max_users
        if surplus <= 0:
            return
        order = sorted(self._slots.items(), key=lambda item: (self._touched[item[1]], item[1]))
        for user, slot in order[:surplus]:
            del self._slots[user]
            self._sizes[slot] = 0
            self._free.append(slot)

    def snapshot(self) -> ComponentState:
        """Return users and their entries, in slot order so that slots keep their order when restored."""
        order = sorted(self._slots.items(), key=lambda item: item[1])
        slots = np.fromiter((slot for _, slot in order), np.int64, len(order))
        namespaces, namespace_offsets = pack_strings([user[0] for user, _ in order])
        ids, id_offsets = pack_strings([user[1] for user, _ in order])
        inside = np.arange(self.length)[None, :] < self._sizes[slots][:, None]
        arrays: dict[str, NDArray[Any]] = {
            "namespace_bytes": namespaces, "namespace_offsets": namespace_offsets, "user_bytes": ids, "user_offsets": id_offsets,
            "slots": slots, "sizes": self._sizes[slots], "touched": self._touched[slots],
            "rows": self._rows[slots][inside], "times": self._times[slots][inside], "free": np.asarray(self._free, np.int64),
        }  # fmt: skip
        return ComponentState(arrays, {"clock": self._clock})

    def delta(self) -> ComponentState | None:
        """Return None: the whole is written."""
        return None

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`."""
        arrays = base.arrays
        self._slots, self._free, self._clock = {}, [], int(base.meta.get("clock", 0))
        if "slots" not in arrays:
            self._allocate(1024)
            return
        users = list(
            zip(
                unpack_strings(arrays["namespace_bytes"], arrays["namespace_offsets"]),
                unpack_strings(arrays["user_bytes"], arrays["user_offsets"]),
                strict=True,
            )
        )
        slots, sizes = arrays["slots"], arrays["sizes"]
        capacity = 1024
        while capacity < len(users) + len(arrays["free"]):
            capacity *= 2
        self._allocate(capacity)
        self._free = arrays["free"].tolist()
        self._slots = dict(zip(users, slots.tolist(), strict=True))
        self._sizes[slots] = sizes
        self._touched[slots] = arrays["touched"]
        self._hashes[slots] = [hash_key(*user) for user in users]
        inside = np.arange(self.length)[None, :] < sizes[:, None]
        rows, times = np.zeros(inside.shape, np.int32), np.zeros(inside.shape, np.int64)
        rows[inside], times[inside] = arrays["rows"], arrays["times"]
        self._rows[slots], self._times[slots] = rows, times

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Forget the user's history and return how many entries went."""
        slot = self._slots.pop((namespace, user_id), None)
        if slot is None:
            return 0
        size = int(self._sizes[slot])
        self._sizes[slot] = 0
        self._rows[slot] = 0
        self._times[slot] = 0
        self._hashes[slot] = 0
        self._free.append(slot)
        return size

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Take the rows out of all histories and return how many entries went; a history keeps its order, and may become empty."""
        inside = np.arange(self.length)[None, :] < self._sizes[:, None]
        gone = inside & np.isin(self._rows, rows)
        touched = np.flatnonzero(gone.any(1))
        kept = inside[touched] & ~gone[touched]
        order = np.argsort(~kept, axis=1, kind="stable")
        for table in (self._rows, self._times):
            table[touched] = np.take_along_axis(np.where(kept, table[touched], 0), order, 1)
        self._sizes[touched] = kept.sum(1)
        return int(gone.sum())

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(self.snapshot())


def columns_of(state: ComponentState) -> tuple[list[tuple[str, str]], NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """Return what `Histories.snapshot` holds as columns, least recently updated user first.

    Returns:
        (users (namespace, id) [U], indptr [U + 1], item rows oldest first [T] int32, event times in ms UTC [T] int64)
    """
    arrays = state.arrays
    users = list(
        zip(
            unpack_strings(arrays["namespace_bytes"], arrays["namespace_offsets"]),
            unpack_strings(arrays["user_bytes"], arrays["user_offsets"]),
            strict=True,
        )
    )
    order = np.argsort(arrays["touched"], kind="stable")
    sizes = arrays["sizes"]
    starts = np.cumsum(sizes) - sizes
    indptr = np.concatenate([[0], np.cumsum(sizes[order])]).astype(np.int64)
    source = np.repeat(starts[order] - indptr[:-1], sizes[order]) + np.arange(indptr[-1])
    return [users[index] for index in order.tolist()], indptr, arrays["rows"][source], arrays["times"][source]


@dataclass(frozen=True)
class _Entries:
    """History entries of the touched users, ordered by (slot, time, arrival). All arrays [L]; source is the event's index or -1."""

    slots: NDArray[np.int64]
    rows: NDArray[np.int32]
    times: NDArray[np.int64]
    source: NDArray[np.int64]
    is_target: NDArray[np.bool_]
    weights: NDArray[np.float32]
    namespaces: NDArray[np.int32]
    touched: NDArray[np.int64]

    def segments(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return start (inclusive) and end (exclusive) of each user's entries."""
        edges = np.flatnonzero(np.diff(self.slots)) + 1
        bounds = np.concatenate([[0], edges, [len(self.slots)]]).astype(np.int64)
        return (bounds[:-1], bounds[1:]) if len(self.slots) else (bounds[:0], bounds[:0])


def _merge(histories: Histories, slots: NDArray[np.int64], events: HistoryEvents) -> _Entries:
    """Join stored entries of the touched users with the new ones in time order; stored come first on a tie."""
    touched = np.unique(slots)
    sizes = histories._sizes[touched]
    inside = np.arange(histories.length)[None, :] < sizes[:, None]
    positive = np.flatnonzero(events.roles != NEGATIVE)
    num_stored = int(sizes.sum())
    old = np.full(num_stored, -1, np.int64)
    all_slots = np.concatenate([np.repeat(touched, sizes), slots[positive]])
    times = np.concatenate([histories._times[touched][inside], events.times[positive]])
    order = np.lexsort((times, all_slots))
    source = np.concatenate([old, positive])[order]
    zeros = np.zeros(num_stored, np.int32)
    return _Entries(
        slots=all_slots[order],
        rows=np.concatenate([histories._rows[touched][inside], events.rows[positive]])[order],
        times=times[order],
        source=source,
        is_target=np.concatenate([np.zeros(num_stored, bool), events.roles[positive] == TARGET])[order],
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
    """Take out, for each negative event, the item's newest occurrence that is not after it."""
    negatives = np.flatnonzero(events.roles == NEGATIVE)
    if len(negatives) == 0:
        return entries
    keep = np.ones(len(entries.rows), bool)
    for index in negatives[np.argsort(events.times[negatives], kind="stable")]:
        low, high = np.searchsorted(entries.slots, [slots[index], slots[index] + 1])
        segment = slice(low, high)
        match = keep[segment] & (entries.rows[segment] == events.rows[index]) & (entries.times[segment] <= events.times[index])
        found = np.flatnonzero(match)
        if len(found):
            keep[low + found[-1]] = False
    return _Entries(
        entries.slots[keep], entries.rows[keep], entries.times[keep], entries.source[keep],
        entries.is_target[keep], entries.weights[keep], entries.namespaces[keep], entries.touched,
    )  # fmt: skip
