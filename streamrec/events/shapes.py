"""Look at the bytes of many JSON values at once: where they lie, what shape they have, whether a fast parser may see them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_COLON, _SPACE = ord(":"), ord(" ")
_OTHER, _TEXT, _NUMBER, _WORD, _TIME = range(5)
_KINDS = np.full(256, _OTHER, np.uint8)  # of a value, by its first byte
_KINDS[ord('"')] = _TEXT
_KINDS[np.frombuffer(b"-0123456789", np.uint8)] = _NUMBER
_KINDS[np.frombuffer(b"tfn", np.uint8)] = _WORD
_TIME_DIGITS = 13  # of a time in milliseconds: a longer number in its place has a fraction, which no time may have
_PLACES = 64
_WEIGHTS = np.random.default_rng(0).integers(0, 2**64, 5 * _PLACES, np.uint64)  # by 5 · the place of a field in its record + its value's kind


def bytes_of(values: pa.BinaryArray) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the values' bytes, one after the other, and the offsets between them. [bytes], [n + 1]."""
    _, offsets_buffer, data_buffer = values.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32)[values.offset : values.offset + len(values) + 1].astype(np.int64)
    if data_buffer is None:
        return np.zeros(0, np.uint8), offsets - offsets[0]
    return np.frombuffer(data_buffer, np.uint8)[offsets[0] : offsets[-1]], offsets - offsets[0]


def flat_objects(values: pa.BinaryArray, longest: int) -> NDArray[np.bool_]:
    """Return [n], true where the value is ``{...}`` with no other brace, bracket or control character, and not longer than ``longest``."""
    text, offsets = bytes_of(values)
    sizes = np.diff(offsets)
    flat: NDArray[np.bool_] = (sizes >= 2) & (sizes <= longest)
    if values.null_count:
        flat &= values.is_valid().to_numpy(zero_copy_only=False)
    if not flat.any():
        return flat
    flat[flat] = (text[offsets[:-1][flat]] == ord("{")) & (text[offsets[1:][flat] - 1] == ord("}"))
    folded = text | 0x20  # makes a brace of a bracket
    marks, more = folded == ord("{"), folded == ord("}")
    marks |= more  # in place: new arrays of this size cost more than what is computed
    marks |= np.less(text, 0x20, out=more)
    places = np.flatnonzero(marks)
    if flat.all() and len(places) == 2 * len(flat):
        return flat  # each value has two at least
    flat &= np.diff(np.searchsorted(places, offsets)) == 2
    return flat


def is_utf8(text: NDArray[np.uint8]) -> bool:
    """Return whether the bytes are UTF-8."""
    if text.max(initial=0) < 0x80:
        return True
    try:
        text.tobytes().decode()
    except UnicodeDecodeError:
        return False
    return True


def shapes(values: pa.BinaryArray) -> NDArray[np.uint64]:
    """Return a number for each value's sequence of field types, as seen by the byte after each colon. [n].

    A guess that groups records, not a parse: colons inside strings count too.
    """
    text, offsets = bytes_of(values)
    colons = np.flatnonzero(text == _COLON).astype(np.int32)
    bounds = np.searchsorted(colons, offsets.astype(np.int32))
    place = np.arange(len(colons), dtype=np.int32) - np.repeat(bounds[:-1].astype(np.int32), np.diff(bounds))
    last = len(text) - 1
    first = text[np.minimum(colons + 1, last)]
    if (first == _SPACE).any():
        first = text[np.minimum(colons + 1 + (first == _SPACE), last)]
    kinds = _KINDS.take(first)
    numbers = np.flatnonzero(kinds == _NUMBER)
    after = text[np.minimum(colons[numbers] + _TIME_DIGITS + 1, last)]
    kinds[numbers[(after == ord(",")) | (after == ord("}"))]] = _TIME
    sums: NDArray[np.uint64] = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_WEIGHTS.take(place % _PLACES * 5 + kinds))])
    return sums[bounds[1:]] - sums[bounds[:-1]]


def groups_of(codes: NDArray[np.uint64]) -> list[NDArray[np.int64]]:
    """Return the places of each distinct code, ascending."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
