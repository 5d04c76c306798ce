"""Read a block of flat JSON objects with pyarrow."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json
from numpy.typing import NDArray


def read_objects(text: NDArray[np.uint8], schema: pa.Schema) -> pa.Table:
    """Parse objects that follow one another; fields beside the schema's come with the type that they seem to have.

    Nothing need stand between flat objects: each has one opening brace, so as many rows as values means that each value is one object.

    Raises:
        pa.ArrowException: Some value is no object, holds a wrong type, or a field twice.
    """
    return pa_json.read_json(
        pa.BufferReader(pa.py_buffer(text)),
        read_options=pa_json.ReadOptions(use_threads=False, block_size=len(text) + 1),
        parse_options=pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="infer"),
    )


def is_finite(column: pa.Array | pa.ChunkedArray) -> bool:
    """Return whether the numbers of a column, which JSON's parsers take for more than JSON has, are all finite; other columns are."""
    return not pa.types.is_floating(column.type) or pc.all(pc.is_finite(column), min_count=0).as_py() is True
