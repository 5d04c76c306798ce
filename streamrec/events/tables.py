"""Choose rows of event tables, whose columns are mostly empty: a kind of event fills a few of the schema's columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ROWS_A_RUN = 32
"""From so many consecutive rows on, copying runs of rows is cheaper than picking rows one by one."""


def take(table: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    """Return the rows at these places; columns without a value cost nothing, and neither does the whole table."""
    is_ascending = bool((rows[1:] > rows[:-1]).all())
    if is_ascending and len(rows) == table.num_rows:
        return table
    if is_ascending:
        mask = np.zeros(table.num_rows, np.bool_)
        mask[rows] = True
        choose, chosen = pa.ChunkedArray.filter, pa.array(mask)
    else:
        choose, chosen = pa.ChunkedArray.take, pa.array(rows)
    columns = [
        pa.nulls(len(rows), column.type) if column.null_count == len(column) else choose(column, chosen).combine_chunks() for column in table.columns
    ]
    return pa.table(columns, schema=table.schema)


def take_values(values: pa.Array, rows: NDArray[np.int64]) -> pa.Array:
    """Return the values at these places."""
    runs = runs_of(rows)
    return values.take(pa.array(rows)) if runs is None else pa.concat_arrays([values.slice(start, size) for start, size in runs])


def runs_of(rows: NDArray[np.int64]) -> list[tuple[int, int]] | None:
    """Return the (start, size) of each run of consecutive rows, or None when these are too short to be worth it."""
    if not len(rows):
        return None
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(rows) != 1) + 1, [len(rows)]])
    if (len(bounds) - 1) * ROWS_A_RUN > len(rows):
        return None
    return list(zip(rows[bounds[:-1]].tolist(), np.diff(bounds).tolist(), strict=True))


def only(table: pa.Table, mask: NDArray[np.bool_]) -> pa.Table:
    """Return the rows where the mask is true; the table itself when it is true everywhere."""
    return table if mask.all() else take(table, np.flatnonzero(mask))


def numpy_of(column: pa.ChunkedArray) -> NDArray[Any]:
    """Return a column without nulls as an array."""
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values
