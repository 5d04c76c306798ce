"""Translate between item ids and the rows of a model, for all versions of one lineage."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.state import Arrays, unpack_strings


class Catalog:
    """Map (namespace, item id) to a row and back.

    In one lineage a row is the same item for ever and rows are only appended, so one catalog serves all its versions and a new version
    costs as many steps as it has new rows. A reader that serves an older version must ignore rows at or above that version's count.

    **Contract.** One thread extends, other threads may read at the same time.
    """

    def __init__(self, arrays: Arrays) -> None:
        self._bytes: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._offsets: NDArray[np.int64] = np.zeros(1, np.int64)
        self._namespace_of: NDArray[np.int32] = np.empty(0, np.int32)
        self._ids: list[str] = []
        self._namespaces: list[str] = []
        self._rows: dict[str, dict[str, int]] = {}
        self._append(arrays)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Return the namespaces' names; ``item_namespace`` indexes them."""
        return tuple(self._namespaces)

    def extend(self, arrays: Arrays) -> bool:
        """Add the rows that ``arrays`` has beyond this catalog; False, and nothing changed, when it is another lineage."""
        shared = min(len(self), len(arrays["item_namespace"]))
        names = unpack_strings(arrays["namespace_bytes"], arrays["namespace_offsets"])
        num_names = min(len(names), len(self._namespaces))
        if names[:num_names] != self._namespaces[:num_names]:
            return False
        offsets = arrays["item_id_offsets"][: shared + 1]
        end = int(offsets[-1])
        same = (
            np.array_equal(offsets, self._offsets[: shared + 1])
            and np.array_equal(arrays["item_id_bytes"][:end], self._bytes[:end])
            and np.array_equal(arrays["item_namespace"][:shared], self._namespace_of[:shared])
        )
        if same and len(arrays["item_namespace"]) > len(self):
            self._append(arrays)
        return same

    def row_of(self, namespace: str, item_id: str) -> int:
        """Return the item's row, or -1."""
        return self._rows.get(namespace, {}).get(item_id, -1)

    def rows_of(self, namespace: str, item_ids: list[str] | tuple[str, ...]) -> NDArray[np.int32]:
        """Return the items' rows [num] int32, -1 where unknown."""
        rows = self._rows.get(namespace, {})
        return np.array([rows.get(item_id, -1) for item_id in item_ids], np.int32)

    def id_of(self, row: int) -> str:
        """Return the item id of a row."""
        return self._ids[row]

    def _append(self, arrays: Arrays) -> None:
        known = len(self)
        # Copies, so that the catalog doesn't keep a retired version's shared memory alive.
        self._bytes = np.array(arrays["item_id_bytes"])
        self._offsets = np.array(arrays["item_id_offsets"])
        self._namespace_of = np.array(arrays["item_namespace"], np.int32)
        self._namespaces = unpack_strings(arrays["namespace_bytes"], arrays["namespace_offsets"])
        start = int(self._offsets[known])
        fresh = unpack_strings(self._bytes[start:], self._offsets[known:] - start)
        self._ids.extend(fresh)
        self._index(fresh, known, self._namespace_of[known:])

    def _index(self, fresh: list[str], first_row: int, namespace_of: NDArray[Any]) -> None:
        rows = range(first_row, first_row + len(fresh))
        for index in np.unique(namespace_of).tolist():
            mine = self._rows.setdefault(self._namespaces[index], {})
            chosen = np.flatnonzero(namespace_of == index)
            if len(chosen) == len(fresh):
                mine.update(zip(fresh, rows, strict=True))
            else:
                mine.update((fresh[at], rows[at]) for at in chosen.tolist())
