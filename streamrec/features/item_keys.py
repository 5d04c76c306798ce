"""Hold the items that a batch names, each once, and the ids of all rows as packed bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamrec.state import pack_strings


@dataclass(frozen=True)
class ItemKeys:
    """Hold which item each event of a batch names.

    Attributes:
        namespaces: Of each distinct item, in the order of first appearance. [U]
        ids: [U]
        index: Position of each event's item among the distinct ones. [E] int64
    """

    namespaces: list[str]
    ids: list[str]
    index: NDArray[np.int64]

    @staticmethod
    def of(namespaces: Sequence[str] | pa.ChunkedArray, ids: Sequence[str] | pa.ChunkedArray) -> ItemKeys:
        """Find the distinct items of events: two columns [E] of strings."""
        names, name_codes = _encoded(namespaces)
        items, item_codes = _encoded(ids)
        codes = name_codes * max(1, len(items)) + item_codes
        _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
        order = np.argsort(first)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        first = first[order]
        return ItemKeys([names[code] for code in name_codes[first].tolist()], [items[code] for code in item_codes[first].tolist()], place[inverse])


def _encoded(column: Sequence[str] | pa.ChunkedArray) -> tuple[list[str], NDArray[np.int64]]:
    if not isinstance(column, pa.ChunkedArray):  # Python's strings may hold what Arrow's can't, such as a lone surrogate.
        values = {value: code for code, value in enumerate(dict.fromkeys(column))}
        return list(values), np.fromiter((values[value] for value in column), np.int64, len(column))
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


@dataclass(frozen=True)
class PackedIds:
    """Hold the ids of all rows as UTF-8: ``data`` [bytes] uint8 and ``offsets`` [rows + 1] int64. Never changed in place."""

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    @staticmethod
    def empty() -> PackedIds:
        """Return the ids of no rows."""
        return PackedIds(np.zeros(0, np.uint8), np.zeros(1, np.int64))

    def with_rows(self, num_rows: int, rows: NDArray[np.int64], ids: Sequence[str]) -> PackedIds:
        """Return the ids of ``num_rows`` rows of which ``rows`` [n], ascending, have new ones; costs copies, and no Python per old row.

        Rows past the old ones that are not given have empty ids.
        """
        held = len(self.offsets) - 1
        data, offsets = pack_strings(ids)
        if len(rows) and int(rows[0]) == held and len(rows) == num_rows - held:  # They only follow: nothing moves.
            return PackedIds(np.concatenate([self.data, data]), np.concatenate([self.offsets, self.offsets[-1] + offsets[1:]]))
        sizes, starts = np.zeros(num_rows, np.int64), np.zeros(num_rows, np.int64)
        sizes[:held], starts[:held] = np.diff(self.offsets), self.offsets[:-1]
        sizes[rows], starts[rows] = np.diff(offsets), len(self.data) + offsets[:-1]
        ends = np.cumsum(sizes)
        source = np.repeat(starts - (ends - sizes), sizes) + np.arange(int(ends[-1]) if num_rows else 0)
        return PackedIds(np.concatenate([self.data, data])[source], np.concatenate([np.zeros(1, np.int64), ends]))
