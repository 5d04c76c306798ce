"""Find in which places of a growing sequence a 64-bit hash may stand, for whole arrays of hashes at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from streamrec.features.hashes import Hashes

Numbers = NDArray[np.int64]


class IdIndex:
    """Map hashes to numbers of a sequence of which the last ``horizon`` count.

    Tables with open addressing and linear probing, each for the next ``horizon / 2`` numbers, at most half full; a table goes as a whole
    when none of its numbers count any more, so nothing is ever rehashed and no step is slower than another.
    """

    def __init__(self, horizon: int) -> None:
        self._span = max(1, -(-horizon // 2))
        self._num_slots = 1 << (2 * self._span - 1).bit_length()
        self._tables: dict[int, NDArray[np.uint32]] = {}  # By number // span; a slot holds number % span + 1, or 0.

    def drop_before(self, number: int) -> None:
        """Drop the tables that hold only smaller numbers."""
        for key in [key for key in self._tables if (key + 1) * self._span <= number]:
            del self._tables[key]

    def add(self, hashes: Hashes, start: int) -> None:
        """Give the hashes the numbers from ``start`` on."""
        done = 0
        while done < len(hashes):
            key, offset = divmod(start + done, self._span)
            num = min(self._span - offset, len(hashes) - done)
            table = self._tables.get(key)
            if table is None:
                table = self._tables[key] = np.zeros(self._num_slots, np.uint32)
            _insert(table, self._homes(hashes[done : done + num]), np.arange(offset + 1, offset + num + 1, dtype=np.uint32))
            done += num

    def candidates(self, hashes: Hashes) -> Iterator[tuple[NDArray[np.int64], Numbers]]:
        """Yield (rows, numbers): places in ``hashes`` and numbers whose hash may be the same; together all numbers that could be."""
        homes = self._homes(hashes)
        last = self._num_slots - 1
        for key, table in self._tables.items():
            rows, slots = np.arange(len(hashes)), homes
            while len(rows):
                held = table[slots]
                taken = held != 0
                rows, slots = rows[taken], slots[taken]
                yield rows, held[taken].astype(np.int64) + (key * self._span - 1)
                slots = (slots + 1) & last

    def _homes(self, hashes: Hashes) -> NDArray[np.int64]:
        return (hashes & np.uint64(self._num_slots - 1)).astype(np.int64)


def _insert(table: NDArray[np.uint32], slots: NDArray[np.int64], values: NDArray[np.uint32]) -> None:
    last = len(table) - 1
    while len(slots):
        free = table[slots] == 0
        table[slots[free]] = values[free]  # Of several for one slot one stays; the others try the next.
        left = table[slots] != values
        slots, values = (slots[left] + 1) & last, values[left]
