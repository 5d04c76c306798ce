"""Define what a stateful component is, and how its state becomes bytes.

The streaming state is a set of named components. The checkpoint, the fault tests and deletion iterate over them and know nothing
else about them. A component's state is a dictionary of numpy arrays plus a small JSON ``meta``; its bytes are a safetensors file, so
that restoring it can't run code.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from streamrec.errors import Damaged

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class ComponentState:
    """Hold one component's state.

    Attributes:
        arrays: Contiguous numpy arrays by name.
        meta: JSON-serialisable facts (numbers, strings, lists).
    """

    arrays: Arrays = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)


class Component(Protocol):
    """A named part of the streaming state.

    **Contract.** ``restore(snapshot())`` gives a component that behaves the same bit for bit. ``delta()`` returns what changed since the
    last ``snapshot()`` or ``delta()``, or None when the component has no cheaper form than its snapshot; the deltas, in order, on the snapshot
    they follow give the same state. A delta of rows (see `merge`) can be joined with its base by anybody. What either returns stands still
    while the component goes on. ``delete_user`` removes what is kept under the user's key and returns how many entries went. ``forget_rows`` removes
    everything that is kept under item rows whose items have left and returns how many entries went; afterwards the rows may come with other items.
    ``digest`` covers everything that ``snapshot`` holds.
    """

    name: str

    def snapshot(self) -> ComponentState:
        """Return the whole state."""
        ...

    def delta(self) -> ComponentState | None:
        """Return the change since the last snapshot or delta, or None for 'take a snapshot'."""
        ...

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state by ``base`` with ``deltas`` applied in order."""
        ...

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Remove the user and return how many entries went."""
        ...

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Remove what is kept under item rows and return how many entries went."""
        ...

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        ...


class Impersonal(ABC):
    """Be the half that is equal in all components that are small and keep nothing under a user's key or an item's row."""

    @abstractmethod
    def snapshot(self) -> ComponentState:
        """Return the whole state."""

    def delta(self) -> ComponentState | None:
        """Return None: the whole is small."""
        return None

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Return 0: nothing in here is one user's."""
        return 0

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Return 0: nothing in here is one item's."""
        return 0

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(self.snapshot())


def num_bytes(state: ComponentState) -> int:
    """Return how many bytes the arrays take."""
    return sum(array.nbytes for array in state.arrays.values())


def to_bytes(state: ComponentState) -> bytes:
    """Serialise a component's state as a safetensors file (https://github.com/huggingface/safetensors).

    The same state always gives the same bytes, so its SHA-256 names it.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in sorted(state.arrays.items())}
    return save_safetensors(arrays, metadata={"meta": json.dumps(state.meta, sort_keys=True)})


def from_bytes(data: bytes) -> ComponentState:
    """Parse what `to_bytes` wrote.

    Raises:
        Damaged: The bytes are not such a file.
    """
    try:
        arrays = load_safetensors(data)
        header_bytes = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + header_bytes])
        meta = json.loads(header.get("__metadata__", {}).get("meta", "{}"))
    except (SafetensorError, ValueError, KeyError) as error:
        what = f"State: the bytes are not a component's state ({error})"
        raise Damaged(what, got=f"{len(data)} bytes", do="restore the previous checkpoint") from error
    return ComponentState(arrays, meta)


def digest_of(state: ComponentState) -> str:
    """Return the SHA-256 of a state's bytes, in hex."""
    return hashlib.sha256(to_bytes(state)).hexdigest()


