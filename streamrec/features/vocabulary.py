"""Hand out item rows: once, in order, by one writer; every model shares them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.state import ComponentState, digest_of, pack_strings, unpack_strings


class Vocabulary:
    """Map (namespace, item id) to a row, and keep what is known of each row.

    A row is never handed out twice in this lineage, so its generation is 0 throughout; the column exists so that versions, labels and
    histories can check it once rows are reused.

    **Contract.** One writer. `rows_for` gives unknown keys the next rows in the order of first appearance, so the same events in the same
    order give the same rows.
    """

    name = "vocabulary"

    def __init__(self, words_per_item: int) -> None:
        self.words_per_item = words_per_item
        self.namespaces: list[str] = []
        self._namespace_codes: dict[str, int] = {}
        self._rows: dict[tuple[str, str], int] = {}
        self._keys: list[tuple[str, str]] = []
        self._words = np.full((1024, words_per_item), -1, np.int32)
        self._changed: set[int] = set()

    def __len__(self) -> int:
        return len(self._keys)

    def namespace_code(self, namespace: str) -> int:
        """Return the namespace's code, handing out the next one when it is new."""
        code = self._namespace_codes.get(namespace)
        if code is None:
            code = self._namespace_codes[namespace] = len(self.namespaces)
            self.namespaces.append(namespace)
        return code

    def rows_for(self, namespaces: Sequence[str], item_ids: Sequence[str]) -> NDArray[np.int32]:
        """Return rows for items, handing out new ones. [num_items] int32."""
        rows = self._rows
        result = np.empty(len(item_ids), np.int32)
        for index, key in enumerate(zip(namespaces, item_ids, strict=True)):
            row = rows.get(key)
            if row is None:
                row = self._add(key)
            result[index] = row
        return result

    def find(self, namespace: str, item_id: str) -> int:
        """Return the item's row, or -1."""
        return self._rows.get((namespace, item_id), -1)

    def key_of(self, row: int) -> tuple[str, str]:
        """Return (namespace, item id) of a row."""
        return self._keys[row]

    def keys(self) -> list[tuple[str, str]]:
        """Return (namespace, item id) of all rows, in order."""
        return list(self._keys)

    def describe(self, rows: NDArray[np.int32], words: NDArray[np.int32]) -> None:
        """Set the hashed words of rows [num], words [num, W]."""
        self._words[rows] = words
        self._changed.update(rows.tolist())

    def take_changed(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """Return (rows [n], words [n, W], namespace codes [n]) that are new or described anew since the last call."""
        rows = np.asarray(sorted(self._changed), np.int32)
        self._changed.clear()
        return rows, self._words[rows], self.namespace_of_rows()[rows]

    def namespace_of_rows(self) -> NDArray[np.int32]:
        """Return each row's namespace code. [num_rows] int32."""
        codes = self._namespace_codes
        return np.fromiter((codes[namespace] for namespace, _ in self._keys), np.int32, len(self._keys))

    def words(self) -> NDArray[np.int32]:
        """Return each row's hashed words, padded with -1. [num_rows, W] int32."""
        return self._words[: len(self)]

    def _add(self, key: tuple[str, str]) -> int:
        self.namespace_code(key[0])
        row = len(self._keys)
        if row == len(self._words):
            grown = np.full((2 * row, self.words_per_item), -1, np.int32)
            grown[:row] = self._words
            self._words = grown
        self._rows[key] = row
        self._keys.append(key)
        self._changed.add(row)
        return row

    def snapshot(self) -> ComponentState:
        """Return keys and words of all rows."""
        data, offsets = pack_strings([item for _, item in self._keys])
        arrays: dict[str, NDArray[Any]] = {
            "item_id_bytes": data,
            "item_id_offsets": offsets,
            "namespace": self.namespace_of_rows(),
            "words": self.words().copy(),
        }
        return ComponentState(arrays, {"namespaces": list(self.namespaces)})

    def delta(self) -> ComponentState | None:
        """Return None: a snapshot is small beside the tables it names."""
        return None

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; all rows count as changed, so that the models learn of them."""
        self.namespaces = list(base.meta.get("namespaces", []))
        self._namespace_codes = {name: code for code, name in enumerate(self.namespaces)}
        if "namespace" in base.arrays:
            items = unpack_strings(base.arrays["item_id_bytes"], base.arrays["item_id_offsets"])
            self._keys = [(self.namespaces[code], item) for code, item in zip(base.arrays["namespace"].tolist(), items, strict=True)]
        else:
            self._keys = []
        self._rows = {key: row for row, key in enumerate(self._keys)}
        self._words = np.full((max(1024, 2 * len(self._keys)), self.words_per_item), -1, np.int32)
        if self._keys:
            self._words[: len(self._keys)] = base.arrays["words"]
        self._changed = set(range(len(self._keys)))

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Return 0: rows are items."""
        return 0

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(self.snapshot())
