"""Assemble a dataset from columns: event ids, time order, counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamrec.events.schema import Kind

SYNTHETIC_EPOCH_MS = 946_684_800_000  # 2000-01-01: where the times of files without a clock begin
WEEK_MS = 7 * 86_400_000


@dataclass(frozen=True)
class Dataset:
    """Hold a file's interactions in event-time order.

    Attributes:
        name: Names the set in event ids; the same file always has the same name.
        kind: The format it was read in.
        events: Table of event_id, user_id, item_id, event_type strings, value float64?, event_time int64 (ms UTC), session_id string?, and, where
            the set has them, basket string, period int64 or split string. Sorted by event time, rows of one time in file order.
        items: Table of `ItemUpdate` rows, one per item: kind, event_id, item_id, event_time (the first event's), title string?, categories
            list<string>?; None when the set describes no items.
        facts: Counts: ``rows`` in the file, ``events``, ``users``, ``items``, and what was left out, by its reason.
    """

    name: str
    kind: str
    events: pa.Table
    items: pa.Table | None
    facts: Mapping[str, int]

    @property
    def period(self) -> NDArray[np.int64] | None:
        """Return each event's period [n], or None when the set has none."""
        return self.events["period"].to_numpy() if "period" in self.events.column_names else None

    @property
    def split(self) -> list[str] | None:
        """Return each event's split [n], such as train or test, or None when the set has none."""
        return self.events["split"].to_pylist() if "split" in self.events.column_names else None


@dataclass
class RawEvents:
    """Hold a file's interactions in file order.

    Attributes:
        user, item: String arrays [n].
        event_type: One type for all rows, or a string array [n].
        time_ms: int64 array [n].
        value: float64 array [n], or None.
        session: String array [n], or None.
        extra: Further columns by name.
        rows: Each event's row in the file, from 0; None when every row is an event.
    """

    user: pa.Array
    item: pa.Array
    event_type: str | pa.Array
    time_ms: pa.Array
    value: pa.Array | None = None
    session: pa.Array | None = None
    extra: Mapping[str, pa.Array] = field(default_factory=dict)
    rows: NDArray[np.int64] | None = None


def assemble(name: str, kind: str, raw: RawEvents, items: pa.Table | None = None, facts: Mapping[str, int] | None = None) -> Dataset:
    """Return the dataset of a file's interactions.

    The id of the event in the file's row r, counted from 0, is ``name:r``, so that sending a file twice sends the same events.

    Args:
        name: See `Dataset`.
        kind: See `Dataset`.
        raw: The interactions.
        items: What `item_table` returns, if anything is known of the items.
        facts: Counts that the format knows; the usual ones are added.
    """
    num_events = len(raw.user)
    rows = np.arange(num_events) if raw.rows is None else raw.rows
    types = pa.repeat(pa.scalar(raw.event_type), num_events) if isinstance(raw.event_type, str) else raw.event_type
    columns: dict[str, Any] = {
        "event_id": pc.binary_join_element_wise(name, pa.array(rows).cast(pa.string()), ":"),
        "user_id": raw.user,
        "item_id": raw.item,
        "event_type": types,
        "value": pa.nulls(num_events, pa.float64()) if raw.value is None else raw.value,
        "event_time": raw.time_ms,
        "session_id": pa.nulls(num_events, pa.string()) if raw.session is None else raw.session,
        **raw.extra,
    }
    events = pa.table(columns)
    times = raw.time_ms.to_numpy()
    if np.any(times[1:] < times[:-1]):
        events = events.take(pa.array(np.argsort(times, kind="stable"))).combine_chunks()
    counts = {"rows": num_events, **(facts or {}), "events": num_events}
    counts |= {"users": pc.count_distinct(events["user_id"]).as_py(), "items": pc.count_distinct(events["item_id"]).as_py()}
    return Dataset(name, kind, events, None if items is None else _as_updates(items, name, events["event_time"][0]), counts)


def _as_updates(items: pa.Table, name: str, time_ms: pa.Scalar) -> pa.Table:
    return pa.table(
        {
            "kind": pa.repeat(pa.scalar(Kind.ITEM_UPDATE), items.num_rows),
            "event_id": pc.binary_join_element_wise(name, items["item_id"], ":item:"),
            "item_id": items["item_id"],
            "event_time": pa.repeat(time_ms, items.num_rows),
            "title": items["title"],
            "categories": items["categories"],
        }
    )


def item_table(item_id: pa.Array, title: pa.Array | None = None, categories: pa.Array | None = None) -> pa.Table:
    """Return a table of items; of an item's rows the first non-empty title and its categories stay."""
    table = pa.table(
        {
            "item_id": item_id,
            "title": pa.nulls(len(item_id), pa.string()) if title is None else title,
            "categories": pa.nulls(len(item_id), pa.list_(pa.string())) if categories is None else categories,
        }
    )
    first_any = first_rows(item_id)
    if title is None:
        return table.take(pa.array(first_any))
    titled = np.flatnonzero(pc.fill_null(pc.greater(pc.binary_length(title), 0), fill_value=False).to_numpy(zero_copy_only=False))
    first_titled = titled[first_rows(item_id.take(pa.array(titled)))]
    untitled = first_any[~pc.is_in(item_id.take(pa.array(first_any)), item_id.take(pa.array(first_titled))).to_numpy(zero_copy_only=False)]
    rows = np.sort(np.concatenate([first_titled, untitled]))
    chosen = table.take(pa.array(rows))
    return chosen.set_column(1, "title", pc.if_else(pc.equal(chosen["title"], ""), pa.scalar(None, pa.string()), chosen["title"]))


def first_rows(*keys: pa.Array) -> NDArray[np.int64]:
    """Return, in order, the first row of each distinct combination of keys."""
    code = np.zeros(len(keys[0]), np.int64)
    for key in keys:
        encoded = key.dictionary_encode()
        code = code * max(len(encoded.dictionary), 1) + encoded.indices.to_numpy(zero_copy_only=False)
    return np.sort(np.unique(code, return_index=True)[1])
