"""Keep what catalogues say of items for those who show and filter them: title, categories, price and locale.

Shapes: ``V`` item rows, ``F`` fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from streamrec.state import ROWS, ChangedRows, ComponentState, digest_of, merge, pack_strings, unpack_strings

FIELDS = ("title", "categories", "price", "locale")
"""Each has an event time of its own, in this order."""

MAX_TITLE_CHARS = 300
MAX_CATEGORIES = 32
MAX_CATEGORY_CHARS = 100
MAX_LOCALE_CHARS = 35
"""What is longer is cut: an item's attributes take a bounded number of bytes, whoever describes it."""

Values = Mapping[str, Any]


def bounded(update: Mapping[str, Any]) -> dict[str, Any]:
    """Return those fields of an item update that say something, cut to the bounds.

    Example:
        >>> bounded({"title": "Lamp", "categories": None, "price": 9.5, "locale": None, "available": True})
        {'title': 'Lamp', 'price': 9.5}
    """
    values: dict[str, Any] = {name: update.get(name) for name in FIELDS if update.get(name) is not None}
    if "title" in values:
        values["title"] = values["title"][:MAX_TITLE_CHARS]
    if "categories" in values:
        values["categories"] = [name[:MAX_CATEGORY_CHARS] for name in values["categories"][:MAX_CATEGORIES] if name]
    if "locale" in values:
        values["locale"] = values["locale"][:MAX_LOCALE_CHARS]
    return values


def newer(values: Values, said_ms: NDArray[np.int64], time_ms: int) -> dict[str, Any]:
    """Return those of the values that are no older than what was said before, and note their time.

    Args:
        values: What an update says.
        said_ms: Event time of what is known of each field, 0 without anything. [F], changed in place.
        time_ms: The update's event time.
    """
    fresh = {name: value for name, value in values.items() if time_ms >= said_ms[FIELDS.index(name)]}
    for name in fresh:
        said_ms[FIELDS.index(name)] = time_ms
    return fresh


class ItemAttributes:
    """Hold each row's attributes; of each field the newest update by event time counts, of equal times the later one.

    **Contract.** `forget_rows` forgets what rows whose items have left held; an item that only models begin anew keeps what its catalogue says.

    Args:
        generation_of_rows: Gives the generation of each row's item now, -1 where it is free.
    """

    name = "item_attributes"

    _known: list[str]
    _said_ms: NDArray[np.int64]
    _generation: NDArray[np.int32]
    _changed: ChangedRows

    def __init__(self, generation_of_rows: Callable[[], NDArray[np.int32]]) -> None:
        self._generation_of_rows = generation_of_rows
        self.restore(ComponentState())

    def say(self, rows: NDArray[np.int32], updates: Sequence[Mapping[str, Any]], times_ms: NDArray[np.int64]) -> None:
        """Take item updates of rows [n], told at event times [n] in ms; see `bounded` for what counts of them."""
        told = [(row, values, at) for row, update, at in zip(rows.tolist(), updates, times_ms.tolist(), strict=True) if (values := bounded(update))]
        if not told:
            return
        self._fit(max(row for row, _, _ in told) + 1)
        now = self._generation_of_rows()
        for row, values, time_ms in told:
            fresh = newer(values, self._said_ms[row], time_ms)
            if fresh:
                held = orjson.loads(self._known[row]) if self._known[row] else {}
                self._known[row] = orjson.dumps({**held, **fresh}, option=orjson.OPT_SORT_KEYS).decode()
                self._generation[row] = now[row]
        self._changed.mark(np.unique(np.asarray([row for row, _, _ in told], np.int32)))

    def _fit(self, num: int) -> None:
        self._known.extend([""] * (num - len(self._known)))
        held = len(self._generation)
        if num > held:
            capacity = max(num, 2 * held)
            self._generation = np.concatenate([self._generation, np.zeros(capacity - held, np.int32)])
            self._said_ms = np.concatenate([self._said_ms, np.zeros((capacity - held, len(FIELDS)), np.int64)])

    def _state(self) -> ComponentState:
        num = len(self._known)
        data, offsets = pack_strings(self._known)
        arrays: dict[str, NDArray[Any]] = {"known_bytes": data, "known_offsets": offsets}
        return ComponentState({**arrays, "said_ms": self._said_ms[:num].copy(), "generation": self._generation[:num].copy()})

    def snapshot(self) -> ComponentState:
        """Return everything."""
        self._changed.take()
        return self._state()

    def delta(self) -> ComponentState:
        """Return the rows that changed; see `streamrec.state.merge`."""
        rows = self._changed.take()
        data, offsets = pack_strings([self._known[row] for row in rows.tolist()])
        arrays: dict[str, NDArray[Any]] = {ROWS: rows, "known_bytes@values": data, "known_offsets@values": offsets}
        return ComponentState({**arrays, "said_ms@values": self._said_ms[rows], "generation@values": self._generation[rows]})

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`."""
        state = merge(base, deltas)
        self._known, self._said_ms = columns_of(state)
        self._generation = np.array(state.arrays.get("generation", np.zeros(0, np.int32)))
        self._changed = ChangedRows()

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Return 0: what a catalogue says is no user's."""
        return 0

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Forget rows whose items have left; return how many had anything."""
        rows = rows[rows < len(self._known)]
        now = self._generation_of_rows()
        gone = rows[(self._said_ms[rows] > 0).any(1) & (self._generation[rows] != now[rows])]
        for row in gone.tolist():
            self._known[row] = ""
        self._said_ms[gone], self._generation[gone] = 0, 0
        self._changed.mark(gone)
        return len(gone)

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(self._state())


def columns_of(state: ComponentState) -> tuple[list[str], NDArray[np.int64]]:
    """Return of each row what a state of `ItemAttributes` knows, as JSON, empty where nothing, and when its fields were said [V, F]."""
    if "known_offsets" not in state.arrays:
        return [], np.zeros((0, len(FIELDS)), np.int64)
    return unpack_strings(state.arrays["known_bytes"], state.arrays["known_offsets"]), np.array(state.arrays["said_ms"])
