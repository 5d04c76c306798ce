"""Keep what catalogues say of items, for teachers that learn from it: a text, and vectors by modality.

Shapes: ``V`` item rows, ``D`` dimensions of a modality.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.state import ROWS, ChangedRows, ComponentState, digest_of, merge, pack_strings, unpack_strings

MAX_MODALITIES = 8
"""Vectors of further modalities are left out: each takes a table of all rows."""

MAX_DIMS = 4096
"""So are longer vectors."""

VECTORS = "vectors/"
_COLUMNS = {"generation": np.int32, "said_ms": np.int64, "shown_ms": np.int64}


class ItemContent:
    """Hold each row's text and vectors, as the newest update by event time says.

    A modality has the dimensions of its first vector; others are left out and counted.

    **Contract.** `forget_rows` forgets what rows whose items have left held; an item that only models begin anew keeps what its catalogue says.

    Args:
        generation_of_rows: Gives the generation of each row's item now, -1 where it is free.
    """

    name = "item_content"

    num_left_out: int
    _texts: list[str]
    _columns: dict[str, NDArray[Any]]
    _vectors: dict[str, NDArray[np.float32]]
    _changed: ChangedRows

    def __init__(self, generation_of_rows: Callable[[], NDArray[np.int32]]) -> None:
        self._generation_of_rows = generation_of_rows
        self.restore(ComponentState())

    def say(self, rows: NDArray[np.int32], texts: Sequence[str], times_ms: NDArray[np.int64]) -> None:
        """Set the texts of rows [n], told at event times [n], ascending; older ones than a row's change nothing."""
        self._fit(int(rows.max(initial=-1)) + 1)
        now, said = self._generation_of_rows(), self._columns["said_ms"]
        for row, text, time_ms in zip(rows.tolist(), texts, times_ms.tolist(), strict=True):
            if time_ms >= said[row]:
                self._texts[row], said[row] = text, time_ms
                self._columns["generation"][row] = now[row]
        self._changed.mark(rows)

    def show(self, rows: NDArray[np.int32], vectors: Sequence[Mapping[str, Sequence[float]]], times_ms: NDArray[np.int64]) -> None:
        """Set vectors of rows [n] by modality, as `say` does texts; a modality that is not named keeps its vector."""
        self._fit(int(rows.max(initial=-1)) + 1)
        now, shown = self._generation_of_rows(), self._columns["shown_ms"]
        for row, given, time_ms in zip(rows.tolist(), vectors, times_ms.tolist(), strict=True):
            if time_ms < shown[row]:
                continue
            shown[row], self._columns["generation"][row] = time_ms, now[row]
            for modality, values in given.items():
                table = self._table(modality, len(values))
                if table is None or not np.isfinite(values).all():
                    self.num_left_out += 1
                else:
                    table[row] = values
        self._changed.mark(rows)

    def _table(self, modality: str, dims: int) -> NDArray[np.float32] | None:
        table = self._vectors.get(modality)
        if table is None and len(self._vectors) < MAX_MODALITIES and 0 < dims <= MAX_DIMS:
            table = self._vectors[modality] = np.zeros((len(self._columns["generation"]), dims), np.float32)
        return table if table is not None and table.shape[1] == dims else None

    def _fit(self, num: int) -> None:
        self._texts.extend([""] * (num - len(self._texts)))
        held = len(self._columns["generation"])
        if num <= held:
            return
        capacity = max(num, 2 * held)
        for tables in (self._columns, self._vectors):
            for name, table in list(tables.items()):
                grown = np.zeros((capacity, *table.shape[1:]), table.dtype)
                grown[:held] = table
                tables[name] = grown

    def of_rows(self, num_rows: int) -> dict[str, NDArray[Any]]:
        """Return what is known of the first rows: ``text_bytes`` and ``text_offsets`` [V + 1], and ``vectors/<modality>`` [V, D], zeros: none."""
        self._fit(num_rows)
        data, offsets = pack_strings(self._texts[:num_rows])
        vectors = {VECTORS + name: table[:num_rows].copy() for name, table in sorted(self._vectors.items())}
        return {"text_bytes": data, "text_offsets": offsets, **vectors}

    def _state(self) -> ComponentState:
        num = len(self._texts)
        arrays = {**self.of_rows(num), **{name: column[:num].copy() for name, column in self._columns.items()}}
        return ComponentState(arrays, {"num_left_out": self.num_left_out})

    def snapshot(self) -> ComponentState:
        """Return everything."""
        self._changed.take()
        return self._state()

    def delta(self) -> ComponentState:
        """Return the rows that changed; see `streamrec.state.merge`."""
        rows = self._changed.take()
        data, offsets = pack_strings([self._texts[row] for row in rows.tolist()])
        tables: dict[str, NDArray[Any]] = dict(self._columns)
        tables |= {VECTORS + name: table for name, table in self._vectors.items()}
        arrays: dict[str, NDArray[Any]] = {ROWS: rows, "text_bytes@values": data, "text_offsets@values": offsets}
        return ComponentState({**arrays, **{f"{name}@values": table[rows] for name, table in tables.items()}}, {"num_left_out": self.num_left_out})

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`."""
        state = merge(base, deltas)
        arrays = state.arrays
        self._texts = unpack_strings(arrays["text_bytes"], arrays["text_offsets"]) if "text_offsets" in arrays else []
        num = len(self._texts)
        self._columns = {name: np.zeros(num, kind) for name, kind in _COLUMNS.items()}
        given = {name.removeprefix(VECTORS): table for name, table in sorted(arrays.items()) if name.startswith(VECTORS)}
        self._vectors = {name: np.zeros((num, table.shape[1]), np.float32) for name, table in given.items()}
        for name, table in arrays.items():
            held = self._columns.get(name, self._vectors.get(name.removeprefix(VECTORS)))
            if held is not None:
                held[: len(table)] = table
        self.num_left_out = int(state.meta.get("num_left_out", 0))
        self._changed = ChangedRows()

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Return 0: what a catalogue says is no user's."""
        return 0

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Forget rows whose items have left; return how many had anything."""
        rows = rows[rows < len(self._texts)]
        now, columns = self._generation_of_rows(), self._columns
        told = (columns["said_ms"][rows] > 0) | (columns["shown_ms"][rows] > 0)
        gone = rows[told & (columns["generation"][rows] != now[rows])]
        for row in gone.tolist():
            self._texts[row] = ""
        for table in (*columns.values(), *self._vectors.values()):
            table[gone] = 0
        self._changed.mark(gone)
        return len(gone)

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(self._state())
