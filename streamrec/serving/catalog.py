"""Translate between item ids and the rows of a model, for all versions of one lineage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.features.vocabulary import item_generations
from streamrec.serving.changes import Changes
from streamrec.state import Arrays, unpack_strings

IDENTITY = ("item_namespace", "item_generation", "item_id_bytes", "item_id_offsets")
"""Arrays of a version that say which item each row holds."""


class Catalog:
    """Map (namespace, item id) to a row and back.

    In one lineage a row holds one item for as long as its generation stays. Versions between which no row changed its item share a
    catalog that only grows, and a new version costs as many steps as it has new rows. A reader that serves an older one of them must ignore
    rows at or above that version's count. Where rows have other items, the versions after that get a catalog of their own.

    **Contract.** One thread extends, other threads may read at the same time.

    Attributes:
        lineage: The same object in all catalogs of one lineage.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.lineage = object()
        self._bytes: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._offsets: NDArray[np.int64] = np.zeros(1, np.int64)
        self._namespace_of: NDArray[np.int32] = np.empty(0, np.int32)
        self._generations: NDArray[np.int32] = np.empty(0, np.int32)
        self._ids: list[str] = []
        self._namespaces: list[str] = []
        self._rows: dict[str, dict[str, int]] = {}
        self._take(arrays, np.arange(len(arrays["item_namespace"])))

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Return the namespaces' names; ``item_namespace`` indexes them."""
        return tuple(self._namespaces)

    @property
    def generations(self) -> NDArray[np.int32]:
        """Return each row's generation."""
        return self._generations

    def arrays(self, num_rows: int) -> dict[str, NDArray[Any]]:
        """Return what a version of the first ``num_rows`` rows was made of: ``IDENTITY``, as far as it said so."""
        offsets = self._offsets[: num_rows + 1]
        values: tuple[NDArray[Any], ...] = (self._namespace_of[:num_rows], self._generations[:num_rows], self._bytes[: int(offsets[-1])], offsets)
        return {name: array for name, array in zip(IDENTITY, values, strict=True) if self._says_generations or name != "item_generation"}

    def changed(self, num_rows: int, changes: Changes, names: Arrays) -> Catalog:
        """Return a catalog for what a delta makes of a version of this one's first ``num_rows`` rows; see `follow`.

        Args:
            num_rows: Of the version before.
            changes: The delta.
            names: ``namespace_bytes`` and ``namespace_offsets``, which it leaves as they are.
        """
        if not changes.touches(IDENTITY):
            return self
        arrays = changes.applied(self.arrays(num_rows)) | {name: names[name] for name in ("namespace_bytes", "namespace_offsets")}
        followed = self.follow(arrays | {"item_bias": arrays["item_namespace"]})
        return Catalog(arrays) if followed is None else followed

    def follow(self, arrays: Arrays) -> Catalog | None:
        """Return a catalog for another version: this one, with the rows that it lacked, or one of its own; None when it is another lineage."""
        shared = min(len(self), len(arrays["item_namespace"]))
        names = unpack_strings(arrays["namespace_bytes"], arrays["namespace_offsets"])
        num_names = min(len(names), len(self._namespaces))
        same = self._generations[:shared] == item_generations(arrays)[:shared]
        if names[:num_names] != self._namespaces[:num_names] or not self._agrees(arrays, np.flatnonzero(same)):
            return None
        if not same.all():
            return self._with_other_items(arrays, np.flatnonzero(~same))
        if len(arrays["item_namespace"]) > len(self):
            self._take(arrays, np.arange(len(self), len(arrays["item_namespace"])))
        return self

    def row_of(self, namespace: str, item_id: str) -> int:
        """Return the item's row, or -1."""
        return self._rows.get(namespace, {}).get(item_id, -1)

    def rows_of(self, namespace: str, item_ids: list[str] | tuple[str, ...]) -> NDArray[np.int32]:
        """Return the items' rows [num] int32, -1 where unknown."""
        rows = self.rows_in(namespace)
        return np.array([rows.get(item_id, -1) for item_id in item_ids], np.int32)

    def rows_in(self, namespace: str) -> Mapping[str, int]:
        """Return the row of each item of the namespace; it may grow meanwhile."""
        return self._rows.get(namespace, {})

    def ids_of(self, rows: list[int]) -> list[str]:
        """Return the item ids of rows."""
        ids = self._ids
        return [ids[row] for row in rows]

    def _agrees(self, arrays: Arrays, rows: NDArray[np.int64]) -> bool:
        """Return whether the rows hold the same items here and there."""
        mine, theirs = (self._bytes, self._offsets), (arrays["item_id_bytes"], arrays["item_id_offsets"])
        sizes = np.diff(self._offsets)[rows]
        if not np.array_equal(self._namespace_of[rows], arrays["item_namespace"][rows]) or not np.array_equal(sizes, np.diff(theirs[1])[rows]):
            return False
        if not len(rows) or int(rows[-1]) == len(rows) - 1:  # The first ones, without a gap: their bytes lie in one piece.
            end = int(sizes.sum())
            return np.array_equal(mine[0][:end], theirs[0][:end])
        place = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return np.array_equal(*(data[np.repeat(offsets[rows], sizes) + place] for data, offsets in (mine, theirs)))

    def _with_other_items(self, arrays: Arrays, changed: NDArray[np.int64]) -> Catalog:
        """Return a copy in which ``changed`` rows, and those that only one side has, are as in ``arrays``: readers of this one see no change."""
        result = object.__new__(Catalog)
        num, known = len(arrays["item_namespace"]), len(self)
        result.lineage = self.lineage
        result._ids = self._ids[:num]
        result._rows = {name: dict(rows) for name, rows in self._rows.items()}
        for row in (*changed.tolist(), *range(num, known)):
            code = self._namespace_of[row]
            if code >= 0:
                del result._rows[self._namespaces[code]][self._ids[row]]
        result._take(arrays, np.concatenate([changed, np.arange(known, num)]))
        return result

    def _take(self, arrays: Arrays, rows: NDArray[np.int64]) -> None:
        """Become the catalog of ``arrays``, from which it differs in ``rows`` only, ascending."""
        # Copies, so that the catalog doesn't keep a retired version's shared memory alive.
        self._bytes = np.array(arrays["item_id_bytes"])
        self._offsets = np.array(arrays["item_id_offsets"])
        self._namespace_of = np.array(arrays["item_namespace"], np.int32)
        self._generations = np.array(item_generations(arrays))
        self._says_generations = "item_generation" in arrays
        self._namespaces = unpack_strings(arrays["namespace_bytes"], arrays["namespace_offsets"])
        first = int(self._offsets[rows[0]]) if len(rows) else 0
        starts, ends, raw = (self._offsets[rows] - first).tolist(), (self._offsets[rows + 1] - first).tolist(), self._bytes[first:].tobytes()
        ids = [raw[start:end].decode("utf-8", "surrogatepass") for start, end in zip(starts, ends, strict=True)]
        num_old = int(np.searchsorted(rows, len(self._ids)))
        for row, item_id in zip(rows[:num_old].tolist(), ids, strict=False):
            self._ids[row] = item_id
        # The list first: whoever finds the row finds its id.
        self._ids.extend(ids[num_old:])
        codes = self._namespace_of[rows]
        for code in np.unique(codes[codes >= 0]).tolist():
            chosen = np.flatnonzero(codes == code)
            mine = self._rows.setdefault(self._namespaces[code], {})
            mine.update(zip((ids[at] for at in chosen.tolist()), rows[chosen].tolist(), strict=True))
