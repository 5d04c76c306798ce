"""Keep recent sessions and who took what; see `streamrec.models.neighbours`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.config import NeighboursConfig
from streamrec.features.dedupe import hash_key
from streamrec.features.examples import Examples
from streamrec.models.lists import first_places
from streamrec.models.neighbours import Sessions, ask
from streamrec.state import ComponentState, digest_of, merge
from streamrec.teachers.row_table import RowTable


class Neighbours:
    """Answer with what users took who had the same recent items; a user's newest ``session_length`` items are their session.

    Sessions lie in a ring in the order in which they began; the oldest leave first, and the user begins a new one when they come back. An item's
    list of sessions may name slots that have another session by now, which does not hold the item and so has no vote.

    **Contract.** `answer` reads the sessions as they are and leaves out the query's own one, `update` adds a batch; labels are made in that order.
    """

    name = "neighbours"
    leaves_own_out = True

    def __init__(self, config: NeighboursConfig) -> None:
        self._config = config
        self._sessions = RowTable(
            {"items": np.full(config.session_length, -1, np.int32), "user": np.zeros((), np.int64), "touched": np.zeros((), np.int64)}
        )
        self._index = RowTable({"slots": np.full(config.sessions_per_item, -1, np.int32), "count": np.zeros((), np.int64)})
        self._slot_of: dict[int, int] = {}
        self._num_sessions = 0

    def components(self) -> tuple[Neighbours, ItemIndex]:
        """Return the sessions and, as a component of its own, because it has other rows, the index."""
        return self, ItemIndex(self._index)

    @property
    def num_queries(self) -> int:
        """Number of sessions begun so far."""
        return self._num_sessions

    def answer(self, examples: Examples, top: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return each query's candidates and their scores, best first. [Q, K] each."""
        config = self._config
        own = np.fromiter((self._slot_of.get(user, -1) for user in examples.user.tolist()), np.int64, len(examples))
        fade, limits = (config.item_fade, config.step_fade), (config.num_items, config.num_neighbours, top)
        return ask(examples.history, own, self._ready(), fade, limits)

    def _ready(self) -> Sessions:
        items, touched, count = self._sessions["items"], self._sessions["touched"], self._index["count"]
        size = (items >= 0).sum(1)
        age = (self._num_sessions - touched) / self._config.age_fade
        factor = np.where(size > 0, np.exp(-age) / np.sqrt(np.maximum(size, 1)), 0.0)
        idf = np.log(1.0 + self._num_sessions / np.maximum(count, 1))
        return Sessions(items, factor.astype(np.float32), self._index["slots"], idf.astype(np.float32))

    def update(self, examples: Examples) -> None:
        """Add a batch: each user's last query and its basket are their session now."""
        if not len(examples):
            return
        # A user's queries are in order of time: of one user the last one counts.
        users, from_the_end = np.unique(examples.user[::-1], return_index=True)
        last = len(examples) - 1 - from_the_end
        order = np.argsort(last)
        users, last = users[order], last[order]
        items = _newest(examples.take(last), self._config.session_length)
        for start in range(0, len(users), self._config.max_sessions):
            part = slice(start, start + self._config.max_sessions)
            self._store(users[part], items[part])

    def _store(self, users: NDArray[np.int64], items: NDArray[np.int32]) -> None:
        slots = np.fromiter((self._slot_of.get(user, -1) for user in users.tolist()), np.int64, len(users))
        new = np.flatnonzero(slots < 0)
        slots[new] = (self._num_sessions + np.arange(len(new))) % self._config.max_sessions
        self._num_sessions += len(new)
        # Whose slot is taken begins anew, also when they are in this very batch.
        taken = slots[new]
        self._sessions.fit(int(slots.max(initial=-1)) + 1)
        for user in self._sessions["user"][taken].tolist():
            self._slot_of.pop(user, None)
        lost = np.isin(slots, taken)
        lost[new] = False
        users, items, slots = users[~lost], items[~lost], slots[~lost]
        before = self._sessions["items"][slots]
        before[np.isin(slots, taken)] = -1
        self._sessions["items"][slots] = items
        self._sessions["user"][slots], self._sessions["touched"][slots] = users, self._num_sessions
        self._sessions.touch(slots)
        self._slot_of.update(zip(users.tolist(), slots.tolist(), strict=True))
        is_new = first_places(items) & ~(items[:, :, None] == before[:, None, :]).any(2)
        session, place = np.nonzero(is_new)
        self._enter(items[session, place], slots[session])

    def _enter(self, rows: NDArray[np.int32], slots: NDArray[np.int64]) -> None:
        """Write slots into the rings of their items, in order."""
        if not len(rows):
            return
        width = self._config.sessions_per_item
        self._index.fit(int(rows.max()) + 1)
        order = np.argsort(rows, kind="stable")
        rows, slots = rows[order], slots[order]
        values, first, counts = np.unique(rows, return_index=True, return_counts=True)
        rank = np.arange(len(rows)) - np.repeat(first, counts)
        kept = rank >= np.repeat(counts, counts) - width  # So that no place is written twice.
        place = (self._index["count"][rows] + rank) % width
        self._index["slots"][rows[kept], place[kept]] = slots[kept]
        self._index["count"][values] += counts
        self._index.touch(values)

    def snapshot(self) -> ComponentState:
        """Return the sessions."""
        return ComponentState(self._sessions.snapshot(), self._meta())

    def _meta(self) -> dict[str, Any]:
        return {"num_sessions": self._num_sessions}

    def delta(self) -> ComponentState:
        """Return the sessions that changed since the last snapshot or delta."""
        return ComponentState(self._sessions.delta(), self._meta())

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`."""
        state = merge(base, deltas)
        self._sessions.restore(state)
        self._num_sessions = int(state.meta.get("num_sessions", 0))
        held = np.flatnonzero(self._sessions["user"] != 0)
        self._slot_of = dict(zip(self._sessions["user"][held].tolist(), held.tolist(), strict=True))

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Remove the user's session and return how many entries went."""
        slot = self._slot_of.pop(hash_key(namespace, user_id), None)
        if slot is None:
            return 0
        num = int((self._sessions["items"][slot] >= 0).sum())
        self._sessions.clear_rows(np.asarray([slot]))
        return num

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Take the rows out of all sessions and return how many entries went; a session keeps its order."""
        items = self._sessions["items"]
        gone = np.isin(items, rows)
        touched = np.flatnonzero(gone.any(1))
        left = np.where(gone[touched], -1, items[touched])
        items[touched] = np.take_along_axis(left, np.argsort(left < 0, axis=1, kind="stable"), 1)
        self._sessions.touch(touched)
        return int(gone.sum())

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(ComponentState(self._sessions.state(), self._meta()))


class ItemIndex:
    """The sessions of each item, as a component."""

    name = "neighbours_index"

    def __init__(self, table: RowTable) -> None:
        self._table = table

    def snapshot(self) -> ComponentState:
        """Return the index."""
        return ComponentState(self._table.snapshot())

    def delta(self) -> ComponentState:
        """Return the items that changed since the last snapshot or delta."""
        return ComponentState(self._table.delta())

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`."""
        self._table.restore(merge(base, deltas))

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Return 0: a slot whose session is gone says nothing of whose it was."""
        return 0

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Clear the rows' lists and return how many entries went."""
        mine = rows[rows < self._table.num_rows]
        num = int((self._table["slots"][mine] >= 0).sum())
        self._table.clear_rows(mine)
        return num

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(ComponentState(self._table.state()))


def _newest(examples: Examples, length: int) -> NDArray[np.int32]:
    """Return each query's basket, then its history, newest first, -1 pads. [Q, length]."""
    sizes = np.minimum(np.diff(examples.indptr), length)
    place = np.arange(length)[None, :]
    in_basket = place < sizes[:, None]
    basket = examples.target_rows[np.minimum(examples.indptr[:-1, None] + place, max(len(examples.target_rows) - 1, 0))]
    behind = place - sizes[:, None]
    held = np.take_along_axis(examples.history, np.clip(behind, 0, examples.history.shape[1] - 1), 1)
    held = np.where(behind < examples.history.shape[1], held, -1)
    return np.where(in_basket, basket, held).astype(np.int32)
