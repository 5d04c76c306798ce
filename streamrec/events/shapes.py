"""Look at the bytes of many JSON values at once: where they lie, what shape they have, whether a fast parser may see them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_COLON, _SPACE = ord(":"), ord(" ")
# What a field of each type adds to its record's shape.
_OTHER, _TEXT, _NUMBER, _WORD, _TIME = np.random.default_rng(0).integers(0, 2**64, 5, np.uint64)
_TYPES = np.full(256, _OTHER, np.uint64)  # of a value, by its first byte
_TYPES[np.frombuffer(b'"n', np.uint8)] = _TEXT  # null stands in the place of a text most of the time
_TYPES[np.frombuffer(b"-0123456789", np.uint8)] = _NUMBER
_TYPES[np.frombuffer(b"tf", np.uint8)] = _WORD
# Lest a wrong type here weighs up another one there, a field counts by a letter of its key: by the one that parts user_id, item_id and event_id.
_KEYS = np.random.default_rng(1).integers(0, 2**63, 256, np.uint64) * 2 + 1
_KEY_BYTE = 5  # before the colon
_TIME_DIGITS = 13  # of a time in milliseconds: a longer number in its place has a fraction, which no time may have


def bytes_of(values: pa.BinaryArray) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the values' bytes, one after the other, and the offsets between them. [bytes], [n + 1]."""
    _, offsets_buffer, data_buffer = values.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32)[values.offset : values.offset + len(values) + 1].astype(np.int64)
    if data_buffer is None:
        return np.zeros(0, np.uint8), offsets - offsets[0]
    return np.frombuffer(data_buffer, np.uint8)[offsets[0] : offsets[-1]], offsets - offsets[0]


def enclosed(values: pa.BinaryArray, text: NDArray[np.uint8], offsets: NDArray[np.int64], longest: int) -> NDArray[np.bool_]:
    """Return [n], true where the value is ``{...}`` and not longer than ``longest``, given what `bytes_of` says of the values."""
    sizes = np.diff(offsets)
    whole: NDArray[np.bool_] = (sizes >= 2) & (sizes <= longest)
    if values.null_count:
        whole &= values.is_valid().to_numpy(zero_copy_only=False)
    starts, ends = offsets[:-1], offsets[1:] - 1
    if whole.all():
        whole &= (text[starts] == ord("{")) & (text[ends] == ord("}"))
    else:
        whole[whole] = (text[starts[whole]] == ord("{")) & (text[ends[whole]] == ord("}"))
    return whole


def marks_of(text: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return [bytes], true where a brace, a bracket or a control character stands."""
    folded = text + np.uint8(1)  # of [ ] { } two bits differ then, which the next line sets; in place: a new array costs more than what is computed
    folded |= 0x22
    marks: NDArray[np.bool_] = folded == 0x7E
    if text.min(initial=0xFF) < 0x20:
        marks |= text < 0x20
    return marks


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
    """Return a number for which fields of which type each value has, as seen by the bytes before and after each colon. [n].

    A guess that groups records, not a parse: colons inside strings count too.
    """
    text, offsets = bytes_of(values)
    colons = np.flatnonzero(text == _COLON)
    bounds = np.searchsorted(colons, offsets)
    first = text.take(colons + 1, mode="clip")
    if (first == _SPACE).any():
        first = text.take(colons + 1 + (first == _SPACE), mode="clip")
    types = _TYPES.take(first)
    numbers = np.flatnonzero(types == _NUMBER)
    after = text.take(colons[numbers] + _TIME_DIGITS + 1, mode="clip")
    types[numbers[(after == ord(",")) | (after == ord("}"))]] = _TIME
    types *= _KEYS.take(text.take(colons - _KEY_BYTE, mode="clip"))
    sums: NDArray[np.uint64] = np.concatenate([np.zeros(1, np.uint64), np.cumsum(types)])
    return sums[bounds[1:]] - sums[bounds[:-1]]


def groups_of(codes: NDArray[np.uint64]) -> list[NDArray[np.int64]]:
    """Return the places of each distinct code, ascending."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
