"""Keep a learner's state as of the last two versions that were promoted, of the one that waits for the gate, and of those that the guard names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.state import ROWS, ChangedRows, ComponentState, Impersonal, digest_of, merge
from streamrec.student.tables import EMPTY

_GOOD, _BEFORE, _CANDIDATE, _KEPT = "good", "before", "candidate", "kept "
_TABLE = "table/"


class Returns(Impersonal):
    """Hold up to five copies of a learner's state, weights and moments, by the name of the version that was made of it; a component itself.

    Weights keep no users, but learned from them: who has a deletion to carry out lets go of what is older (`forget_before`).

    **Contract.** `delta` holds the rows that differ from those of the last snapshot or delta, of all copies.
    """

    name = "returns"

    def __init__(self) -> None:
        self._states: dict[str, ComponentState] = {}
        self._versions: dict[str, str] = {}
        self._changed = ChangedRows()
        self._has_lost = False

    def keep(self, version: str, state: ComponentState) -> None:
        """Remember the state that a version was made of, which waits for the gate from now on."""
        self._put(_CANDIDATE, version, state)

    def settle(self, version: str) -> None:
        """Let a version that was promoted, or made live again, be the one to go back to; one that is not remembered changes nothing.

        The one that was so far is kept, for an operator who makes it live again.
        """
        found = next((state for slot, state in self._states.items() if self._versions[slot] == version), None)
        if found is None or self._versions.get(_GOOD) == version:
            return
        if _GOOD in self._versions:
            self._put(_BEFORE, self._versions[_GOOD], self._states[_GOOD])
        self._put(_GOOD, version, found)

    def keep_these(self, versions: Sequence[str]) -> None:
        """Keep the copies of these versions, as far as there are any, until others are named."""
        for slot in [slot for slot, version in self._versions.items() if slot.startswith(_KEPT) and version not in versions]:
            del self._states[slot], self._versions[slot]
            self._has_lost = True
        for version in versions:
            found = next((self._states[slot] for slot, held in self._versions.items() if held == version), None)
            if found is not None and _KEPT + version not in self._versions:
                self._put(_KEPT + version, version, found)

    def of(self, version: str) -> ComponentState | None:
        """Return the state that a version was promoted with; None where it is not remembered."""
        return next((self._states[slot] for slot, held in self._versions.items() if held == version and slot != _CANDIDATE), None)

    def forget_before(self, version: str) -> None:
        """Let go of copies that are older than a version."""
        for slot, held in list(self._versions.items()):
            if held < version:
                del self._states[slot], self._versions[slot]
                self._has_lost = True  # A delta can't say what went.

    def _put(self, slot: str, version: str, state: ComponentState) -> None:
        before = self._states.get(slot)
        if before is None or len(_rows_of(before)) > len(_rows_of(state)):
            self._has_lost = True
        else:
            self._changed.mark(_changed_rows(before, state))
        self._states[slot], self._versions[slot] = state, version

    def snapshot(self) -> ComponentState:
        """Return all copies."""
        self._changed.take()
        self._has_lost = False
        return self._whole()

    def _whole(self) -> ComponentState:
        arrays = {f"{slot}/{name}": array for slot, state in self._states.items() for name, array in state.arrays.items()}
        return ComponentState(arrays, self._meta())

    def _meta(self) -> dict[str, Any]:
        lengths = {slot: len(_rows_of(state)) for slot, state in self._states.items()}
        meta = {slot: dict(state.meta) for slot, state in self._states.items()}
        return {"versions": dict(self._versions), "meta": meta, "lengths": lengths}

    def delta(self) -> ComponentState | None:
        """Return the rows that changed, and what all rows share."""
        num = max((len(_rows_of(state)) for state in self._states.values()), default=0)
        if self._has_lost or 2 * self._changed.count() > num:
            return None
        rows = self._changed.take()
        arrays: dict[str, NDArray[Any]] = {ROWS: rows}
        for slot, state in self._states.items():
            # A copy may lack rows that the other one has: they are zero there until it has them.
            there = rows < len(_rows_of(state))
            for name, array in state.arrays.items():
                if not name.startswith(_TABLE):
                    arrays[f"{slot}/{name}"] = array
                    continue
                values = np.zeros((len(rows), *array.shape[1:]), array.dtype)
                values[there] = array[rows[there]]
                arrays[f"{slot}/{name}@values"] = values
        return ComponentState(arrays, self._meta())

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`."""
        state = merge(base, deltas)
        self._versions = dict(state.meta.get("versions", {}))
        lengths: dict[str, int] = state.meta.get("lengths", {})
        self._states = {}
        for slot in self._versions:
            mine = {name.removeprefix(f"{slot}/"): array for name, array in state.arrays.items() if name.startswith(f"{slot}/")}
            cut = {name: array[: lengths.get(slot)] if name.startswith(_TABLE) else array for name, array in mine.items()}
            self._states[slot] = ComponentState(cut, state.meta["meta"][slot])
        self._changed, self._has_lost = ChangedRows(), False

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Clear rows whose items have left, in new arrays: a commit may still be writing the old ones; return how many of them held one."""
        gone = np.zeros(0, np.int32)
        for slot, state in list(self._states.items()):
            mine = rows[rows < len(_rows_of(state))]
            held = mine[state.arrays[f"{_TABLE}generation"][mine] >= 0]
            if not len(held):
                continue
            arrays = {name: array.copy() if name.startswith(_TABLE) else array for name, array in state.arrays.items()}
            for name, array in arrays.items():
                if name.startswith(_TABLE):
                    array[held] = EMPTY.get(name.removeprefix(_TABLE), 0)
            self._states[slot] = ComponentState(arrays, state.meta)
            self._changed.mark(held)
            gone = np.union1d(gone, held)
        return len(gone)

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(self._whole())


def _rows_of(state: ComponentState) -> NDArray[Any]:
    return state.arrays[f"{_TABLE}bias"]


def _changed_rows(before: ComponentState, after: ComponentState) -> NDArray[np.int64]:
    """Return the rows of the tables that differ, and those that are new."""
    num = len(_rows_of(before))
    changed = np.zeros(len(_rows_of(after)), np.bool_)
    changed[num:] = True
    for name, array in after.arrays.items() if num else ():
        if name.startswith(_TABLE):
            old, new = (part.reshape(num, -1) for part in (before.arrays[name], np.ascontiguousarray(array[:num])))
            changed[:num] |= (old.view(np.uint8) != new.view(np.uint8)).any(axis=1)
    return np.flatnonzero(changed)
