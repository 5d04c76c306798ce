"""Keep the newest interactions as training sequences for the neural teachers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.features.dedupe import hash_key
from streamrec.state import ROWS, ComponentState, digest_of, merge
from streamrec.teachers.batches import Sequences

_TYPES = {"user": np.int64, "row": np.int32, "time": np.int64}


class EventWindow:
    """Hold the last ``capacity`` interactions in a ring: user hash, item row, event time.

    **Contract.** `sequences` is a function of the contents alone. `delta` holds the places of the ring that were written since the last
    snapshot or delta; it is None after a removal and when more was added than is kept.

    Attributes:
        num_added: How many events were ever added.
    """

    name = "window"

    _data: dict[str, NDArray[Any]]
    num_added: int
    _next: int
    _size: int
    _num_unsaved: int | None

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.restore(ComponentState())

    def __len__(self) -> int:
        return self._size

    def add(self, user: NDArray[np.int64], row: NDArray[np.int32], time: NDArray[np.int64]) -> None:
        """Append events in order: user hash [E], item row [E], event time in ms UTC [E]."""
        if self._num_unsaved is not None:
            self._num_unsaved += len(row)
        self.num_added += len(row)
        part: dict[str, NDArray[Any]] = {"user": user[-self.capacity :], "row": row[-self.capacity :], "time": time[-self.capacity :]}
        places = (self._next + np.arange(len(part["row"]))) % self.capacity
        for name, values in part.items():
            self._data[name][places] = values
        self._next = int((self._next + len(places)) % self.capacity)
        self._size = min(self.capacity, self._size + len(places))

    def sequences(self, length: int) -> Sequences:
        """Cut each user's events, in time order, into pieces of at most ``length`` + 1 that overlap by one; pieces of one event are left out."""
        if self._size == 0:
            return Sequences(np.zeros((0, length + 1), np.int32), np.zeros((0, length + 1), np.bool_), np.zeros(0, np.int64), self.num_added)
        user, row, time = (self._data[name][: self._size] for name in ("user", "row", "time"))
        arrival = (np.arange(self._size) - self._next) % self._size
        order = np.lexsort((arrival, time, user))
        user, row, time, arrival = user[order], row[order], time[order], arrival[order]
        first = np.concatenate([[True], user[1:] != user[:-1]])
        starts = np.flatnonzero(first)
        ends = np.append(starts[1:], len(user))
        pieces = np.maximum(-(-(ends - starts - 1) // length), 0)
        # Pieces are counted from the newest event, so that a user's last piece is full.
        number = np.arange(int(pieces.sum())) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        stop = np.repeat(ends, pieces) - number * length
        begin = np.maximum(stop - length - 1, np.repeat(starts, pieces))
        index = begin[:, None] + np.arange(length + 1)[None, :]
        begins = first | (np.diff(time, prepend=time[0]) != 0)
        index, is_there = np.minimum(index, len(row) - 1), index < stop[:, None]
        arrived = np.where(is_there, arrival[index], 0).max(1, initial=0) + self.num_added - self._size
        return Sequences(np.where(is_there, row[index], -1).astype(np.int32), begins[index] & is_there, arrived, self.num_added)

    def rows_of(self, namespace: str, user_id: str) -> NDArray[np.int32]:
        """Return the item rows of the user's events, as often as they are there."""
        return np.asarray(self._data["row"][: self._size][self._data["user"][: self._size] == hash_key(namespace, user_id)])

    def held(self, rows: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return which of the item rows any event has. [num]."""
        return np.isin(rows, self._data["row"][: self._size])

    def snapshot(self) -> ComponentState:
        """Return the ring's contents."""
        self._num_unsaved = 0
        return self._state()

    def _state(self) -> ComponentState:
        return ComponentState({name: self._data[name][: self._size].copy() for name in _TYPES}, self._meta())

    def _meta(self) -> dict[str, int]:
        return {"next": self._next, "size": self._size, "added": self.num_added}

    def delta(self) -> ComponentState | None:
        """Return the places written since the last snapshot or delta."""
        num = self._num_unsaved
        if num is None or num > self.capacity:
            return None
        self._num_unsaved = 0
        places = np.sort((self._next - 1 - np.arange(num)) % self.capacity)
        arrays = {f"{name}@values": self._data[name][places] for name in _TYPES}
        return ComponentState({ROWS: places, **arrays}, self._meta())

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`."""
        state = merge(base, deltas)
        self._data = {name: np.zeros(self.capacity, kind) for name, kind in _TYPES.items()}
        self._next, self._size = int(state.meta.get("next", 0)), int(state.meta.get("size", 0))
        self.num_added = int(state.meta.get("added", self._size))
        for name, values in state.arrays.items():
            self._data[name][: self._size] = values
        self._num_unsaved = 0

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Remove the user's events and return how many went."""
        return self._remove(self._data["user"][: self._size] == hash_key(namespace, user_id))

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Remove the rows' events and return how many went."""
        return self._remove(np.isin(self._data["row"][: self._size], rows))

    def _remove(self, gone: NDArray[np.bool_]) -> int:
        order = (self._next + np.arange(self._size)) % self._size if self._size == self.capacity else np.arange(self._size)
        kept = order[~gone[order]]
        removed = self._size - len(kept)
        if removed:
            meta = {"next": len(kept) % self.capacity, "size": len(kept), "added": self.num_added}
            state = ComponentState({name: self._data[name][kept] for name in _TYPES}, meta)
            self.restore(state)
            self._num_unsaved = None  # A delta can't say what went.
        return removed

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(self._state())
