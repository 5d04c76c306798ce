"""Parse a block of record values into typed columns: flat objects by pyarrow at once, everything else one by one.

pyarrow.json parses newline-separated documents about twice as fast as any loop, but it must never see hostile input: two documents in one
value shift all later rows, one bad record fails the block, NaN passes, and a top-level ``null`` ends the process. So it is given only
values that begin with ``{``, end with ``}`` and hold no other brace, bracket or line break. Such a value holds one document or none, and
what does not parse fails the block, which is halved until the culprit stands in a small one that is parsed one by one.

A record gives the same columns on both ways.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json
from numpy.typing import NDArray

from streamrec.events.parsed import Parsed
from streamrec.events.records import parse_records
from streamrec.events.schema import WIRE

LEAF_ROWS = 256  # a block with a culprit is not halved below this: many small parses cost more than one by one
FEW_ROWS = 24  # below this the fixed cost of a vectorised parse is not earned back
LONG_VALUE_BYTES = 65_536  # longer values go one by one, so that a block of them stays within Arrow's 2 GiB of string offsets

_NESTED = {"context": pa.struct([]), "vectors": pa.struct([])}  # empty: in a flat object they can only be null, or of a wrong type
_FLAT_SCHEMA = pa.schema([pa.field(field.name, _NESTED.get(field.name, field.type)) for field in WIRE])
_MARKS = np.zeros(256, np.bool_)
_MARKS[np.frombuffer(b"{}[\n\r", np.uint8)] = True

_Rows = NDArray[np.int64]


def parse_values(values: pa.BinaryArray) -> Parsed:
    """Parse the values of a block; never raises on bad bytes."""
    num_rows = len(values)
    parsed = Parsed.of_rows(num_rows)
    rows = np.arange(num_rows)
    flat = _is_flat(values) if num_rows >= FEW_ROWS else np.zeros(num_rows, np.bool_)
    tables, order, left = _parse_flat(values, rows[flat])
    others = np.sort(np.concatenate([rows[~flat], *left]))
    if len(others):
        more_tables, more_order = parse_records(values.take(pa.array(others)), others, parsed)
        tables += more_tables
        order += more_order
    columns = pa.concat_tables(tables)
    placed = np.concatenate(order)
    if (placed != rows).any():
        position = np.empty(num_rows, np.int64)
        position[placed] = rows
        columns = columns.combine_chunks().take(pa.array(position))
    parsed.columns = columns
    return parsed


def _is_flat(values: pa.BinaryArray) -> NDArray[np.bool_]:
    """Return [n], true where the value is ``{...}`` with no other brace, bracket, line break or non-finite number."""
    _, offsets_buffer, data_buffer = values.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32)[values.offset : values.offset + len(values) + 1].astype(np.int64)
    sizes = np.diff(offsets)
    flat = (sizes >= 2) & (sizes <= LONG_VALUE_BYTES)
    if values.null_count:
        flat &= values.is_valid().to_numpy(zero_copy_only=False)
    if not flat.any():
        return flat
    start, end = int(offsets[0]), int(offsets[-1])
    view = np.frombuffer(data_buffer, np.uint8)[start:end]
    offsets -= start
    flat[flat] = (view[offsets[:-1][flat]] == ord("{")) & (view[offsets[1:][flat] - 1] == ord("}"))
    text = view.tobytes()
    if not flat.all() or not _has_only_outer_braces(text, len(values)):
        places = np.flatnonzero(_MARKS[view])
        marks = np.bincount(np.searchsorted(offsets, places, side="right") - 1, minlength=len(values))
        flat &= marks == 2
    if b"NaN" in text or b"Inf" in text:
        non_finite = pc.match_substring_regex(values, r":[ \t]*-?(NaN|Inf)")
        flat &= ~pc.fill_null(non_finite, fill_value=True).to_numpy(zero_copy_only=False)
    return flat


def _has_only_outer_braces(text: bytes, num_rows: int) -> bool:
    return text.count(b"{") == num_rows == text.count(b"}") and b"[" not in text and b"\n" not in text and b"\r" not in text


def _parse_flat(values: pa.BinaryArray, flat: _Rows) -> tuple[list[pa.Table], list[_Rows], list[_Rows]]:
    """Parse the flat rows; return (tables, their rows, the rows of small blocks with a culprit)."""
    tables: list[pa.Table] = []
    order: list[_Rows] = []
    left: list[_Rows] = []
    chosen = values if len(flat) == len(values) else values.take(pa.array(flat))
    spans = [(0, len(flat))] if len(flat) else []
    while spans:
        start, end = spans.pop()
        table = _read_json(chosen.slice(start, end - start))
        if table is not None:
            tables.append(table)
            order.append(flat[start:end])
        elif end - start <= LEAF_ROWS:
            left.append(flat[start:end])
        else:
            middle = (start + end) // 2
            spans += [(middle, end), (start, middle)]
    return tables, order, left


def _read_json(values: pa.BinaryArray) -> pa.Table | None:
    """Parse flat values, or return None when one of them is no object or holds a wrong type."""
    text = pc.binary_join(pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values), b"\n")[0].as_py()
    if not text.isascii() and not _is_utf8(text):
        return None
    try:
        table = pa_json.read_json(
            pa.BufferReader(text),
            read_options=pa_json.ReadOptions(use_threads=False, block_size=len(text) + 1),
            parse_options=pa_json.ParseOptions(explicit_schema=_FLAT_SCHEMA, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowException:
        return None
    if table.num_rows != len(values):
        return None
    for name in _NESTED:
        field = WIRE.field(name)
        table = table.set_column(WIRE.get_field_index(name), field, pa.nulls(table.num_rows, field.type))
    return table


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
