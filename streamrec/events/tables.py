"""Choose rows of event tables, whose columns are mostly empty: a kind of event fills a few of the schema's columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def take(table: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    """Return the rows at these places; columns without a value cost nothing."""
    chosen = pa.array(rows)
    columns = [
        pa.nulls(len(rows), column.type) if column.null_count == len(column) else column.take(chosen).combine_chunks() for column in table.columns
    ]
    return pa.table(columns, schema=table.schema)


def only(table: pa.Table, mask: NDArray[np.bool_]) -> pa.Table:
    """Return the rows where the mask is true; the table itself when it is true everywhere."""
    return table if mask.all() else take(table, np.flatnonzero(mask))


def numpy_of(column: pa.ChunkedArray) -> NDArray[Any]:
    """Return a column without nulls as an array."""
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values