def pack_strings(values: Iterable[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pack strings into (UTF-8 bytes [total_bytes] uint8, offsets [num + 1] int64).

    Example:
        >>> data, offsets = pack_strings(["ab", "", "é"])
        >>> unpack_strings(data, offsets)
        ['ab', '', 'é']
    """
    encoded = [value.encode("utf-8", "surrogatepass") for value in values]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(value) for value in encoded], out=offsets[1:])
    return np.frombuffer(b"".join(encoded), np.uint8), offsets


def unpack_strings(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> list[str]:
    """Return the strings that `pack_strings` packed."""
    raw = data.tobytes()
    bounds = offsets.tolist()
    return [raw[start:end].decode("utf-8", "surrogatepass") for start, end in itertools.pairwise(bounds)]


ROWS = "@rows"
_VALUES = "@values"
_OFFSETS = "_offsets"


def is_row_delta(state: ComponentState) -> bool:
    """Tell whether `merge` can join this delta with a base."""
    return ROWS in state.arrays


def merge(base: ComponentState, deltas: Iterable[ComponentState]) -> ComponentState:
    """Join a snapshot with deltas of rows into the snapshot that holds both; a function of its arguments alone.

    In a delta of rows ``@rows`` [k] int64 names the rows that changed, ascending. ``x@values`` [k, …] are their new values in the base's array
    ``x``; a row past its end lengthens it, and what lies between is zero. Where the base has ``p_offsets`` [n + 1], its other arrays ``p_*``
    hold rows of different lengths one after the other, and so does the delta: ``p_offsets@values`` [k + 1] with flat ``p_*@values``.
    An array that the base lacks begins empty. An array without ``@`` replaces the base's whole one, and so does each entry of the meta.

    Raises:
        Damaged: A delta is not one of rows.
    """
    deltas = list(deltas)
    arrays, meta = dict(base.arrays), dict(base.meta)
    packed: dict[str, list[Arrays]] = {}
    own: set[str] = set()
    for delta in deltas:
        if not is_row_delta(delta):
            what = "State: a delta names no rows"
            raise Damaged(what, got=", ".join(sorted(delta.arrays)[:5]), allowed=f"an array {ROWS}", do="restore the component itself")
        meta |= delta.meta
        stems = {name.removesuffix(_OFFSETS + _VALUES) for name in delta.arrays if name.endswith(_OFFSETS + _VALUES)}
        for stem in stems:
            packed.setdefault(stem, []).append(delta.arrays)
        for name, values in delta.arrays.items():
            if name.endswith(_VALUES) and not any(name.startswith(f"{stem}_") for stem in stems):
                target = name.removesuffix(_VALUES)
                old = arrays.get(target, values[:0])
                arrays[target] = _with_rows(old, delta.arrays[ROWS], values, is_own=target in own)
                own.add(target)
            elif "@" not in name:
                arrays[name] = values
                own.discard(name)
    for stem, parts in packed.items():
        arrays |= _merge_packed(stem, arrays, parts)
    return ComponentState(arrays, meta)


def _with_rows(old: NDArray[Any], rows: NDArray[np.int64], values: NDArray[Any], *, is_own: bool) -> NDArray[Any]:
    end = int(rows[-1]) + 1 if len(rows) else 0
    if end > len(old):
        old = np.concatenate([old, np.zeros((end - len(old), *old.shape[1:]), old.dtype)])
    elif not is_own:
        old = old.copy()
    old[rows] = values
    return old


def _merge_packed(stem: str, base: Arrays, parts: list[Arrays]) -> dict[str, NDArray[Any]]:
    """Join rows of different lengths: of each row the newest values, between them the base's, in one pass."""
    offsets_name = stem + _OFFSETS
    offsets = base.get(offsets_name, np.zeros(1, np.int64))
    lengths = np.diff(offsets)
    part_rows = np.concatenate([part[ROWS] for part in parts])
    part_lengths = np.concatenate([np.diff(part[offsets_name + _VALUES]) for part in parts])
    part_ends = np.cumsum(part_lengths)
    rows, from_the_end = np.unique(part_rows[::-1], return_index=True)
    newest = len(part_rows) - 1 - from_the_end
    if len(rows) and rows[-1] >= len(lengths):
        lengths = np.concatenate([lengths, np.zeros(int(rows[-1]) + 1 - len(lengths), np.int64)])
    lengths[rows] = part_lengths[newest]
    # A changed row's old values lie between two offsets; those of a row past the base's end are at its end, and none.
    old_starts, old_ends = (offsets[np.minimum(edge, len(offsets) - 1)].tolist() for edge in (rows, rows + 1))
    starts, ends = (part_ends - part_lengths)[newest].tolist(), part_ends[newest].tolist()
    result = {offsets_name: np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)}
    for key in parts[0]:
        name = key.removesuffix(_VALUES)
        if key == name or name == offsets_name or not name.startswith(f"{stem}_"):
            continue
        fresh = np.concatenate([part[key] for part in parts])
        old = base.get(name, fresh[:0])
        pieces, position = [], 0
        for old_start, old_end, start, end in zip(old_starts, old_ends, starts, ends, strict=True):
            pieces += [old[position:old_start], fresh[start:end]]
            position = old_end
        result[name] = np.concatenate([*pieces, old[position:]])
    return result


class ChangedRows:
    """Remember which rows changed since they were last taken, one byte a row.

    Example:
        >>> changed = ChangedRows()
        >>> changed.mark([4, 1, 4])
        >>> changed.take()
        array([1, 4])
        >>> changed.take()
        array([], dtype=int64)
    """

    def __init__(self) -> None:
        self._marks = np.zeros(1024, np.bool_)

    def mark(self, rows: NDArray[Any] | list[int]) -> None:
        """Mark rows."""
        if len(rows):
            self._fit(int(np.max(rows)) + 1)
            self._marks[rows] = True

    def mark_first(self, num: int) -> None:
        """Mark all rows below ``num``."""
        self._fit(num)
        self._marks[:num] = True

    def take(self) -> NDArray[np.int64]:
        """Return the marked rows, ascending, and unmark them."""
        rows = np.flatnonzero(self._marks)
        self._marks[rows] = False
        return rows

    def count(self) -> int:
        """Return how many rows are marked."""
        return int(np.count_nonzero(self._marks))

    def _fit(self, num: int) -> None:
        if num > len(self._marks):
            self._marks = np.concatenate([self._marks, np.zeros(max(num, 2 * len(self._marks)) - len(self._marks), np.bool_)])
