"""Cut the nested fields out of many JSON values at once, so that what is left is flat and the fields are columns of their own.

``{"event_id": "e", "context": {"device": "phone"}, "event_time": 5}`` becomes ``{"event_id": "e", "context": 0, "event_time": 5}`` and the text
``"device": "phone"}``, which `streamrec.events.entries` reads. Only brackets that follow a nested field's own key are cut. Before such a
bracket nothing is changed, so where the rest is one JSON object, the key is a key of that object; and where the part is well formed, the whole
value is. What is written in another way (escapes in the key, more space, a bracket inside a string) is not cut, and its value is left to be parsed
alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamrec.events.entries import context_of, texts_of, vectors_of
from streamrec.events.shapes import bytes_of, enclosed, marks_of
from streamrec.events.strings import Parts

_READERS = {"context": context_of, "vectors": vectors_of, "categories": texts_of, "items": texts_of}
NESTED = tuple(_READERS)
_OPENING = np.frombuffer(b"{{[[", np.uint8)  # of each of `NESTED`
_WINDOW = 16  # bytes before a bracket in which its key, and what stands before that, is looked for
_KEYS = [f'"{name}":'.encode().rjust(_WINDOW, b"\0") for name in NESTED]
_VECTORS = NESTED.index("vectors")

_Mask = NDArray[np.bool_]
_Places = NDArray[np.int64]


@dataclass(frozen=True)
class Cut:
    """Hold n values without their nested fields.

    Attributes:
        rest: The values; in the place of a field that was cut stands 0. [n]
        flat: Which of them are objects without other nested values. [n]
        fields: Nested column by name, null where nothing was cut or the value isn't flat. [n] each
    """

    rest: pa.BinaryArray
    flat: _Mask
    fields: dict[str, pa.Array]


class _Found(NamedTuple):
    """Nested fields in the order of the text: opening and closing bracket, row, place in `NESTED`."""

    starts: _Places
    ends: _Places
    rows: _Places
    names: _Places


def cut_nested(values: pa.BinaryArray, longest: int, few: int) -> Cut:
    """Cut the nested fields out of the values.

    Args:
        values: The n values.
        longest: Longer values are not flat.
        few: Fewer values with nested fields than this are not worth it, and not flat.
    """
    text, offsets = bytes_of(values)
    whole = enclosed(values, text, offsets, longest)
    if not whole.any():
        return Cut(values, whole, {})
    marks = marks_of(text)
    if whole.all() and np.count_nonzero(marks) == 2 * len(whole):
        return Cut(values, whole, {})  # each value has two at least
    marks[offsets[:-1][whole]] = False
    marks[offsets[1:][whole] - 1] = False
    places = np.flatnonzero(marks)
    bounds = np.searchsorted(places, offsets)
    has_marks = np.diff(bounds) > 0
    flat = whole & ~has_marks
    if np.count_nonzero(whole & has_marks) < few:
        return Cut(values, flat, {})
    text, offsets, places = np.concatenate([np.zeros(_WINDOW, np.uint8), text]), offsets + _WINDOW, places + _WINDOW
    found, cut = _fields_in(text, places, bounds, whole & has_marks)
    flat |= cut
    if not len(found.starts):
        return Cut(values, flat, {})
    rest, parts = _split(text, offsets, found)
    fields = {}
    for code in np.unique(found.names).tolist():
        own = np.flatnonzero(found.names == code)
        column, is_bad = _READERS[NESTED[code]](Parts(parts.take(pa.array(2 * own + 1)), found.rows[own], len(flat)))
        flat[is_bad] = False
        fields[NESTED[code]] = column
    return Cut(rest, flat, fields)


def _fields_in(text: NDArray[np.uint8], places: _Places, bounds: _Places, wanted: _Mask) -> tuple[_Found, _Mask]:
    """Return the nested fields of the wanted rows, and the rows that have no other brackets than these.

    Args:
        text: The values' bytes.
        places: Of the brackets and control characters, without those that enclose each value.
        bounds: Between the rows' places. [n + 1]
        wanted: The rows to look at. [n]
    """
    cut = wanted.copy()
    rows = np.repeat(np.arange(len(wanted)), np.diff(bounds))
    byte = text[places]
    steps = np.where((byte == ord("{")) | (byte == ord("[")), 1, -1)
    total = np.concatenate([np.zeros(1, np.int64), np.cumsum(steps)])
    depth = total[1:] - total[bounds[rows]]
    cut[rows[(depth < 0) | (depth > 2) | (byte < 0x20) | ((byte == ord("{")) & (depth == 2))]] = False
    cut[total[bounds[1:]] != total[bounds[:-1]]] = False
    if not cut[rows].all():
        kept = cut[rows]
        places, rows, byte, steps, depth = places[kept], rows[kept], byte[kept], steps[kept], depth[kept]
    is_open, is_close = (steps > 0) & (depth == 1), (steps < 0) & (depth == 0)  # these two alternate
    found = _Found(places[is_open], places[is_close], rows[is_open], _names(text, places[is_open]))
    wrong = found.names < 0
    wrong |= (byte[is_open] != _OPENING[found.names]) | (byte[is_close] != byte[is_open] + 2)  # the codes of [ ] and of { } are two apart
    after = text[found.ends + 1]
    wrong |= (after != ord(",")) & (after != ord("}")) & (after != ord(" "))
    cut[found.rows[wrong]] = False
    inner = depth + (steps < 0) == 2
    if inner.any():
        container = np.cumsum(is_open) - 1
        cut[rows[inner & (found.names[container] != _VECTORS)]] = False
    keys = np.sort(found.rows * len(NESTED) + found.names)
    cut[keys[1:][keys[1:] == keys[:-1]] // len(NESTED)] = False  # a field is there twice
    kept = cut[found.rows]
    return _Found(*(column[kept] for column in found)), cut


def _names(text: NDArray[np.uint8], starts: _Places) -> _Places:
    """Return which of `NESTED` is the key before each bracket, or -1; before the first value lie `_WINDOW` bytes of nothing."""
    colons = starts - 1
    colons = colons - (text[colons] == ord(" "))
    before = np.lib.stride_tricks.sliding_window_view(text, _WINDOW)[colons - _WINDOW + 1].view(np.uint64)
    names = np.full(len(starts), -1, np.int64)
    for code, key in enumerate(_KEYS):
        low, high = np.frombuffer(key, np.uint64)
        mask, _ = np.frombuffer(b"\0" * key.count(b"\0") + b"\xff" * _WINDOW, np.uint64, 2)
        places = np.flatnonzero((before[:, 1] == high) & (before[:, 0] & mask == low))
        ahead = text[colons[places] - len(key.lstrip(b"\0"))]
        names[places[(ahead == ord(",")) | (ahead == ord("{")) | (ahead == ord(" "))]] = code
    return names


def _split(text: NDArray[np.uint8], offsets: _Places, found: _Found) -> tuple[pa.BinaryArray, pa.BinaryArray]:
    """Return the values with 0 in the place of each field, and [2 * fields + 1] pieces, of which every second is a field behind its bracket.

    Args:
        text: Is changed: each opening bracket becomes a 0.
        offsets: Of the values in it. [n + 1]
        found: The fields.
    """
    text[found.starts] = ord("0")
    bounds = np.empty(2 * len(found.starts) + 2, np.int32)
    bounds[0], bounds[-1] = offsets[0], offsets[-1]
    bounds[1:-1:2], bounds[2:-1:2] = found.starts + 1, found.ends + 1
    parts = pa.BinaryArray.from_buffers(pa.binary(), len(bounds) - 1, [None, pa.py_buffer(bounds), pa.py_buffer(text)])
    joined = parts.take(pa.array(np.arange(0, len(parts), 2)))
    removed = np.concatenate([np.zeros(1, np.int64), np.cumsum(found.ends - found.starts)])
    ends = (offsets - offsets[0] - removed[np.searchsorted(found.starts, offsets)]).astype(np.int32)
    rest = pa.BinaryArray.from_buffers(pa.binary(), len(offsets) - 1, [None, pa.py_buffer(ends), joined.buffers()[2]])
    return rest, parts
