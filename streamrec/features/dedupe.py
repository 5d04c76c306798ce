"""Drop events whose id was seen inside a horizon that is bounded by number and by event time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamrec.events.schema import Kind
from streamrec.features.hashes import Hashes, first_of_each, hash_id, hash_ids, namespace_seeds
from streamrec.features.id_index import IdIndex
from streamrec.state import ComponentState, digest_of

NEVER_MS = np.iinfo(np.int64).min
"""The time of an id that was removed, and the oldest time that is kept before any is forgotten."""


def hash_key(namespace: str, identifier: str) -> int:
    """Return a signed 64-bit hash of (namespace, id) that is the same in every process."""
    name = namespace.encode("utf-8", "surrogatepass")
    data = len(name).to_bytes(4, "little") + name + identifier.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


@dataclass(frozen=True)
class EventKeys:
    """Hold what is remembered of events.

    Attributes:
        ids: Hash of (namespace, event id). [n] uint64
        users: Hash of (namespace, user id); 0 where no user owns the id. [n] uint64
        times: Event times in ms UTC. [n] int64
    """

    ids: Hashes
    users: Hashes
    times: NDArray[np.int64]

    @classmethod
    def of(cls, events: pa.Table) -> EventKeys:
        """Return the keys of valid events.

        A deletion's own id belongs to nobody: it must outlive the user, or a repeat of the request would delete what came after it.
        """
        seeds = namespace_seeds(events["namespace"])
        users = hash_ids(seeds, events["user_id"])
        users[pc.equal(events["kind"], Kind.DELETION.value).to_numpy()] = 0
        return cls(hash_ids(seeds, events["event_id"]), users, events["event_time"].to_numpy())

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, chosen: NDArray[Any] | slice) -> EventKeys:
        """Return the keys at these places, or where a mask is true."""
        return EventKeys(self.ids[chosen], self.users[chosen], self.times[chosen])


class Dedupe:
    """Remember the last ``horizon`` event ids, each for as long as its event time is not before the oldest that counts.

    A ring of (id's hash, user's hash, event time) in order of arrival, 24 bytes each, and an index of at most 24 bytes an id. Memory is taken
    as the ring fills and never grows beyond the horizon.

    **Contract.** An id is known when it is among the last ``horizon`` remembered ones, was not removed with its user, and its event time is at
    least the highest ``oldest_ms`` ever given. Nothing else counts: not how events are split into calls of `remember`, no clock, no restart.
    Ids equal in another namespace are other ids.
    """

    name = "dedupe"

    def __init__(self, horizon: int) -> None:
        self.horizon = horizon
        self._reset()
        self._saved: int | None = None  # None asks for a snapshot.

    def _reset(self) -> None:
        self._ids, self._users, self._times = (np.zeros(self.horizon, kind) for kind in (np.uint64, np.uint64, np.int64))
        self._index = IdIndex(self.horizon)
        self._tail = self._head = 0  # Numbers of the oldest id that is kept and of the next one.
        self._oldest_ms = NEVER_MS + 1
        self._removed: list[NDArray[np.int64]] = []

    def __len__(self) -> int:
        """Return how many ids are known."""
        return int(np.count_nonzero(self._times[self._places(self._tail, self._head)] >= self._oldest_ms))

    @property
    def oldest_ms(self) -> int | None:
        """Return the event time before which ids were forgotten; None while none were by time."""
        return self._oldest_ms if self._oldest_ms > NEVER_MS + 1 else None

    def fresh(self, keys: EventKeys, oldest_ms: int | None) -> NDArray[np.bool_]:
        """Return which events are new: the first of each id that is not known. [n] bool.

        Args:
            keys: The events, in order.
            oldest_ms: Ids of events before this time are forgotten from now on; None forgets none by time.
        """
        if self.horizon == 0:
            return np.ones(len(keys), bool)
        if oldest_ms is not None and oldest_ms > self._oldest_ms:
            self._oldest_ms = oldest_ms
            self._forget()
        known = np.zeros(len(keys), bool)
        for rows, numbers in self._index.candidates(keys.ids):
            places = numbers % self.horizon
            same = (self._ids[places] == keys.ids[rows]) & (numbers >= self._tail) & (self._times[places] >= self._oldest_ms)
            known[rows[same]] = True
        return first_of_each(keys.ids) & ~known

    def remember(self, keys: EventKeys) -> None:
        """Remember ids that `fresh` called new, in order."""
        num = len(keys)
        if self.horizon == 0 or num == 0:
            return
        self._append(keys.select(slice(max(0, num - self.horizon), num)), self._head + num)
        self._forget()

    def _append(self, keys: EventKeys, head: int) -> None:
        """Put ids in the ring so that the last one has the number ``head - 1``."""
        start = head - len(keys)
        places = self._places(start, head)
        self._ids[places], self._users[places], self._times[places] = keys.ids, keys.users, keys.times
        self._index.add(keys.ids, start)
        self._head = head

    def _forget(self) -> None:
        """Move the tail past what the horizon no longer holds and past ids that time has forgotten."""
        self._tail = max(self._tail, self._head - self.horizon)
        while self._tail < self._head:
            end = min(self._head, self._tail + 4096)
            alive = self._times[self._places(self._tail, end)] >= self._oldest_ms
            if alive.any():
                self._tail += int(np.argmax(alive))
                break
            self._tail = end
        self._index.drop_before(self._tail)

    def _places(self, start: int, end: int) -> NDArray[np.int64]:
        return np.arange(start, end) % max(self.horizon, 1)

    def _entries(self, start: int) -> dict[str, NDArray[Any]]:
        places = self._places(max(start, self._tail), self._head)
        return {"ids": self._ids[places], "users": self._users[places], "times": self._times[places]}

    def _meta(self) -> dict[str, int]:
        return {"head": self._head, "tail": self._tail, "oldest_ms": self._oldest_ms}

    def snapshot(self) -> ComponentState:
        """Return the ring, oldest first."""
        self._saved, self._removed = self._head, []
        return ComponentState(self._entries(self._tail), self._meta())

    def delta(self) -> ComponentState | None:
        """Return the ids remembered since the last snapshot or delta, and the numbers of those removed; None before the first snapshot."""
        if self._saved is None:
            return None
        removed = np.concatenate([np.zeros(0, np.int64), *self._removed])
        state = ComponentState({**self._entries(self._saved), "removed": removed[removed < self._saved]}, self._meta())
        self._saved, self._removed = self._head, []
        return state

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`. A smaller horizon keeps the newest ids."""
        self._reset()
        for state in (base, *deltas):
            if "ids" not in state.arrays:
                continue
            entries = EventKeys(state.arrays["ids"], state.arrays["users"], state.arrays["times"])
            if self.horizon:
                kept = entries.select(slice(max(0, len(entries) - self.horizon), None))
                self._append(kept, int(state.meta["head"]))
            self._oldest_ms = int(state.meta["oldest_ms"])
            self._tail = max(int(state.meta["tail"]), int(state.meta["head"]) - self.horizon)
            self._remove(state.arrays.get("removed", np.zeros(0, np.int64)))
            self._index.drop_before(self._tail)
        self._saved, self._removed = self._head, []

    def _remove(self, numbers: NDArray[np.int64]) -> None:
        places = numbers[numbers >= self._tail] % max(self.horizon, 1)
        self._ids[places], self._users[places], self._times[places] = 0, 0, NEVER_MS

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Forget the user's ids and return how many went."""
        numbers = np.arange(self._tail, self._head)
        gone = numbers[self._users[self._places(self._tail, self._head)] == hash_id(namespace, user_id)]
        self._remove(gone)
        self._removed.append(gone)
        self._forget()
        return len(gone)

    def newest_ms(self, namespace: str, user_id: str) -> int:
        """Return the newest event time of the user's known ids, the smallest integer without any."""
        places = self._places(self._tail, self._head)
        return int(self._times[places][self._users[places] == hash_id(namespace, user_id)].max(initial=NEVER_MS))

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Return 0: hashes of event ids carry no items."""
        return 0

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(ComponentState(self._entries(self._tail), self._meta()))
