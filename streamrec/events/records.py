"""Parse records one by one with orjson: the way of nested records, and of every record that the vectorised way does not take.

Each record is parsed alone, so that none can disturb another. Types are then checked a column at a time, and cell by cell only where a
column holds a wrong type. A key that is given twice counts with its last value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from streamrec.config import FLOAT32_MAX, MAX_TIME_MS
from streamrec.events.parsed import Parsed, say, shorten
from streamrec.events.schema import FIELDS_OF, WIRE, Kind, Reason

SLICE_ROWS = 1024  # records alive at once: more make Python's garbage collector walk them again and again


class _BadCellError(Exception):
    """A cell is not what its column holds; the arguments are the reason and what is allowed."""


def parse_records(values: pa.BinaryArray, rows: NDArray[np.int64], parsed: Parsed) -> tuple[list[pa.Table], list[NDArray[np.int64]]]:
    """Parse values one by one.

    Args:
        values: The n values.
        rows: Their rows [n] in the block, by which ``parsed`` names them.
        parsed: Receives the rejections.

    Returns:
        Tables with the `WIRE` schema, and the rows that each holds; together every row that is not rejected once.
    """
    tables, order = [], []
    for start in range(0, len(rows), SLICE_ROWS):
        some = rows[start : start + SLICE_ROWS]
        groups: dict[str | None, tuple[list[int], list[dict[str, Any]]]] = {}
        for row, value in zip(some.tolist(), values.slice(start, len(some)).to_pylist(), strict=True):
            record = _load(row, value, parsed)
            if record is None:
                continue
            own_rows, records = groups.setdefault(record.get("kind"), ([], []))
            own_rows.append(row)
            records.append(record)
        for kind, (own_rows, records) in groups.items():
            cells = _cells(kind, own_rows, records, parsed)
            kept = np.flatnonzero(parsed.reasons[own_rows] == 0)
            if len(kept):
                tables.append(_columns(cells, kept))
                order.append(np.array(own_rows, np.int64)[kept])
    return tables, order


def fact_text(fact: object) -> str | None:
    """Return a value of a context as text; None for null."""
    if type(fact) is bool:
        return "true" if fact else "false"
    return None if fact is None else str(fact)


def _load(row: int, value: bytes | None, parsed: Parsed) -> dict[str, Any] | None:
    """Return the record's object, or None after rejecting the row."""
    if not value:
        parsed.reject(row, Reason.EMPTY_VALUE, "null" if value is None else "0 bytes")
        return None
    try:
        record = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        parsed.reject(row, Reason.NOT_JSON, str(error))
        return None
    if type(record) is not dict:
        parsed.reject(row, Reason.NOT_AN_OBJECT, say(record))
        return None
    kind = record.get("kind")
    if kind is not None and type(kind) is not str:
        parsed.reject(row, Reason.WRONG_TYPE, f"kind: {say(kind)}, allowed a string")
        return None
    return record


def _cells(kind: str | None, rows: list[int], records: list[dict[str, Any]], parsed: Parsed) -> dict[str, list[Any]]:
    """Return the cells of each field that any record has, as Arrow takes them; rejects the rows that hold others."""
    known = _FIELDS.get(Kind.INTERACTION if kind is None else kind, {"kind"})
    present = known & set().union(*records)
    columns = {}
    for name in WIRE.names:
        if name in present:
            cells = [record.get(name) for record in records]
            columns[name] = cells if set(map(type, cells)) <= _RULES[name].plain else _convert(name, cells, rows, parsed)
    return columns


def _columns(cells: dict[str, list[Any]], kept: NDArray[np.int64]) -> pa.Table:
    places = kept.tolist()
    arrays = [
        pa.array([cells[field.name][place] for place in places], field.type) if field.name in cells else pa.nulls(len(places), field.type)
        for field in WIRE
    ]
    return pa.table(arrays, schema=WIRE)


