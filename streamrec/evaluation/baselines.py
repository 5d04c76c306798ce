"""Rank without a model: most popular, recently popular, the user's own history."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.evaluation.ranking import UNRANKED
from streamrec.features.examples import Examples
from streamrec.state import ROWS, ChangedRows, ComponentState, digest_of, merge

RECENT_BASKETS = 1500
"""Recently popular counts the last 1,500 baskets, as the Online Retail protocol does."""


class Popularity:
    """Count target items, over all time and over the last `RECENT_BASKETS` baskets.

    **Contract.** `ranks` reads the counts as they are; `update` adds a batch. Calling them in that order is progressive validation.
    """

    name = "popularity"

    def __init__(self) -> None:
        self._total = np.zeros(1024, np.int64)
        self._recent = np.zeros(1024, np.int64)
        self._baskets: deque[NDArray[np.int32]] = deque()
        self._changed = ChangedRows()

    def counts(self, num_rows: int) -> NDArray[np.float32]:
        """Return how often each row was a target. [num_rows] float32."""
        self._fit(num_rows)
        return self._total[:num_rows].astype(np.float32)

    def update(self, rows: NDArray[np.int32], basket: NDArray[np.int64]) -> None:
        """Count target rows [T]; ``basket`` [T] numbers the basket of each, equal values side by side."""
        if len(rows) == 0:
            return
        self._fit(int(rows.max()) + 1)
        np.add.at(self._total, rows, 1)
        self._changed.mark(rows)
        edges = [0, *(np.flatnonzero(np.diff(basket)) + 1).tolist(), len(rows)][-RECENT_BASKETS - 1 :]
        self._baskets.extend(rows[start:end] for start, end in pairwise(edges))
        np.add.at(self._recent, rows[edges[0] :], 1)
        gone = [self._baskets.popleft() for _ in range(len(self._baskets) - RECENT_BASKETS)]
        np.subtract.at(self._recent, np.concatenate([np.zeros(0, np.int32), *gone]), 1)

    def take_back(self, rows: NDArray[np.int32], num: NDArray[np.int64]) -> None:
        """Count ``num`` [n] targets less of each of the rows [n], each once; a count never falls below 0."""
        self._fit(int(rows.max(initial=-1)) + 1)
        self._total[rows] = np.maximum(0, self._total[rows] - num)
        self._changed.mark(rows)

    def ranks(
        self, examples: Examples, namespace_of_rows: NDArray[np.int32], seen: list[NDArray[np.int32]] | None = None
    ) -> dict[str, NDArray[np.int32]]:
        """Rank the targets by the three baselines.

        Args:
            examples: Q queries.
            namespace_of_rows: Candidates of a query are the rows of its namespace. [V] int32
            seen: Rows that are no candidates, per query; None masks nothing.

        Returns:
            ``popular``, ``recent_popular`` and ``own_history`` to 0-based ranks. [T] int32
        """
        num_rows = len(namespace_of_rows)
        self._fit(num_rows)
        result = {}
        for name, counts in (("popular", self._total), ("recent_popular", self._recent)):
            position = _positions(counts[:num_rows], namespace_of_rows)
            result[name] = _static_ranks(examples, position, seen)
        result["own_history"] = _own_history_ranks(examples, _positions(self._total[:num_rows], namespace_of_rows), seen)
        return result

    def _fit(self, num_rows: int) -> None:
        if num_rows > len(self._total):
            capacity = max(num_rows, 2 * len(self._total))
            self._total = np.concatenate([self._total, np.zeros(capacity - len(self._total), np.int64)])
            self._recent = np.concatenate([self._recent, np.zeros(capacity - len(self._recent), np.int64)])

    def snapshot(self) -> ComponentState:
        """Return counts and the recent baskets."""
        self._changed.take()
        return self._state()

    def _state(self) -> ComponentState:
        used = int(np.flatnonzero(self._total)[-1]) + 1 if self._total.any() else 0
        return ComponentState({"total": self._total[:used].copy(), **self._recent_baskets()})

    def _recent_baskets(self) -> dict[str, NDArray[Any]]:
        parts = list(self._baskets)
        return {
            "basket_rows": np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, np.int32),
            "basket_sizes": np.asarray([len(part) for part in parts], np.int64),
        }

    def delta(self) -> ComponentState:
        """Return the counts that changed since the last snapshot or delta, and the recent baskets, of which there are few."""
        rows = self._changed.take()
        return ComponentState({ROWS: rows, "total@values": self._total[rows], **self._recent_baskets()})

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`."""
        arrays = merge(base, deltas).arrays
        self._total, self._recent, self._baskets = np.zeros(1024, np.int64), np.zeros(1024, np.int64), deque()
        self._changed = ChangedRows()
        if "total" not in arrays:
            return
        total = arrays["total"]
        self._fit(len(total))
        self._total[: len(total)] = total
        rows, sizes = arrays["basket_rows"], arrays["basket_sizes"]
        self._baskets.extend(np.split(rows, np.cumsum(sizes)[:-1]) if len(sizes) else [])
        np.add.at(self._recent, rows, 1)

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Return 0: counts carry no user."""
        return 0

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Forget the rows' counts and return how many target events that were."""
        self._fit(int(rows.max(initial=-1)) + 1)
        num = int(self._total[rows].sum())
        self._changed.mark(rows)
        self._total[rows] = 0
        self._recent[rows] = 0
        recent = self._recent_baskets()
        flat, sizes = recent["basket_rows"], recent["basket_sizes"]
        stays = ~np.isin(flat, rows)
        if not stays.all():  # A basket that loses all its items still counts as one of the recent ones.
            num_before = np.concatenate([[0], np.cumsum(stays)])  # Of those that stay, by place in `flat`.
            edges = num_before[np.concatenate([[0], np.cumsum(sizes)])].tolist()
            kept = flat[stays]
            self._baskets = deque(kept[start:end] for start, end in pairwise(edges))
        return num

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(self._state())


