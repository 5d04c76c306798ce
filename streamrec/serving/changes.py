"""Read a delta between two versions without making the arrays that it leads to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.errors import Damaged
from streamrec.registry.version import apply_delta
from streamrec.serving.index import Ints
from streamrec.state import Arrays, ComponentState

Array = NDArray[Any]


class Changes:
    """Say which rows of which arrays a delta of `streamrec.registry.version.make_delta` changes.

    Raises:
        Damaged: It is not a delta.
    """

    def __init__(self, delta: ComponentState) -> None:
        self._delta = delta
        try:
            self.names = frozenset(delta.meta["names"])
            self.meta = dict(delta.meta["meta"])
            rows = {name: delta.arrays[f"{name}@rows"].astype(np.int32) for name in self.names if name not in delta.arrays}
            self._rows = {name: (at, delta.arrays[f"{name}@values"]) for name, at in rows.items()}
        except (KeyError, TypeError, ValueError) as error:
            what = f"Registry: a delta does not fit its base, nor any other ({error!r})"
            raise Damaged(what, do="roll back to another version") from error

    def is_by_rows(self, names: Iterable[str]) -> bool:
        """Return whether all of these arrays are given by rows."""
        return all(name in self._rows for name in names)

    def of(self, name: str) -> tuple[Ints, Array]:
        """Return the changed rows of an array that is given by rows, ascending, and their values."""
        return self._rows[name]

    def touches(self, names: Iterable[str]) -> bool:
        """Return whether any of these arrays becomes another one."""
        return any(name in self.names and (name not in self._rows or len(self._rows[name][0])) for name in names)

    def num_rows(self, name: str, num: int) -> int:
        """Return how many rows an array of ``num`` rows has afterwards."""
        return max(num, int(self._rows[name][0].max(initial=-1)) + 1) if name in self._rows else len(self._delta.arrays[name])

    def applied(self, arrays: Arrays) -> dict[str, Array]:
        """Return what becomes of some arrays; those that nothing changes are the same objects."""
        mine = [name for name in sorted(self.names) if name in arrays or name in self._delta.arrays]
        changed = [name for name in mine if self.touches([name])]
        parts = {key: array for key, array in self._delta.arrays.items() if key.partition("@")[0] in changed}
        result, _ = apply_delta(arrays, ComponentState(parts, {"names": changed, "meta": {}}))
        return {name: result[name] if name in result else arrays[name] for name in mine}
