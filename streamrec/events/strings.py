"""Find the strings in the insides of many JSON objects and lists at once, by the places of their quotes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamrec.events.blocks import read_objects
from streamrec.events.shapes import bytes_of, is_utf8

_TEXTS, _NO_TEXTS = pa.schema([("v", pa.list_(pa.string()))]), pa.array([], pa.string())
_QUOTE, _BACKSLASH = ord('"'), ord("\\")

_Mask = NDArray[np.bool_]
_Places = NDArray[np.int64]


@dataclass(frozen=True)
class Parts:
    """Hold the insides of one field.

    Attributes:
        values: What follows the opening bracket, the closing one included. [n]
        rows: Their rows in the block, ascending. [n]
        num_rows: Of the block.
    """

    values: pa.BinaryArray
    rows: _Places
    num_rows: int

    @cached_property
    def text(self) -> NDArray[np.uint8]:
        """The bytes of all values, one after the other."""
        return bytes_of(self.values)[0]

    @cached_property
    def offsets(self) -> _Places:
        """Where each value begins, and where the last ends. [n + 1]."""
        return bytes_of(self.values)[1]

    @cached_property
    def has_escapes(self) -> bool:
        """Whether there is a backslash anywhere."""
        return bool((self.text == _BACKSLASH).any())


class Strings:
    """Find the strings in parts.

    Attributes:
        opens: Place of each string's opening quote. [s]
        closes: Of its closing quote. [s]
        nexts: Of the next string's opening quote, or of the part's closing bracket. [s]
        parts: Which part it is in. [s]
        is_last: Whether it is its part's last. [s]
        is_bad: By part, true where quotes, or what stands before the first, are not as they should be. [n]
    """

    def __init__(self, parts: Parts) -> None:
        text, offsets = parts.text, parts.offsets
        quotes = np.flatnonzero(text == _QUOTE)
        self.is_bad = _not_utf8(parts)
        if parts.has_escapes:
            is_escaped = text[quotes - 1] == _BACKSLASH
            # Behind two backslashes a quote may be a quote after all.
            doubtful = quotes[is_escaped & (text[quotes - 2] == _BACKSLASH)]
            self.is_bad[np.searchsorted(offsets, doubtful, "right") - 1] = True
            quotes = quotes[~is_escaped]
        counts = np.diff(np.searchsorted(quotes, offsets))
        self.is_bad |= counts % 2 == 1
        if self.is_bad.any():
            quotes = quotes[np.repeat(~self.is_bad, counts)]
            counts[self.is_bad] = 0
        self.opens, self.closes = quotes[0::2], quotes[1::2]
        self.parts = np.repeat(np.arange(len(counts)), counts // 2)
        lasts = np.cumsum(counts // 2)[counts > 0] - 1
        self.is_last = np.zeros(len(self.opens), np.bool_)
        self.is_last[lasts] = True
        self.nexts = np.append(self.opens[1:], 0)
        self.nexts[lasts] = offsets[1:][counts > 0] - 1
        starts = offsets[:-1]
        first = starts.copy()
        first[counts > 0] = self.opens[np.append(0, lasts[:-1] + 1)] if len(lasts) else 0
        self.is_bad |= np.where(counts > 0, first != starts, np.diff(offsets) != 1)

    def reject(self, wrong: _Mask) -> None:
        """Mark the parts of these strings. [s]."""
        self.is_bad[self.parts[wrong]] = True


def spans(parts: Parts, starts: _Places, ends: _Places) -> pa.StringArray:
    """Return the texts between ascending places. [n]."""
    if not len(starts):
        return _NO_TEXTS
    bounds = np.empty(2 * len(starts), np.int32)
    bounds[0::2], bounds[1::2] = starts, ends
    pieces = pa.StringArray.from_buffers(len(bounds) - 1, pa.py_buffer(bounds), pa.py_buffer(parts.text))
    return pieces.take(pa.array(np.arange(0, len(pieces), 2)))


def unescaped(parts: Parts, texts: pa.StringArray, where: _Mask | None = None) -> tuple[pa.StringArray, _Mask]:
    """Return the texts as they read, and true where one is no JSON string. [n] each.

    Args:
        parts: Where the texts are from.
        texts: As written between two quotes.
        where: The texts to look at; all, when left out. [n]
    """
    wrong = np.zeros(len(texts), np.bool_)
    if not parts.has_escapes or not len(texts):
        return texts, wrong
    mask = pc.match_substring(texts, "\\").to_numpy(zero_copy_only=False)
    mask = mask if where is None else mask & where
    written = texts.filter(pa.array(mask))
    if not len(written):
        return texts, wrong
    try:
        read = read_objects(np.frombuffer(b'{"v":["' + joined(written, '","') + b'"]}', np.uint8), _TEXTS)["v"].combine_chunks().flatten()
    except pa.ArrowException:
        read = _NO_TEXTS
    if len(read) != len(written):
        read = pa.array([_read(f'"{text}"') for text in written.to_pylist()], pa.string())
        wrong[mask] = read.is_null().to_numpy(zero_copy_only=False)
    return pc.replace_with_mask(texts, pa.array(mask), read), wrong


def joined(texts: pa.StringArray, separator: str) -> bytes:
    """Return the texts, which are not none, as one."""
    whole = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts)
    return memoryview(pc.binary_join(whole, separator).buffers()[2]).tobytes()


def _read(text: str) -> str | None:
    try:
        read = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return read if isinstance(read, str) else None


def _not_utf8(parts: Parts) -> _Mask:
    """Return which values are no UTF-8. [n]."""
    if is_utf8(parts.text):
        return np.zeros(len(parts.values), np.bool_)
    return np.array([not is_utf8(np.frombuffer(value, np.uint8)) for value in parts.values.to_pylist()])
