"""Keep each user's entries in slots of one size, 12 bytes an entry, and find a user's slot.

Shapes: ``N`` entries of a slot, ``U`` users, ``T`` entries in all.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.features.dedupe import hash_key
from streamrec.state import ROWS, ChangedRows, ComponentState, pack_strings, unpack_strings

CHUNK = 8192
"""Slots that are allocated at a time: growth copies nothing, and what it takes too much is small beside what is held."""

User = tuple[str, str]


class HistoryTable:
    """Hold up to ``N`` (row, event time) of each user in a slot.

    Entries lie in chunks of `CHUNK` slots. A user's slot is found in one dictionary per namespace, because text shared by a dictionary and a
    list costs less than half of what pairs cost, and the collector never walks over it. The lowest free slot is handed out first, so that
    which slots are free says all about which come next.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._chunks: list[tuple[NDArray[np.int32], NDArray[np.int64]]] = []
        self._codes: dict[str, int] = {}
        self._slots: list[dict[str, int]] = []
        self._ids: list[str | None] = []
        self._free: list[int] = []
        self._num_users = 0
        self._changed = ChangedRows()
        self._fit_columns(1024)

    def _fit_columns(self, capacity: int) -> None:
        self.namespace = np.zeros(capacity, np.int32)
        self.sizes = np.zeros(capacity, np.int32)
        self.touched = np.zeros(capacity, np.int64)
        self.hashes = np.zeros(capacity, np.int64)

    def __len__(self) -> int:
        return self._num_users

    def find(self, user: User) -> int:
        """Return the user's slot, or -1."""
        code = self._codes.get(user[0])
        return -1 if code is None else self._slots[code].get(user[1], -1)

    def slots_of(self, users: Sequence[User], clock: int) -> NDArray[np.int64]:
        """Return the users' slots, handing out new ones, and note that they were touched at ``clock`` (from 1). [U] int64."""
        slots = np.fromiter((self.find(user) for user in users), np.int64, len(users))
        for index in np.flatnonzero(slots < 0).tolist():
            slots[index] = self._add(users[index])
        self.touched[slots] = clock
        self._changed.mark(slots)
        return slots

    def _add(self, user: User) -> int:
        namespace, user_id = user
        slot = heapq.heappop(self._free) if self._free else len(self._ids)
        if slot == len(self._ids):
            self._ids.append(None)
            self._fit(slot + 1)
        code = self._codes.setdefault(namespace, len(self._slots))
        if code == len(self._slots):
            self._slots.append({})
        self._slots[code][user_id] = slot
        self._ids[slot] = user_id
        self.namespace[slot] = code
        self.hashes[slot] = hash_key(namespace, user_id)
        self._num_users += 1
        return slot

    def _fit(self, num: int) -> None:
        while len(self._chunks) * CHUNK < num:
            self._chunks.append((np.zeros((CHUNK, self.length), np.int32), np.zeros((CHUNK, self.length), np.int64)))
        if num > len(self.sizes):
            old = self._per_slot()
            self._fit_columns(max(num, 2 * len(self.sizes)))
            for new, values in zip(self._per_slot(), old, strict=True):
                new[: len(values)] = values

    def _per_slot(self) -> list[NDArray[Any]]:
        return [self.namespace, self.sizes, self.touched, self.hashes]

    def remove(self, slots: Sequence[int]) -> None:
        """Forget the users in these slots."""
        for slot in slots:
            user_id = self._ids[slot]
            assert user_id is not None
            del self._slots[self.namespace[slot]][user_id]
            self._ids[slot] = None
            heapq.heappush(self._free, slot)
            rows, times = self._chunks[slot // CHUNK]
            rows[slot % CHUNK], times[slot % CHUNK] = 0, 0
        for column in self._per_slot():
            column[list(slots)] = 0
        self._changed.mark(list(slots))
        self._num_users -= len(slots)

    def oldest(self, num: int) -> list[int]:
        """Return the slots of the ``num`` users that were touched longest ago, of equals the lower slots."""
        used = np.flatnonzero(self.touched[: len(self._ids)])
        order = (self.touched[used] << 32) | used
        return [int(slot) for slot in np.sort(np.partition(order, num - 1)[:num] & 0xFFFFFFFF)]

    def get(self, user: User) -> NDArray[np.int32]:
        """Return a copy of the user's rows, newest last; empty when unknown. [<= N] int32."""
        slot = self.find(user)
        return np.zeros(0, np.int32) if slot < 0 else self._chunks[slot // CHUNK][0][slot % CHUNK, : self.sizes[slot]].copy()

    def read(self, slots: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
        """Return (sizes [U], rows [T], times [T]) of slots, ascending."""
        sizes = self.sizes[slots].astype(np.int64)
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        flat_rows, flat_times = np.empty(bounds[-1], np.int32), np.empty(bounds[-1], np.int64)
        # One chunk at a time: what is copied stays in the processor's cache.
        for number, part in self._by_chunk(slots):
            inside = np.arange(self.length) < sizes[part, None]
            place = slots[part] - number * CHUNK
            rows, times = self._chunks[number]
            into = slice(bounds[part.start], bounds[part.stop])
            flat_rows[into], flat_times[into] = rows[place][inside], times[place][inside]
        return sizes, flat_rows, flat_times

    def write(self, slots: NDArray[np.int64], sizes: NDArray[np.int64], flat_rows: NDArray[np.int32], flat_times: NDArray[np.int64]) -> None:
        """Replace the entries of slots, ascending, by those of ``sizes`` [U], rows [T] and times [T]."""
        self.sizes[slots] = sizes
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        for number, part in self._by_chunk(slots):
            inside = np.arange(self.length) < sizes[part, None]
            source, place = slice(bounds[part.start], bounds[part.stop]), slots[part] - number * CHUNK
            rows, times = np.zeros(inside.shape, np.int32), np.zeros(inside.shape, np.int64)
            rows[inside], times[inside] = flat_rows[source], flat_times[source]
            held_rows, held_times = self._chunks[number]
            held_rows[place], held_times[place] = rows, times

    def held(self, rows: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return which of the rows any slot holds. [num]."""
        seen = np.zeros(int(rows.max(initial=-1)) + 1, bool)
        for number, (held_rows, _) in enumerate(self._chunks):
            sizes = self.sizes[number * CHUNK : (number + 1) * CHUNK]
            entries = held_rows[: len(sizes)][np.arange(self.length) < sizes[:, None]]
            seen[entries[entries < len(seen)]] = True
        return seen[rows]

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Take rows out of all entries and return how many went; what stays keeps its order."""
        num = 0
        for number, (held_rows, held_times) in enumerate(self._chunks):
            sizes = self.sizes[number * CHUNK : (number + 1) * CHUNK]
            inside = np.arange(self.length) < sizes[:, None]
            gone = inside & np.isin(held_rows[: len(sizes)], rows)
            touched = np.flatnonzero(gone.any(1))
            kept = inside[touched] & ~gone[touched]
            slots = touched + number * CHUNK
            self.write(slots, kept.sum(1), held_rows[touched][kept], held_times[touched][kept])
            self._changed.mark(slots)
            num += int(gone.sum())
        return num

    def _by_chunk(self, slots: NDArray[np.int64]) -> list[tuple[int, slice]]:
        chunks = slots // CHUNK
        edges = [0, *(np.flatnonzero(np.diff(chunks)) + 1).tolist(), len(slots)]
        return [(int(chunks[start]), slice(start, end)) for start, end in itertools.pairwise(edges) if end > start]

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return arrays by slot, up to the last user's, and meta."""
        used = np.flatnonzero(self.touched[: len(self._ids)])
        return self._columns(np.arange(used[-1] + 1 if len(used) else 0)), {"namespaces": list(self._codes)}

    def _columns(self, slots: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        user_bytes, user_offsets = pack_strings([self._ids[slot] or "" for slot in slots.tolist()])
        sizes, rows, times = self.read(slots)
        return {
            "namespace": self.namespace[slots], "hash": self.hashes[slots], "touched": self.touched[slots],
            "user_bytes": user_bytes, "user_offsets": user_offsets,
            "entry_rows": rows, "entry_times": times, "entry_offsets": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        }  # fmt: skip

    def take_changed(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the slots that changed since the last call as a delta of rows (`streamrec.state.merge`), and meta."""
        slots = self._changed.take()
        arrays = {f"{name}@values": values for name, values in self._columns(slots).items()}
        return {ROWS: slots, **arrays}, {"namespaces": list(self._codes)}

    def forget_changes(self) -> None:
        """Let the next `take_changed` begin here."""
        self._changed.take()

    def restore(self, state: ComponentState) -> None:
        """Replace everything by what `state` gave."""
        self.clear()
        arrays = state.arrays
        self._codes = {name: code for code, name in enumerate(state.meta.get("namespaces", []))}
        self._slots = [{} for _ in self._codes]
        num = len(arrays.get("touched", ()))
        if not num:
            return
        self._fit(num)
        self.namespace[:num], self.touched[:num], self.hashes[:num] = arrays["namespace"], arrays["touched"], arrays["hash"]
        is_used = arrays["touched"] > 0
        self._restore_users(unpack_strings(arrays["user_bytes"], arrays["user_offsets"]), arrays["namespace"], is_used)
        sizes, bounds = np.diff(arrays["entry_offsets"]), arrays["entry_offsets"]
        for first in range(0, num, CHUNK):
            slots = np.arange(first, min(first + CHUNK, num))
            source = slice(bounds[first], bounds[slots[-1] + 1])
            self.write(slots, sizes[first : first + CHUNK], arrays["entry_rows"][source], arrays["entry_times"][source])

    def _restore_users(self, ids: list[str], namespaces: NDArray[np.int32], is_used: NDArray[np.bool_]) -> None:
        self._num_users = int(is_used.sum())
        self._free = np.flatnonzero(~is_used).tolist()
        self._ids = list(ids)
        for slot in self._free:
            self._ids[slot] = None
        for code in self._codes.values():
            slots = np.flatnonzero(is_used & (namespaces == code)).tolist()
            self._slots[code] = dict(zip((ids[slot] for slot in slots), slots, strict=True))
