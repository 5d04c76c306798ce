"""Keep the last examples with the labels made for them, and draw from them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamrec.features.dedupe import hash_key
from streamrec.features.examples import Examples
from streamrec.soft_labels.schema import SoftLabels
from streamrec.state import ROWS, ComponentState, digest_of, merge

MAX_TARGETS = 32
"""A stored basket keeps at most so many targets: a bound on memory, far above a usual basket."""

RECENT_SHARE, RECENT_PART = 0.5, 0.1
"""Mixed with recency, so much of a draw is of the newest queries: exponentially old, on average so much of what is kept."""

ReplayKind = Literal["uniform", "recency", "quota"]

_COLUMNS = ("history", "targets", "weight", "user", "namespace", "label_rows", "label_probs")


class Replay:
    """Hold up to ``capacity`` queries in a ring; the oldest leave first.

    Labels stay those made before anyone learned from the example; teachers that have seen it since would answer from memory.

    Kinds of drawing: ``uniform``; ``recency``, half of it among the newest; ``quota``, where an item that more queries than the average have as their
    first target is drawn as often as the average.

    **Contract.** `draw` is a function of the contents and the seed. `delta` holds the places of the ring that were written since the last
    snapshot or delta; it is None after a removal and when more was added than is kept.
    """

    _data: dict[str, NDArray[Any]]
    _next: int
    _size: int
    _num_unsaved: int | None

    def __init__(self, capacity: int, history_length: int, top_k: int, name: str = "replay", kind: ReplayKind = "uniform") -> None:
        self.name = name
        self.kind = kind
        self.capacity = capacity
        self._history_length = history_length
        self.top_k = top_k
        self.restore(ComponentState())

    def __len__(self) -> int:
        return self._size

    def add(self, examples: Examples, labels: SoftLabels | None) -> None:
        """Append queries; of a batch larger than the capacity the last ones stay."""
        num = len(examples)
        if num == 0 or self.capacity == 0:
            return
        if num > self.capacity:
            keep = np.arange(num - self.capacity, num)
            examples, labels, num = examples.take(keep), None if labels is None else labels.take(keep), self.capacity
        self._append(self._columns(examples, labels), num)
        if self._num_unsaved is not None:
            self._num_unsaved += num

    def _columns(self, examples: Examples, labels: SoftLabels | None) -> dict[str, NDArray[Any]]:
        num = len(examples)
        place = np.arange(len(examples.target_rows)) - examples.indptr[:-1][examples.query_of_target]
        kept = place < MAX_TARGETS
        targets = np.full((num, MAX_TARGETS), -1, np.int32)
        targets[examples.query_of_target[kept], place[kept]] = examples.target_rows[kept]
        return {
            "history": examples.history,
            "targets": targets,
            "weight": examples.weight,
            "user": examples.user,
            "namespace": examples.namespace,
            "label_rows": labels.rows if labels is not None else np.full((num, self.top_k), -1, np.int32),
            "label_probs": labels.probs.astype(np.float16) if labels is not None else np.zeros((num, self.top_k), np.float16),
        }

    def _append(self, columns: dict[str, NDArray[Any]], num: int) -> None:
        needed = min(self.capacity, max(self._next + num, self._size))
        if needed > len(self._data["weight"]):
            grown = min(self.capacity, max(1024, 2 * needed))
            for name, old in self._data.items():
                new = np.zeros((grown, *old.shape[1:]), old.dtype)
                new[: len(old)] = old
                self._data[name] = new
        places = (self._next + np.arange(num)) % self.capacity
        for name in _COLUMNS:
            self._data[name][places] = columns[name]
        self._next = int((self._next + num) % self.capacity)
        self._size = min(self.capacity, self._size + num)

    def draw(self, num: int, seed: int) -> tuple[Examples, SoftLabels]:
        """Draw ``num`` queries with replacement, as the kind says; none when the buffer is empty."""
        return self._at(self._drawn(num, np.random.default_rng([seed, 7])) if self._size else np.zeros(0, np.int64))

    def _drawn(self, num: int, rng: np.random.Generator) -> NDArray[np.int64]:
        uniform = rng.integers(0, self._size, num)
        if self.kind == "recency":
            age = rng.exponential(RECENT_PART * self._size, num).astype(np.int64) % self._size
            return np.asarray(np.where(rng.random(num) < RECENT_SHARE, (self._next - 1 - age) % self.capacity, uniform))
        if self.kind == "quota":
            _, item, count = np.unique(self._data["targets"][: self._size, 0], return_inverse=True, return_counts=True)
            bounds = np.cumsum(np.minimum(1.0, count.mean() / count)[item])
            return np.asarray(np.minimum(np.searchsorted(bounds, rng.random(num) * bounds[-1], side="right"), self._size - 1))
        return uniform

    def draw_holding(self, rows: NDArray[np.int32], num: int, seed: int) -> tuple[Examples, SoftLabels]:
        """Draw queries with replacement, uniformly from those with one of the item rows in their history or targets.

        At most ``num``, and at most four times as many as there are: a few queries shall not be learned by heart.
        """
        places = np.flatnonzero(self._holding(rows))
        num = min(num, 4 * len(places))
        return self._at(places[np.random.default_rng([seed, 13]).integers(0, len(places), num)] if len(places) else places)

    def rows_of(self, namespace: str, user_id: str) -> NDArray[np.int32]:
        """Return the item rows of the user's queries, each once."""
        mine = self._data["user"][: self._size] == hash_key(namespace, user_id)
        rows = np.unique(np.concatenate([self._data[name][: self._size][mine].ravel() for name in ("history", "targets")]))
        return rows[rows >= 0].astype(np.int32)

    def of_user(self, namespace: str, user_id: str) -> Examples:
        """Return the user's queries whose baskets are kept whole."""
        mine = self._data["user"][: self._size] == hash_key(namespace, user_id)
        return self._at(np.flatnonzero(mine & (self._data["targets"][: self._size, -1] < 0)))[0]

    def users_of(self, rows: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return the hashes of the users of queries with one of the item rows in their history or targets, each once."""
        return np.unique(self._data["user"][: self._size][self._holding(rows)])

    def held(self, rows: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return which of the item rows any query has in its history or targets. [num]."""
        return np.isin(rows, np.concatenate([self._data[name][: self._size].ravel() for name in ("history", "targets")]))

    def _holding(self, rows: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return which queries hold one of the rows. [size]."""
        return np.asarray(np.isin(self._data["history"][: self._size], rows).any(1) | np.isin(self._data["targets"][: self._size], rows).any(1))

    def _at(self, places: NDArray[np.int64]) -> tuple[Examples, SoftLabels]:
        data = {name: self._data[name][places] for name in _COLUMNS}
        filled = data["targets"] >= 0
        indptr = np.concatenate([[0], np.cumsum(filled.sum(1))]).astype(np.int64)
        examples = Examples(data["history"], indptr, data["targets"][filled], data["weight"], data["user"], data["namespace"])
        return examples, SoftLabels(data["label_rows"], data["label_probs"].astype(np.float32), {})

    def snapshot(self) -> ComponentState:
        """Return the ring's contents."""
        self._num_unsaved = 0
        return self._state()

    def _state(self) -> ComponentState:
        arrays = {name: self._data[name][: self._size].copy() for name in _COLUMNS}
        return ComponentState(arrays, {"next": self._next, "size": self._size})

    def delta(self) -> ComponentState | None:
        """Return the places written since the last snapshot or delta."""
        num = self._num_unsaved
        if num is None or num > self.capacity:
            return None
        self._num_unsaved = 0
        places = np.sort((self._next - 1 - np.arange(num)) % self.capacity) if num else np.zeros(0, np.int64)
        arrays = {f"{name}@values": self._data[name][places] for name in _COLUMNS}
        return ComponentState({ROWS: places, **arrays}, {"next": self._next, "size": self._size})

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`."""
        widths = {"history": self._history_length, "targets": MAX_TARGETS, "label_rows": self.top_k, "label_probs": self.top_k}
        types = {"weight": np.float32, "user": np.int64, "namespace": np.int32, "label_probs": np.float16}
        state = merge(base, deltas)
        self._data = {
            name: np.array(state.arrays[name])
            if name in state.arrays
            else np.zeros((0, widths[name]) if name in widths else 0, types.get(name, np.int32))
            for name in _COLUMNS
        }
        self._next, self._size = int(state.meta.get("next", 0)), int(state.meta.get("size", 0))
        self._num_unsaved = 0

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Remove the user's queries and return how many went."""
        return self._keep(self._data["user"][: self._size] != hash_key(namespace, user_id))

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Take the rows out of histories, targets and labels; a query without a history or a target goes. Return how many entries went."""
        num = 0
        for name, partner in (("history", None), ("targets", None), ("label_rows", "label_probs")):
            held = self._data[name][: self._size]
            gone = np.isin(held, rows)
            num += int(gone.sum())
            if partner is not None:
                self._data[partner][: self._size][gone] = 0
            held[gone] = -1
        if num == 0:
            return 0
        # The newest item must come first, whatever has gone before it.
        history = self._data["history"][: self._size]
        history[:] = np.take_along_axis(history, np.argsort(history < 0, axis=1, kind="stable"), 1)
        self._keep((history[:, 0] >= 0) & (self._data["targets"][: self._size] >= 0).any(1))
        self._num_unsaved = None  # A delta can't say what went.
        return num

    def _keep(self, wanted: NDArray[np.bool_]) -> int:
        kept = np.flatnonzero(wanted)
        order = kept if self._size < self.capacity else kept[np.argsort((kept - self._next) % self.capacity, kind="stable")]
        removed = self._size - len(kept)
        if removed:
            base = ComponentState({name: self._data[name][order] for name in _COLUMNS}, {"next": len(order) % self.capacity, "size": len(order)})
            self.restore(base)
            self._num_unsaved = None  # A delta can't say what went.
        return removed

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(self._state())
