"""Build tables of log rows, and put them into the order that was asked for. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamrec.errors import RowCountMismatch
from streamrec.events.schema import LOG_ROW
from streamrec.log.offsets import OffsetRange

NO_ROWS: pa.Table = LOG_ROW.empty_table()


def consecutive_rows(topic: str, partition: int, start: int, timestamps: Any, keys: Any, values: Any) -> pa.Table:
    """Return the rows of the consecutive offsets from ``start`` (inclusive).

    Args:
        topic: Of all rows.
        partition: Of all rows.
        start: Offset of the first row.
        timestamps: Broker times in milliseconds, a list or an Arrow column [rows].
        keys: Bytes or None, a list or an Arrow column [rows].
        values: Bytes, a list or an Arrow column [rows].
    """
    num_rows = len(values)
    columns = {
        "topic": pa.repeat(pa.scalar(topic, pa.string()), num_rows),
        "partition": pa.repeat(pa.scalar(partition, pa.int32()), num_rows),
        "offset": pa.array(np.arange(start, start + num_rows, dtype=np.int64)),
        "timestamp": timestamps,
        "key": keys,
        "value": values,
    }
    return pa.table(columns, schema=LOG_ROW)


def concatenated(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of all tables in one, in their order."""
    return pa.concat_tables(tables) if tables else NO_ROWS


def exactly(ranges: Sequence[OffsetRange], rows: pa.Table) -> pa.Table:
    """Return the rows of each range in the order of ``ranges``, offsets ascending.

    Args:
        ranges: What was planned.
        rows: Rows in `LOG_ROW`, in any order.

    Raises:
        RowCountMismatch: A range has not exactly its offsets (facts: topic, partition, wanted, rows, first_missing).
    """
    tables: list[pa.Table] = []
    for part in ranges:
        mine = rows.filter(pc.and_(pc.equal(rows["topic"], part.topic), pc.equal(rows["partition"], part.partition)))
        offsets = mine["offset"].to_numpy()
        if np.any(offsets[1:] < offsets[:-1]):
            mine = mine.sort_by("offset")
            offsets = mine["offset"].to_numpy()
        if not np.array_equal(offsets, np.arange(part.start, part.end)):
            raise missing_rows(part, offsets.tolist())
        tables.append(mine)
    return concatenated(tables)


def missing_rows(part: OffsetRange, offsets: Sequence[int]) -> RowCountMismatch:
    """Return the error for a range whose rows are not one per offset."""
    there = set(offsets)
    first_missing = next((offset for offset in range(part.start, part.end) if offset not in there), None)
    return RowCountMismatch(
        f"Log: {part} gave {len(offsets)} rows",
        got=f"no offset {first_missing}" if first_missing is not None else "repeated or foreign offsets",
        allowed=f"exactly {part.num_offsets} rows",
        do="raise log.read_timeout_s if the broker is slow; write the topic without transactions and keep it without compaction",
        topic=part.topic,
        partition=part.partition,
        wanted=part.num_offsets,
        rows=len(offsets),
        first_missing=first_missing,
    )
