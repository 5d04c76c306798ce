"""Hand out item rows: in order, by one writer, bounded; every model shares them. A row is an index and a generation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamrec.features.candidates import Candidates, user_bits, within_namespaces
from streamrec.features.dedupe import hash_key
from streamrec.features.item_keys import ItemKeys, PackedIds
from streamrec.migrations import migrated, number_of
from streamrec.state import Arrays, ComponentState, digest_of, unpack_strings

AT_ONCE_SHARE = 0.1
"""Below so much of ``max_items`` an id gets a row at its first event: a small catalogue never waits."""

LEAVING_SHARE = 0.05
"""When the vocabulary is full so much of ``max_items`` leaves together: purging everything that refers to a row is not for every batch."""

NUM_CANDIDATES = 2**17
"""Ids without a row that are remembered: about 13 MB."""

_UNSAVED, _UNTOLD = np.uint8(1), np.uint8(2)
_UNBOUNDED = 2**31 - 1
_NO_ROWS: dict[str, int] = {}

_TABLES: dict[str, tuple[int, Any]] = {
    "namespace": (-1, np.int32), "words": (-1, np.int32), "generation": (0, np.int32), "last_use": (0, np.int64), "uses": (0, np.int64),
    "words_ms": (0, np.int64), "unavailable": (False, np.bool_), "available_ms": (0, np.int64),
}  # fmt: skip
"""What is known of each row: value where nothing is known, and type. Of an item update's fields its event time too, in ms."""

_OF_THE_ITEM = [name for name in _TABLES if name not in {"generation", "last_use"}]
"""What goes with the item that leaves."""


class TakenIn(NamedTuple):
    """Hold the rows of a batch's items.

    Attributes:
        announced: Row of each item update, -1 without one. [A] int32
        used: Row of each interaction's item, -1 without one. [E] int32
        left: Rows whose items have left, which may already have new ones. [L] int32
    """

    announced: NDArray[np.int32]
    used: NDArray[np.int32]
    left: NDArray[np.int32]


