"""Keep the linear teacher's additive statistics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamrec.config import LinearConfig
from streamrec.features.examples import Examples
from streamrec.state import ComponentState, digest_of
from streamrec.teachers.linear_sums import DenseSums, EntrySums, Queries, Sums

NUM_BUCKETS = 2**20
"""Users are counted by a part of their hash: 4 MB whoever comes, and a count that other users share is only too high."""


class LinearStatistics:
    """Hold G = XᵀX and C = XᵀY over the first ``max_items`` items that became targets or history, most frequent first.

    An item row gets a slot when it first appears and a slot is free; within one batch the most frequent rows come first. Both are square matrices
    until there are more than ``dense_items`` slots, and the entries that there are from then on.

    **Contract.** `update` is additive: the sum over batches equals one pass over all of them up to float rounding, and the same batches in
    the same order give the same bits. `take_back` leaves what the statistics were without the queries, up to float rounding. `delta` holds the
    batches and the rows forgotten since the last snapshot, not the matrices; it is None before the first one.
    """

    name = "linear_statistics"

    _rows: list[int]
    _slot: NDArray[np.int64]
    _sums: Sums
    _num_queries: int
    _num_of: NDArray[np.uint32]
    _is_known: bool
    _unsaved: list[dict[str, NDArray[Any]]] | None

    def __init__(self, config: LinearConfig) -> None:
        self.config = config
        self.restore(ComponentState())
        self._unsaved = None

    @property
    def num_queries(self) -> int:
        """Number of queries added so far."""
        return self._num_queries

    def update(self, examples: Examples) -> None:
        """Add a batch of queries."""
        if len(examples) == 0:
            return
        self._add(examples)
        self._note(_arrays_of(examples))

    def take_back(self, examples: Examples, user: int) -> int:
        """Take a user's queries out again and return how many more of theirs may be in the sums; -1 where nothing bounds it.

        Args:
            examples: Queries of this user that were added before, as they were then but for rows that were forgotten since.
            user: Hash of (namespace, user), as `Examples` carry it.
        """
        if len(examples):
            self._add(examples, sign=-1)
            self._note({**_arrays_of(examples), "sign": np.array([-1], np.int8)})
        return int(self._num_of[_buckets(np.array([user]))[0]]) if self._is_known else -1

    def doubt(self, users: NDArray[np.int64]) -> None:
        """Note that queries of these users [n] are no longer known as they were added: what is taken back of them is an approximation."""
        if len(users):
            np.add.at(self._num_of, _buckets(users), 1)
            self._note({"doubted": users})

    def _note(self, part: dict[str, NDArray[Any]]) -> None:
        if self._unsaved is not None:
            self._unsaved.append(part)

    def _add(self, examples: Examples, sign: int = 1) -> None:
        if sign > 0:
            self._give_slots(examples)
        history = torch.from_numpy(self._slots_of(examples.history))
        targets = torch.from_numpy(self._slots_of(examples.target_rows))
        query = torch.from_numpy(examples.query_of_target)
        share = torch.from_numpy((1.0 / np.sqrt(np.diff(examples.indptr))).astype(np.float32))[query]
        known = targets >= 0
        self._sums.add(Queries(history, targets[known], query[known], share[known]), sign)
        self._is_known &= self._sums.is_whole  # A query's share of what has left can't be taken out.
        self._num_queries += sign * len(examples)
        buckets, num = np.unique(_buckets(examples.user), return_counts=True)
        self._num_of[buckets] += (sign * num).astype(np.uint32)

    def matrices(self) -> ComponentState:
        """Return copies of G, C and the slots, which a refresh solves while updates go on."""
        state = self._state()
        return ComponentState({name: values for name, values in state.arrays.items() if name != "num_of"}, state.meta)

    def _give_slots(self, examples: Examples) -> None:
        rows = np.concatenate([examples.target_rows, examples.history[examples.history >= 0]])
        if int(rows.max()) >= len(self._slot):
            grown = np.full(2 * int(rows.max()) + 1, -1, np.int64)
            grown[: len(self._slot)] = self._slot
            self._slot = grown
        values, counts = np.unique(rows, return_counts=True)
        values, counts = values[self._slot[values] < 0], counts[self._slot[values] < 0]
        room = max(0, self.config.max_items - len(self._rows))
        self._is_known &= len(values) <= room  # An item that is left out now may get a slot later: what it adds in between is not in the sums.
        chosen = values[np.argsort(-counts, kind="stable")][:room]
        self._slot[chosen] = np.arange(len(self._rows), len(self._rows) + len(chosen))
        self._rows.extend(chosen.tolist())
        if len(self._rows) > self.config.dense_items and isinstance(self._sums, DenseSums):
            self._sums = EntrySums.of_dense(self.config, self._sums.arrays(len(self._rows) - len(chosen)))
        self._sums.fit(len(self._rows))

    def _slots_of(self, rows: NDArray[np.int32]) -> NDArray[np.int64]:
        inside = (rows >= 0) & (rows < len(self._slot))
        return np.where(inside, self._slot[np.where(inside, rows, 0)], -1)

    def snapshot(self) -> ComponentState:
        """Return the sums and slots."""
        self._unsaved = []
        return self._state()

    def _state(self) -> ComponentState:
        size = len(self._rows)
        arrays = {**self._sums.arrays(size), "rows": np.asarray(self._rows, np.int32), "num_of": self._num_of.copy()}
        return ComponentState(arrays, {"num_queries": self._num_queries, "is_known": self._is_known})

    def delta(self) -> ComponentState | None:
        """Return the batches added since the last snapshot or delta."""
        if self._unsaved is None:
            return None
        arrays = {f"{number}/{name}": values for number, part in enumerate(self._unsaved) for name, values in part.items()}
        state = ComponentState(arrays, {"num_batches": len(self._unsaved)})
        self._unsaved = []
        return state

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`."""
        rows = base.arrays.get("rows", np.zeros(0, np.int32))
        self._rows = rows.tolist()
        self._slot = np.full(max(1024, 2 * int(rows.max(initial=0)) + 1), -1, np.int64)
        self._slot[rows] = np.arange(len(rows))
        by_entries = "gram_places" in base.arrays
        self._sums = EntrySums(self.config, base.arrays) if by_entries else DenseSums(self.config, len(rows), base.arrays)
        self._num_queries = int(base.meta.get("num_queries", 0))
        self._num_of = np.array(base.arrays.get("num_of", np.zeros(NUM_BUCKETS, np.uint32)))
        # A commit of before users were counted, in its base or in a delta, says nothing of whose the sums are.
        self._is_known = bool(base.meta.get("is_known", not len(rows)))
        self._unsaved = None
        for delta in deltas:
            for number in range(delta.meta["num_batches"]):
                self._repeat({name.split("/")[1]: values for name, values in delta.arrays.items() if name.startswith(f"{number}/")})
        self._unsaved = []

    def _repeat(self, part: dict[str, NDArray[Any]]) -> None:
        """Do once more what a part of a delta tells of."""
        if "forgotten" in part:
            self._forget(part["forgotten"])
            return
        if "doubted" in part:
            self.doubt(part["doubted"])
            return
        num = len(part["history"])
        self._is_known &= "user" in part
        users, zeros = part.get("user", np.zeros(num, np.int64)), np.zeros(num, np.int32)
        examples = Examples(part["history"], part["indptr"], part["targets"], np.ones(num, np.float32), users, zeros)
        self._add(examples, int(part.get("sign", np.ones(1))[0]))

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Return 0: the statistics are sums over users, and `take_back` needs the user's queries."""
        return 0

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Take the rows' sums out, free their slots and return how many these were."""
        num = self._forget(rows)
        if num:
            self._note({"forgotten": rows})
        return num

    def _forget(self, rows: NDArray[np.int32]) -> int:
        gone = np.isin(self._rows, rows)
        if not gone.any():
            return 0
        self._sums.keep(np.flatnonzero(~gone), len(gone))
        self._rows = np.asarray(self._rows)[~gone].tolist()
        self._slot[:] = -1
        self._slot[self._rows] = np.arange(len(self._rows))
        return int(gone.sum())

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(self._state())


def _arrays_of(examples: Examples) -> dict[str, NDArray[Any]]:
    return {"history": examples.history, "indptr": examples.indptr, "targets": examples.target_rows, "user": examples.user}


def _buckets(users: NDArray[np.int64]) -> NDArray[np.int64]:
    return users & (NUM_BUCKETS - 1)