def _convert(name: str, cells: Sequence[Any], rows: list[int], parsed: Parsed) -> list[Any]:
    rule = _RULES[name]
    converted: list[Any] = []
    for row, cell in zip(rows, cells, strict=True):
        try:
            if type(cell) not in rule.types:
                raise _BadCellError(Reason.WRONG_TYPE, f"{name}: {say(cell)}, allowed {rule.allowed}")
            converted.append(cell if type(cell) in rule.plain else rule.convert(name, cell))
        except _BadCellError as error:
            parsed.reject(row, *error.args)
            converted.append(None)
    return converted


def _same(_name: str, cell: Any) -> Any:
    return cell


def _number(_name: str, cell: int) -> float:
    return float(cell)  # Arrow refuses integers that a float64 rounds


def _time(name: str, cell: int) -> int:
    if not -(2**63) <= cell < 2**63:  # beyond int64, and so beyond the column
        raise _BadCellError(Reason.BAD_TIME, f"{name}: got {cell}, allowed 0 to {MAX_TIME_MS}")
    return cell


def _texts(name: str, cell: list[Any]) -> list[str]:
    if not set(map(type, cell)) <= {str}:
        raise _BadCellError(Reason.WRONG_TYPE, f"{name}: got an element that is no string, allowed a list of strings")
    return cell


def _context(name: str, cell: dict[str, Any]) -> list[tuple[str, str]]:
    pairs = []
    for key, fact in cell.items():
        if type(fact) not in {str, bool, int, float, type(None)}:
            raise _BadCellError(Reason.WRONG_TYPE, f"{name}.{shorten(key)}: {say(fact)}, allowed a string, a number, true or false")
        text = fact_text(fact)
        if text is not None:
            pairs.append((key, text))
    return pairs


def _vectors(name: str, cell: dict[str, Any]) -> list[tuple[str, NDArray[np.float32]]]:
    pairs = []
    for key, numbers in cell.items():
        if type(numbers) is not list or not set(map(type, numbers)) <= {int, float}:
            raise _BadCellError(Reason.WRONG_TYPE, f"{name}.{shorten(key)}: {say(numbers)}, allowed a list of numbers")
        vector = np.array(numbers, np.float64)
        if np.any(np.abs(vector) > FLOAT32_MAX):
            raise _BadCellError(Reason.WRONG_TYPE, f"{name}.{shorten(key)}: a number is too large for float32")
        pairs.append((key, vector.astype(np.float32)))
    return pairs


class _Rule(NamedTuple):
    """Say how a column's cells become Arrow's.

    Attributes:
        allowed: What the column holds, in words.
        types: The Python types that a cell may have.
        plain: Those among them that Arrow takes as they are.
        convert: Takes (name, cell) of the other types; raises `_BadCellError`.
    """

    allowed: str
    types: frozenset[type]
    plain: frozenset[type]
    convert: Callable[[str, Any], Any] = _same


_NULL = frozenset({type(None)})
_TEXT = _Rule("a string", _NULL | {str}, _NULL | {str})
_NUMBER = _Rule("a number", _NULL | {int, float}, _NULL | {float}, _number)
_LIST = _Rule("a list of strings", _NULL | {list}, _NULL, _texts)
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(WIRE.names, _TEXT),
    "value": _NUMBER,
    "price": _NUMBER,
    "event_time": _Rule("an integer of milliseconds", _NULL | {int}, _NULL, _time),
    "available": _Rule("true or false", _NULL | {bool}, _NULL | {bool}),
    "categories": _LIST,
    "items": _LIST,
    "context": _Rule("an object of strings, numbers and booleans", _NULL | {dict}, _NULL, _context),
    "vectors": _Rule("an object of lists of numbers", _NULL | {dict}, _NULL, _vectors),
}
_FIELDS: dict[str, frozenset[str]] = {kind: FIELDS_OF[kind] | {"kind", "namespace"} for kind in Kind}