def _positions(counts: NDArray[np.int64], namespace_of_rows: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return each row's 0-based place by count within its namespace; ties go to the lower row. [V] int32."""
    position = np.zeros(len(counts), np.int32)
    for namespace in np.unique(namespace_of_rows):
        rows = np.flatnonzero(namespace_of_rows == namespace)
        order = np.argsort(-counts[rows], kind="stable")
        position[rows[order]] = np.arange(len(rows), dtype=np.int32)
    return position


def _static_ranks(examples: Examples, position: NDArray[np.int32], seen: list[NDArray[np.int32]] | None) -> NDArray[np.int32]:
    targets = examples.target_rows
    known = targets < len(position)
    ranks = np.where(known, position[np.minimum(targets, len(position) - 1)], UNRANKED).astype(np.int32)
    if seen is not None:
        for index, query in enumerate(examples.query_of_target):
            masked = seen[query]
            ranks[index] = UNRANKED if targets[index] in masked else ranks[index] - int((position[masked] < ranks[index]).sum())
    return ranks


def _own_history_ranks(examples: Examples, position: NDArray[np.int32], seen: list[NDArray[np.int32]] | None) -> NDArray[np.int32]:
    """Rank own items by frequency, then recency; the rest follows by popularity."""
    if seen is not None:  # Own items are masked, so only popularity is left.
        return _static_ranks(examples, position, seen)
    history, num_rows = examples.history, len(position)
    width = max(num_rows, int(history.max(initial=-1)) + 1, int(examples.target_rows.max(initial=-1)) + 1)
    query, place = np.nonzero(history >= 0)
    keys, first, counts = np.unique(query * width + history[query, place], return_index=True, return_counts=True)
    owner = query[first]
    order = np.lexsort((first, -counts, owner))
    rank_of_key = np.empty(len(keys), np.int64)
    rank_of_key[order] = np.arange(len(keys)) - np.searchsorted(owner, owner)  # Sorted by owner both before and after.
    own_positions = np.full(history.shape, -1)
    own_positions[owner, place[first]] = position[history[owner, place[first]]]
    query_of_target, targets = examples.query_of_target, examples.target_rows
    wanted = query_of_target * width + targets
    found = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    is_own = keys[found] == wanted if len(keys) else np.zeros(len(targets), bool)
    known = targets < num_rows
    popular = position[np.where(known, targets, 0)]
    after = popular + (own_positions[query_of_target] > popular[:, None]).sum(1)
    ranks = np.where(known, after, UNRANKED)
    ranks[is_own] = rank_of_key[found[is_own]]
    return ranks.astype(np.int32)