class Vocabulary:
    """Map (namespace, item id) to a row, and keep what is known of each row.

    At most ``max_items`` items have rows. When a batch asks for more, the coldest leave: an item's warmth is the number of interactions
    that there had been at its last use, plus ``max_items`` for each doubling of its uses. So an item stays one turnover of the vocabulary
    longer for each doubling, and no item of the batch itself leaves. A row that is given up is handed out again with the next generation.

    An id gets a row at once while less than `AT_ONCE_SHARE` of the rows are taken or when an item update announces it, else after
    ``admit_after`` users touched it (see `Candidates`). Namespaces are never taken back: beyond ``max_namespaces`` items of further ones get none.

    **Contract.** One writer. `take_in` is a function of the state and the batch: new ids get free rows, lowest first, in the order of first
    appearance, announced ones before used ones. Whoever keeps rows must forget those in ``left`` before it sees the batch's rows.
    """

    name = "vocabulary"

    namespaces: list[str]
    counters: dict[str, int]
    _num_rows: int
    _clock: int
    _ids: list[str]
    _rows: dict[str, dict[str, int]]
    _free: list[int]
    _repack: set[int]
    _packed: PackedIds
    _namespace: NDArray[np.int32]
    _generation: NDArray[np.int32]
    _words: NDArray[np.int32]
    _words_ms: NDArray[np.int64]
    _unavailable: NDArray[np.bool_]
    _available_ms: NDArray[np.int64]
    _last_use: NDArray[np.int64]
    _uses: NDArray[np.int64]
    _flags: NDArray[np.uint8]
    _is_saved: bool

    def __init__(self, words_per_item: int, max_items: int = _UNBOUNDED, admit_after: int = 1, max_namespaces: int = _UNBOUNDED) -> None:
        self.words_per_item = words_per_item
        self.max_items = max_items
        self.max_namespaces = max_namespaces
        self._candidates = Candidates(admit_after, NUM_CANDIDATES)
        self.restore(ComponentState())
        self._is_saved = False

    def __len__(self) -> int:
        """Return the number of rows, free ones included."""
        return self._num_rows

    @property
    def num_items(self) -> int:
        """Number of rows that hold an item."""
        return self._num_rows - len(self._free)

    def take_in(self, announced: ItemKeys, used: ItemKeys, users: NDArray[np.int64]) -> TakenIn:
        """Find the rows of a batch's items, and give rows to new items.

        Args:
            announced: Items of item updates.
            used: Items of interactions. [E]
            users: A hash of each interaction's user. [E]
        """
        self._clock += len(used.index)
        rows = [self._find_all(announced), self._find_all(used)]
        wanted = self._choose(announced, used, rows, users)
        left = self._make_room(len(wanted), np.concatenate(rows))
        room = max(0, self.max_items - self.num_items)
        for namespace, item_id in wanted[:room]:
            self._add(namespace, item_id)
        if wanted:
            rows = [self._find_all(announced), self._find_all(used)]
        self._touch(rows[0], np.zeros(len(rows[0]), np.int64))
        self._touch(rows[1], np.bincount(used.index, minlength=len(used.ids)))
        result = TakenIn(rows[0][announced.index], rows[1][used.index], left)
        self.counters["admitted"] += min(room, len(wanted))
        self.counters["left"] += len(left)
        self.counters["kept_out"] += int((result.used < 0).sum())
        return result

    def rows_for(self, namespaces: Sequence[str], item_ids: Sequence[str]) -> NDArray[np.int32]:
        """Return rows for items as if they were announced, for callers that keep no rows of items that left. [num_items] int32."""
        nothing = ItemKeys([], [], np.zeros(0, np.int64))
        return self.take_in(ItemKeys.of(namespaces, item_ids), nothing, np.zeros(0, np.int64)).announced

    def facts(self) -> dict[str, int]:
        """Return how many items have rows, and how many items were admitted and left, and how many events had an item without a row."""
        return {"held": self.num_items, **self.counters}

    def find(self, namespace: str, item_id: str) -> int:
        """Return the item's row, or -1."""
        return self._rows.get(namespace, _NO_ROWS).get(item_id, -1)

    def key_of(self, row: int) -> tuple[str, str]:
        """Return (namespace, item id) of a row; two empty strings when it is free."""
        code = self._namespace[row]
        return (self.namespaces[code], self._ids[row]) if code >= 0 else ("", "")

    def keys(self) -> list[tuple[str, str]]:
        """Return `key_of` all rows, in order."""
        return [self.key_of(row) for row in range(self._num_rows)]

    def namespace_code(self, namespace: str) -> int:
        """Return the namespace's code, handing out the next one when it is new."""
        code = self._namespace_codes.get(namespace)
        if code is None:
            code = self._namespace_codes[namespace] = len(self.namespaces)
            self.namespaces.append(namespace)
            self._rows[namespace] = {}
        return code

    def describe(self, rows: NDArray[np.int32], words: NDArray[np.int32], times_ms: NDArray[np.int64]) -> None:
        """Set the hashed words of rows [num], words [num, W], told at event times [num], ascending; older ones than a row's change nothing."""
        newer = times_ms >= self._words_ms[rows]
        rows = rows[newer]
        self._words[rows], self._words_ms[rows] = words[newer], times_ms[newer]
        self._flags[rows] |= _UNSAVED | _UNTOLD

    def set_available(self, rows: NDArray[np.int32], available: NDArray[np.bool_], times_ms: NDArray[np.int64]) -> None:
        """Set whether the items of rows [num] can be had; times as in `describe`."""
        newer = times_ms >= self._available_ms[rows]
        rows = rows[newer]
        self._unavailable[rows], self._available_ms[rows] = ~available[newer], times_ms[newer]
        self._flags[rows] |= _UNSAVED

    def unavailable(self) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return which rows' items can't be had, and the event time of the update that says so or the opposite, 0 without one. [num_rows]."""
        return self._unavailable[: self._num_rows], self._available_ms[: self._num_rows]

    def is_described(self, rows: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return which rows have words or an availability, so that their items are known from more than interactions. [num]."""
        return np.asarray((self._words[rows] >= 0).any(1) | (self._available_ms[rows] > 0))

    def tell_again(self, rows: NDArray[np.int32]) -> None:
        """Let `take_changed` return these rows once more, for models that have forgotten them."""
        self._flags[rows] |= _UNTOLD

    def take_changed(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """Return (rows [n], words [n, W], namespace codes [n], generations [n]) that are new or described anew since the last call."""
        untold = np.flatnonzero(self._flags[: self._num_rows] & _UNTOLD)
        self._flags[untold] &= ~_UNTOLD
        rows = untold[self._namespace[untold] >= 0].astype(np.int32)
        return rows, self._words[rows], self._namespace[rows], self._generation[rows]

    def namespace_of_rows(self) -> NDArray[np.int32]:
        """Return each row's namespace code, -1 where it is free: a view that the next batch changes. [num_rows] int32."""
        view = self._namespace[: self._num_rows]
        view.flags.writeable = False
        return view

    def generation_of_rows(self) -> NDArray[np.int32]:
        """Return the generation of each row's item, -1 where it is free. [num_rows] int32."""
        return np.where(self.namespace_of_rows() >= 0, self._generation[: self._num_rows], np.int32(-1))

    def words(self) -> NDArray[np.int32]:
        """Return each row's hashed words, padded with -1. [num_rows, W] int32."""
        return self._words[: self._num_rows]

    def packed_ids(self) -> PackedIds:
        """Return the ids of all rows, empty where one is free; only what changed since the last call is packed anew."""
        if self._repack:
            rows = np.asarray(sorted(self._repack), np.int64)
            self._packed = self._packed.with_rows(self._num_rows, rows, [self._ids[row] for row in rows.tolist()])
            self._repack.clear()
        return self._packed

    def _find_all(self, items: ItemKeys) -> NDArray[np.int32]:
        tables = self._rows
        found = (tables.get(name, _NO_ROWS).get(item, -1) for name, item in zip(items.namespaces, items.ids, strict=True))
        return np.fromiter(found, np.int32, len(items.ids))

    def _choose(self, announced: ItemKeys, used: ItemKeys, rows: list[NDArray[np.int32]], users: NDArray[np.int64]) -> list[tuple[str, str]]:
        """Return the keys that shall get rows: all announced ones, and used ones as far as the candidates' rule lets them."""
        wanted = dict.fromkeys((announced.namespaces[at], announced.ids[at]) for at in np.flatnonzero(rows[0] < 0).tolist())
        unknown = [at for at in np.flatnonzero(rows[1] < 0).tolist() if (used.namespaces[at], used.ids[at]) not in wanted]
        at_once = max(0, int(AT_ONCE_SHARE * self.max_items) - self.num_items - len(wanted))
        waiting = unknown[at_once:] if self._candidates.admit_after > 1 else []
        enough = self._see(used, waiting, users)
        chosen = unknown[: len(unknown) - len(waiting)] + [at for at, is_enough in zip(waiting, enough, strict=True) if is_enough]
        wanted |= dict.fromkeys((used.namespaces[at], used.ids[at]) for at in chosen)
        return within_namespaces(self.namespaces, list(wanted), self.max_namespaces)

    def _see(self, used: ItemKeys, waiting: list[int], users: NDArray[np.int64]) -> list[bool]:
        if not waiting:
            return []
        order = np.argsort(used.index, kind="stable")
        starts = np.flatnonzero(np.diff(used.index[order], prepend=-1))
        bits = np.bitwise_or.reduceat(user_bits(users)[order], starts)[waiting].tolist()
        return self._candidates.see([hash_key(used.namespaces[at], used.ids[at]) for at in waiting], bits)

    def _make_room(self, num_new: int, protected: NDArray[np.int32]) -> NDArray[np.int32]:
        """Free the coldest rows when ``num_new`` items do not fit, never protected ones; return them, ascending."""
        surplus = self.num_items + num_new - self.max_items
        if num_new == 0 or surplus <= 0:
            return np.zeros(0, np.int32)
        may_leave = self._namespace[: self._num_rows] >= 0
        may_leave[protected[protected >= 0]] = False
        rows = np.flatnonzero(may_leave)
        doublings = np.frexp((self._uses[rows] + 1).astype(np.float64))[1] - 1
        warmth = self._last_use[rows] + self.max_items * doublings.astype(np.int64)
        num = max(surplus, int(LEAVING_SHARE * self.max_items))
        left = np.sort(rows[np.argsort(warmth, kind="stable")[:num]]).astype(np.int32)
        self.release(left)
        return left

    def release(self, left: NDArray[np.int32]) -> None:
        """Give up rows [L], ascending, that hold items; whoever keeps rows must forget them before the next batch."""
        for row in left.tolist():
            del self._rows[self.namespaces[self._namespace[row]]][self._ids[row]]
            self._ids[row] = ""
        self._repack.update(left.tolist())
        self._generation[left] += 1
        for name in _OF_THE_ITEM:
            getattr(self, f"_{name}")[left] = _TABLES[name][0]
        self._flags[left] |= _UNSAVED
        self._free = sorted([*self._free, *left.tolist()], reverse=True)

    def _add(self, namespace: str, item_id: str) -> None:
        code = self.namespace_code(namespace)
        if self._free:
            row = self._free.pop()
        else:
            row = self._num_rows
            self._num_rows += 1
            self._ids.append("")
            if self._num_rows > len(self._flags):
                self._allocate(2 * self._num_rows)
        self._rows[namespace][item_id] = row
        self._ids[row] = item_id
        self._namespace[row] = code
        self._repack.add(row)
        self._flags[row] |= _UNSAVED | _UNTOLD

    def _touch(self, rows: NDArray[np.int32], uses: NDArray[np.int64]) -> None:
        held = rows >= 0
        self._last_use[rows[held]] = self._clock
        self._uses[rows[held]] += uses[held]
        self._flags[rows[held]] |= _UNSAVED

    def _allocate(self, capacity: int, *, keep: bool = True) -> None:
        """Make the tables larger; each doubling copies once what it replaces."""
        specs: dict[str, tuple[int, Any]] = {**_TABLES, "flags": (0, np.uint8)}
        for name, (value, kind) in specs.items():
            table = np.full((capacity, self.words_per_item) if name == "words" else capacity, value, kind)
            if keep:
                old = getattr(self, f"_{name}")
                table[: len(old)] = old
            setattr(self, f"_{name}", table)

    def snapshot(self) -> ComponentState:
        """Return everything known of all rows, and the candidates."""
        self._is_saved = True
        self._flags &= _UNTOLD
        return self._state()

    def _state(self) -> ComponentState:
        packed, num = self.packed_ids(), self._num_rows
        tables = {name: getattr(self, f"_{name}")[:num].copy() for name in _TABLES}
        arrays = {"item_id_bytes": packed.data, "item_id_offsets": packed.offsets, **tables, **self._candidates.arrays()}
        return ComponentState(arrays, self._meta())

    def _meta(self) -> dict[str, Any]:
        return {"format": number_of("vocabulary"), "namespaces": list(self.namespaces), "clock": self._clock, "counters": dict(self.counters)}

    def delta(self) -> ComponentState | None:
        """Return the rows that changed or were used since the last snapshot or delta, and the candidates; None before the first snapshot."""
        if not self._is_saved:
            return None
        rows = np.flatnonzero(self._flags[: self._num_rows] & _UNSAVED)
        self._flags &= _UNTOLD
        packed = PackedIds.empty().with_rows(len(rows), np.arange(len(rows)), [self._ids[row] for row in rows.tolist()])
        tables = {f"{name}@values": getattr(self, f"_{name}")[rows] for name in _TABLES}
        ids: dict[str, NDArray[Any]] = {"item_id_bytes@values": packed.data, "item_id_offsets@values": packed.offsets}
        return ComponentState({"@rows": rows, **ids, **tables, **self._candidates.arrays()}, self._meta())

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; all rows count as changed, so that the models learn of them.

        Raises:
            StorageError: A newer streamrec wrote it.
        """
        base, *deltas = (migrated("vocabulary", state, state.meta.get("format")) for state in (base, *deltas))
        arrays = base.arrays
        ends = [int(delta.arrays["@rows"].max(initial=-1)) + 1 for delta in deltas]
        self._num_rows = max([len(arrays.get("namespace", ())), *ends])
        self._packed = PackedIds(arrays["item_id_bytes"], arrays["item_id_offsets"]) if "item_id_bytes" in arrays else PackedIds.empty()
        self.words_per_item = arrays["words"].shape[1] if "words" in arrays else self.words_per_item
        self._allocate(max(1024, 2 * self._num_rows), keep=False)
        for name in _TABLES:
            if name in arrays:
                getattr(self, f"_{name}")[: len(arrays[name])] = arrays[name]
        for delta in deltas:
            self._apply(delta.arrays)
        self._candidates.restore((base, *deltas)[-1].arrays)
        meta = (base, *deltas)[-1].meta
        self._clock = int(meta.get("clock", 0))
        self.counters = {"admitted": 0, "left": 0, "kept_out": 0, **meta.get("counters", {})}
        self.namespaces = list(meta.get("namespaces", []))
        self._namespace_codes = {name: code for code, name in enumerate(self.namespaces)}
        self._index()
        self._is_saved = True

    def _apply(self, arrays: Arrays) -> None:
        rows, ids = arrays["@rows"], unpack_strings(arrays["item_id_bytes@values"], arrays["item_id_offsets@values"])
        held = len(self._packed.offsets) - 1
        self._packed = self._packed.with_rows(max(held, int(rows.max(initial=-1)) + 1), rows, ids)
        for name in _TABLES:
            getattr(self, f"_{name}")[rows] = arrays[f"{name}@values"]

    def _index(self) -> None:
        """Build what is looked up from the tables and the packed ids."""
        self._ids = unpack_strings(self._packed.data, self._packed.offsets)
        namespace = self._namespace[: self._num_rows]
        self._rows = {}
        for code, name in enumerate(self.namespaces):
            rows = np.flatnonzero(namespace == code).tolist()
            self._rows[name] = {self._ids[row]: row for row in rows}
        self._free = np.flatnonzero(namespace < 0)[::-1].tolist()
        self._flags[: self._num_rows][namespace >= 0] = _UNTOLD
        self._repack = set()

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Return 0: the rows come from here."""
        return 0

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Return 0: rows are items, and of a candidate's users only one of 64 bits each is kept."""
        return 0

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(self._state())


def item_generations(arrays: Arrays) -> NDArray[np.int32]:
    """Return the generation of each row of a version's arrays, -1 where a row holds no item; format 1 has none, so 0 throughout. [rows]."""
    held = arrays.get("item_generation")
    return np.zeros(len(arrays["item_bias"]), np.int32) if held is None else np.asarray(held, np.int32)
