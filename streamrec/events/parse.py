"""Parse a block of record values into typed columns: flat objects by pyarrow at once, nested fields by their quotes, everything else one by one.

pyarrow.json parses many documents about twice as fast as any loop, but it must never see hostile input: two documents in one
value shift all later rows, one bad record fails the block, NaN passes, and a top-level ``null`` ends the process. So it is given only
values that begin with ``{``, end with ``}`` and hold no other brace, bracket or control character. Such a value holds one document or none.
Context, vectors, categories and items are cut out of the values first (`streamrec.events.nested`); a 0 stays where each was.
When a block does not parse, its values are grouped by their shape, the types of their values: the records that hold a wrong type
then stand apart from the rest. What still does not parse is halved until the culprit stands in a small group that is parsed one by one.

A record gives the same columns on all ways.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamrec.events.blocks import is_finite, read_objects
from streamrec.events.nested import NESTED, Cut, cut_nested
from streamrec.events.parsed import Parsed
from streamrec.events.records import parse_records
from streamrec.events.schema import WIRE
from streamrec.events.shapes import bytes_of, groups_of, is_utf8, shapes
from streamrec.events.tables import take, take_values

LEAF_ROWS = 256  # a group with a culprit is not halved below this: many small parses cost more than one by one
FEW_ROWS = 24  # below this the fixed cost of a vectorised parse is not earned back
LONG_VALUE_BYTES = 32_768  # longer values go one by one, so that a block of them stays within Arrow's 2 GiB of string offsets
SAMPLED_ROWS = 64  # a field that none of so many records has is seldom there, and costs a second parse when it is

FEW_CUTS = 384  # values with nested fields: below this it costs more to cut them than to parse the values one by one, in a block of any size

_FLAT_SCHEMA = pa.schema([pa.field(field.name, pa.int64() if field.name in NESTED else field.type) for field in WIRE])
_KNOWN = frozenset(_FLAT_SCHEMA.names)
_FLOATS = [field.name for field in WIRE if pa.types.is_floating(field.type)]

_Rows = NDArray[np.int64]


def parse_values(values: pa.BinaryArray) -> Parsed:
    """Parse the values of a block; never raises on bad bytes."""
    num_rows = len(values)
    parsed = Parsed.of_rows(num_rows)
    left = [np.arange(num_rows)]
    tables: list[pa.Table] = []
    order: list[_Rows] = []
    if num_rows >= FEW_ROWS:
        cut = cut_nested(values, LONG_VALUE_BYTES, FEW_CUTS)
        tables, order, left = _parse_flat(cut, np.flatnonzero(cut.flat))
        left.append(np.flatnonzero(~cut.flat))
    others = np.sort(np.concatenate(left))
    if len(others):
        more_tables, more_order = parse_records(values.take(pa.array(others)), others, parsed)
        tables += more_tables
        order += more_order
    parsed.columns = _without_minus_zero(pa.concat_tables(tables or [parsed.columns]))
    parsed.rows = np.concatenate(order or [np.zeros(0, np.int64)])
    return parsed


def _without_minus_zero(columns: pa.Table) -> pa.Table:
    """Return the columns with 0.0 for -0.0: of ``-0`` the ways of parsing make one or the other, and a state's bits would tell."""
    for name in _FLOATS:
        if columns[name].null_count < columns.num_rows:
            columns = columns.set_column(columns.schema.get_field_index(name), columns.schema.field(name), pc.add(columns[name], 0.0))
    return columns


def _parse_flat(cut: Cut, flat: _Rows) -> tuple[list[pa.Table], list[_Rows], list[_Rows]]:
    """Parse the flat rows; return (tables, their rows, the rows that are left to be parsed one by one)."""
    tables: list[pa.Table] = []
    order: list[_Rows] = []
    left: list[_Rows] = []
    values = cut.rest
    is_whole = len(flat) == len(values)
    # Where some values are no flat objects, others are likely to hold wrong types: the groups are made before the first attempt.
    waiting = [flat] if is_whole else _by_shape(values, flat)
    regroup: Callable[[_Rows], list[_Rows]] = partial(_by_shape, values) if is_whole else _halves
    while waiting:
        rows = waiting.pop()
        table = _read_json(values if len(rows) == len(values) else take_values(values, rows)) if len(rows) >= FEW_ROWS else None
        if table is not None:
            table, is_right = _with_nested(table, cut.fields, rows)
            tables.append(table if is_right.all() else take(table, np.flatnonzero(is_right)))
            order.append(rows[is_right])
            left.append(rows[~is_right])
        elif len(rows) <= LEAF_ROWS:
            left.append(rows)
        else:
            waiting += regroup(rows)
            regroup = _halves
    return tables, order, left


def _with_nested(table: pa.Table, fields: dict[str, pa.Array], rows: _Rows) -> tuple[pa.Table, NDArray[np.bool_]]:
    """Return the `WIRE` columns of parsed rows, and false where a nested field holds a number of its own instead of what was cut out."""
    is_right = np.ones(len(rows), np.bool_)
    columns = {name: table[name] for name in table.column_names}
    for name in NESTED:
        numbers, column = columns.pop(name, None), fields.get(name)
        there = np.zeros(len(rows), np.bool_) if numbers is None or numbers.null_count == len(rows) else numbers.is_valid().to_numpy()
        if column is not None:
            columns[name] = column if len(rows) == len(column) else column.take(pa.array(rows))
            is_right &= there == columns[name].is_valid().to_numpy(zero_copy_only=False)
        else:
            is_right &= ~there
    nothing = {field.name: pa.nulls(len(rows), field.type) for field in WIRE if field.name not in columns}
    return pa.table([nothing.get(name, columns.get(name)) for name in WIRE.names], schema=WIRE), is_right


def _by_shape(values: pa.BinaryArray, rows: _Rows) -> list[_Rows]:
    """Return the rows of the common shapes together, and those of each rare shape."""
    groups = groups_of(shapes(values)[rows])
    rare = [rows[group] for group in groups if len(group) <= LEAF_ROWS]
    common = [rows[group] for group in groups if len(group) > LEAF_ROWS]
    return [*rare, common[0] if len(common) == 1 else np.sort(np.concatenate(common))] if common else rare


def _halves(rows: _Rows) -> list[_Rows]:
    return [rows[: len(rows) // 2], rows[len(rows) // 2 :]]


def _read_json(values: pa.BinaryArray) -> pa.Table | None:
    """Parse flat values, or return None when one of them is no object or holds a wrong type."""
    names = _sampled_names(values)
    text, _ = bytes_of(values)
    if names is None or not is_utf8(text):
        return None
    try:
        table = read_objects(text, pa.schema([_FLAT_SCHEMA.field(name) for name in names if name in _KNOWN]))
        if any(table[name].type != _FLAT_SCHEMA.field(name).type for name in _FLAT_SCHEMA.names if name in table.column_names):
            table = read_objects(text, _FLAT_SCHEMA)
    except pa.ArrowException:
        return None
    if table.num_rows != len(values) or not all(is_finite(column) for column in table.columns):
        return None
    return table.select([name for name in _FLAT_SCHEMA.names if name in table.column_names])


def _sampled_names(values: pa.BinaryArray) -> dict[str, None] | None:
    """Return the fields that some of the values have, in their order, which is the fastest to parse; None when a value is no object."""
    try:
        return dict.fromkeys(chain(*(orjson.loads(value) for value in values[:: -(-len(values) // SAMPLED_ROWS)].to_pylist())))
    except orjson.JSONDecodeError:
        return None
