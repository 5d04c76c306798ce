"""Decode log rows into valid events and rejected records, and encode events as log records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from streamrec.config import EventsConfig
from streamrec.errors import DataError
from streamrec.events.parse import parse_values
from streamrec.events.parsed import REASON_CODES
from streamrec.events.schema import EVENT, LOG_ROW, REJECTED, WIRE, Deletion, Event, Impression, Interaction, ItemUpdate, Kind
from streamrec.events.tables import only, take
from streamrec.events.validate import check_columns, fill_in

BLOCK_ROWS = 32_768  # smaller ones pay more for each step around the parse than they gain from the processor's cache
BLOCK_BYTES = 64 << 20  # the places of quotes and brackets take several times the bytes that they are found in

_NO_EVENTS, _NONE_REJECTED = EVENT.empty_table(), REJECTED.empty_table()
_CODE_TO_REASON = pa.array([None, *REASON_CODES], pa.string())
_KIND_OF: dict[type, Kind] = {
    Interaction: Kind.INTERACTION,
    Impression: Kind.IMPRESSION,
    ItemUpdate: Kind.ITEM_UPDATE,
    Deletion: Kind.DELETION,
}


@dataclass(frozen=True)
class Decoded:
    """Hold what came out of decoding.

    Attributes:
        valid: Table with the `EVENT` schema, in the order of the input.
        rejected: Table with the `REJECTED` schema, in the order of the input.
    """

    valid: pa.Table
    rejected: pa.Table


class EventCodec:
    """Decode log rows by one events configuration; pure, and picklable.

    Example:
        >>> from streamrec.config import EventsConfig
        >>> value = b'{"event_id": "e1", "user_id": "u1", "item_id": "i1", "event_type": "click", "event_time": 5}'
        >>> row = {"topic": "t", "partition": 0, "offset": 7, "timestamp": 5, "key": b"u1", "value": value}
        >>> decoded = EventCodec(EventsConfig()).decode(pa.Table.from_pylist([row], schema=LOG_ROW), now_ms=10)
        >>> decoded.valid["item_id"].to_pylist(), decoded.rejected.num_rows
        (['i1'], 0)
    """

    def __init__(self, cfg: EventsConfig) -> None:
        self._cfg = cfg

    def decode(self, rows: pa.Table, now_ms: int) -> Decoded:
        """Split log rows into valid events and rejected records.

        **Contract.** Every input row is in exactly one of the two tables, in input order, with its original offset. Bad bytes never raise.
        The same rows give the same result however they are split into calls.

        Args:
            rows: Table with the `LOG_ROW` schema.
            now_ms: Processing time, against which ``future_time`` is judged.
        """
        valid, rejected = [], []
        for batch in _blocks(rows):
            parsed = parse_values(batch.column("value"))
            check_columns(parsed, self._cfg, now_ms)
            good = parsed.reasons == 0
            place = np.empty(batch.num_rows, np.int64)  # of each value's row in the columns
            place[parsed.rows] = np.arange(len(parsed.rows))
            columns = fill_in(take(parsed.columns, place[good]), self._cfg)
            offsets = only(pa.table({name: batch.column(name) for name in ("partition", "offset")}), good)
            valid.append(pa.table([*columns.columns, *offsets.columns], schema=EVENT))
            if not good.all():
                rejected.append(_rejected_rows(batch, parsed.reasons, parsed.details))
        return Decoded(pa.concat_tables(valid or [_NO_EVENTS]), pa.concat_tables(rejected or [_NONE_REJECTED]))


def _blocks(rows: pa.Table) -> Iterator[pa.RecordBatch]:
    chosen = rows.select(LOG_ROW.names)
    if chosen.schema != LOG_ROW:
        chosen = chosen.cast(LOG_ROW)
    for batch in chosen.to_batches(max_chunksize=BLOCK_ROWS):
        num_rows = max(1, batch.num_rows * BLOCK_BYTES // max(1, batch.column("value").nbytes))
        yield from (batch.slice(start, num_rows) for start in range(0, batch.num_rows, num_rows))


def _rejected_rows(batch: pa.RecordBatch, reasons: np.ndarray[tuple[int], np.dtype[np.int8]], details: dict[int, str]) -> pa.Table:
    bad = np.flatnonzero(reasons)
    rows = pa.table(batch).take(pa.array(bad))
    columns = {name: rows[name] for name in ("topic", "partition", "offset", "key", "value")}
    columns["reason"] = _CODE_TO_REASON.take(pa.array(reasons[bad].astype(np.int32)))
    columns["detail"] = pa.array([details[row] for row in bad.tolist()], pa.string())
    return pa.table([columns[name] for name in REJECTED.names], schema=REJECTED)


def encode(event: Event) -> bytes:
    """Return an event's log value: a JSON object without its null fields.

    Example:
        >>> from streamrec.events.schema import EventId, UserId
        >>> encode(Deletion(EventId("e1"), UserId("u1"), event_time=5))
        b'{"kind":"deletion","event_id":"e1","user_id":"u1","event_time":5}'
    """
    record: dict[str, object] = {"kind": _KIND_OF[type(event)]}
    for field in fields(event):
        cell = getattr(event, field.name)
        if cell is not None:
            record[field.name] = dict(cell) if field.name in {"context", "vectors"} else cell
    return orjson.dumps(record)


def key_of(event: Event) -> bytes:
    """Return an event's log key: the user's id, or the item's for an `ItemUpdate`."""
    return (event.item_id if isinstance(event, ItemUpdate) else event.user_id).encode()


def encode_table(events: pa.Table) -> tuple[list[bytes], list[bytes]]:
    """Return the log keys and values of events given as columns.

    Args:
        events: Any of the `WIRE` columns, others are left out; ``kind`` absent or null stands for an interaction. Nulls are left out of the
            values.

    Raises:
        DataError: A row has neither a user's nor an item's id for its key.
    """
    names = [name for name in WIRE.names if name in events.column_names and events[name].null_count < events.num_rows]
    columns = {name: _plain(name, events[name].to_pylist()) for name in names}
    if all(events[name].null_count == 0 for name in names):
        values = [orjson.dumps(dict(zip(names, cells, strict=True))) for cells in zip(*columns.values(), strict=True)]
    else:
        pairs = (zip(names, cells, strict=True) for cells in zip(*columns.values(), strict=True))
        values = [orjson.dumps({name: cell for name, cell in row if cell is not None}) for row in pairs]
    nothing: list[Any] = [None] * events.num_rows
    users, items, kinds = (columns.get(name, nothing) for name in ("user_id", "item_id", "kind"))
    owners = [item if kind == Kind.ITEM_UPDATE else user for user, item, kind in zip(users, items, kinds, strict=True)]
    if None in owners:
        what = f"Events: row {owners.index(None)} has no key"
        raise DataError(what, got="null", allowed="user_id, or item_id for an item_update", do="give every event its id")
    return [owner.encode() for owner in owners], values


def _plain(name: str, cells: list[Any]) -> list[Any]:
    if name in {"context", "vectors"}:
        return [None if cell is None else dict(cell) for cell in cells]
    return cells
