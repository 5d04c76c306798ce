"""Cut passes over training sequences into batches of about equally many events, the same on every worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamrec.state import ComponentState

_BATCHES_A_GROUP = 32
"""Within so many batches' worth of a shuffled pass sequences are sorted by length: little padding, and still a batch of its own in each pass."""


class Sequences(NamedTuple):
    """Hold what a transformer is trained on.

    Attributes:
        rows: Item rows, oldest first, padded with -1 on the right, at least two items a sequence. [U, S + 1] int32
        begins: Which items begin a basket, what a user did at one time: of a basket nothing is predicted from itself. [U, S + 1] bool
        arrived: How many events had come before the sequence's newest one. [U] int64
        num_arrived: How many had come in all.
    """

    rows: NDArray[np.int32]
    begins: NDArray[np.bool_]
    arrived: NDArray[np.int64]
    num_arrived: int

    @classmethod
    def of_state(cls, state: ComponentState) -> Sequences:
        """Return what `state` gave; of an older one that says no more than rows, each item is a basket and all is new."""
        rows = state.arrays["sequences"]
        begins = state.arrays.get("begins", rows >= 0)
        return cls(rows, begins, state.arrays.get("arrived", np.zeros(len(rows), np.int64)), int(state.meta.get("num_arrived", 0)))

    def state(self) -> ComponentState:
        """Return what goes to storage."""
        return ComponentState({"sequences": self.rows, "begins": self.begins, "arrived": self.arrived}, {"num_arrived": self.num_arrived})

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Items of each sequence. [U]."""
        return np.asarray((self.rows >= 0).sum(1), np.int64)


class Batch(NamedTuple):
    """Hold one worker's share of a batch.

    Attributes:
        rows: Items, -1 on padding; the last one of a row is no input. [B, S + 1] int32
        source: For each target the place in [B, S] after which it is predicted. [T] int64
        targets: Item rows. [T] int32
    """

    rows: NDArray[np.int32]
    source: NDArray[np.int64]
    targets: NDArray[np.int32]


@dataclass(frozen=True)
class Passes:
    """Cut passes into batches; what they give is a function of the fields alone.

    A pass takes every new sequence once, and of the old ones, drawn anew for each pass, as many events as the new ones have.

    Attributes:
        sizes: Items of each sequence. [U]
        is_new: Which sequences hold what the teacher has not seen. [U]
        batch_events: About so many items make a batch.
        seed: Of order and choice.
    """

    sizes: NDArray[np.int64]
    is_new: NDArray[np.bool_]
    batch_events: int
    seed: int

    @property
    def num_batches(self) -> int:
        """About how many batches a pass has."""
        new, total = int(self.sizes[self.is_new].sum()), int(self.sizes.sum())
        return max(1, round(min(total, 2 * new) / self.batch_events))

    def batches(self, start: int, stop: int) -> Iterator[NDArray[np.int64]]:
        """Return the sequences of each batch from number ``start``, inclusive, to ``stop``, exclusive, over as many passes as that takes."""
        position = number = 0
        while position < stop:
            batches = self._one(number)
            yield from batches[max(0, start - position) : stop - position]
            position, number = position + len(batches), number + 1

    def _one(self, number: int) -> list[NDArray[np.int64]]:
        rng = np.random.default_rng((self.seed, number))
        order = rng.permutation(len(self.sizes))
        is_new = self.is_new[order]
        old = np.cumsum(np.where(is_new, 0, self.sizes[order]))
        order = order[is_new | (old <= self.sizes[self.is_new].sum())]
        before = self._events_before(order)
        order = order[np.lexsort((self.sizes[order], before // (_BATCHES_A_GROUP * self.batch_events)))]
        total = int(self.sizes[order].sum())
        num = max(1, round(total / self.batch_events))
        ends = np.searchsorted(self._events_before(order), np.arange(1, num) * (total / num))
        parts = [part for part in np.split(order, ends) if len(part)]
        return [parts[index] for index in rng.permutation(len(parts))]

    def _events_before(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.asarray(np.cumsum(self.sizes[order]) - self.sizes[order])


def share_of(chosen: NDArray[np.int64], sizes: NDArray[np.int64], rank: int, world: int) -> NDArray[np.int64]:
    """Return a worker's part of a batch; the parts together are the batch, and have about equally many items."""
    ordered = chosen[np.argsort(-sizes[chosen], kind="stable")]
    return ordered[rank::world]


def num_targets_of(sequences: Sequences) -> NDArray[np.int64]:
    """Return how many targets `batch_of` finds in each sequence. [U]."""
    later = sequences.begins[:, 1:]
    first = np.where(later.any(1), later.argmax(1), later.shape[1])
    return np.asarray(np.maximum(sequences.sizes - 1 - first, 0))


def batch_of(sequences: Sequences, chosen: NDArray[np.int64]) -> Batch:
    """Cut inputs and targets out of the chosen sequences.

    A target is predicted from the state before its basket began; one whose basket began before the sequence has no such state and is left out.
    """
    rows = sequences.rows[chosen]
    rows = rows[:, : max(2, int((rows >= 0).sum(1).max(initial=2)))]
    begins = sequences.begins[chosen, : rows.shape[1]]
    place = np.arange(rows.shape[1])
    began = np.maximum.accumulate(np.where(begins, place, 0), axis=1)
    sequence, target = np.nonzero((rows >= 0) & (began > 0))
    width = rows.shape[1] - 1
    return Batch(rows, sequence * width + began[sequence, target] - 1, rows[sequence, target])
