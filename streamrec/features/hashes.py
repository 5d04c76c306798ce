"""Hash whole columns of ids to 64 bits, the same in every process, with numpy over Arrow's buffers.

Arrow has no kernel for it, and a call per id costs more than parsing the record it came in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_FIRST, _SECOND, _SHIFT = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53), np.uint64(33)
_WORD_BYTES = 8
_LOW_BYTES = np.array([2 ** (8 * size) - 1 for size in range(_WORD_BYTES + 1)], np.uint64)


def hash_ids(namespaces: pa.ChunkedArray, ids: pa.ChunkedArray) -> Hashes:
    """Return a hash of each (namespace, id), 0 where the id is null. [n] uint64.

    The id's length, seeded with the namespace's hash, takes in eight bytes at a time, each through the finaliser of MurmurHash3. Two given
    keys collide with a chance of 2⁻⁶⁴, so one key collides with any of a million others with 5·10⁻¹⁴. It is no keyed hash: who may write
    into the topic can find keys that collide, but can as well repeat an id.

    Args:
        namespaces: Strings without nulls; few distinct ones.
        ids: Strings.

    Example:
        >>> hash_ids(pa.chunked_array([["a", "b"]]), pa.chunked_array([["1", None]])).tolist()
        [7263706703664031915, 0]
    """
    names = namespaces.combine_chunks().dictionary_encode()
    seeds = _hash_strings(names.dictionary.cast(pa.string()), np.zeros(len(names.dictionary), np.uint64))
    codes = names.indices.to_numpy()
    column = ids.combine_chunks()
    hashes = _hash_strings(column, seeds[codes] if len(seeds) > 1 else np.repeat(seeds, len(column)))
    if column.null_count:
        hashes[column.is_null().to_numpy(zero_copy_only=False)] = 0
    return hashes


def hash_id(namespace: str, identifier: str) -> int:
    """Return what `hash_ids` gives for one key."""
    return int(hash_ids(pa.chunked_array([[namespace]], pa.string()), pa.chunked_array([[identifier]], pa.string()))[0])


def first_of_each(hashes: Hashes) -> NDArray[np.bool_]:
    """Return which places hold a value that no earlier place holds. [n] bool."""
    codes = pc.dictionary_encode(pa.array(hashes)).indices.to_numpy()  # numbers are given in order of appearance
    return np.diff(np.maximum.accumulate(codes), prepend=np.int32(-1)) > 0


def _hash_strings(column: pa.StringArray, seeds: Hashes) -> Hashes:
    _, offsets_buffer, data_buffer = column.buffers()
    if not len(column) or data_buffer is None:
        return _mixed(seeds)
    offsets = np.frombuffer(offsets_buffer, np.int32)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    text = np.frombuffer(data_buffer, np.uint8)[offsets[0] : offsets[-1]]
    sizes = np.diff(offsets)
    hashes = _mixed(seeds ^ sizes.astype(np.uint64))
    for rows, word in _words(text, offsets[:-1] - offsets[0], sizes):
        hashes[rows] = _mixed(hashes[rows] ^ word)
    return hashes


def _words(text: NDArray[np.uint8], starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> Iterator[tuple[Any, Hashes]]:
    """Yield, eight bytes at a time, the strings that go on and their next bytes as a number, padded with zeros."""
    longest, shortest = int(sizes.max()), int(sizes.min())
    num_words = -(-longest // _WORD_BYTES)
    if longest == shortest:
        padded = np.zeros((len(sizes), num_words * _WORD_BYTES), np.uint8)
        padded[:, :longest] = text.reshape(len(sizes), longest)
        yield from ((slice(None), word) for word in padded.view("<u8").T)
        return
    padded = np.concatenate([text, np.zeros(_WORD_BYTES, np.uint8)])
    at_byte: Hashes = np.ndarray(len(text) + 1, "<u8", padded, strides=(1,))
    for done in range(0, num_words * _WORD_BYTES, _WORD_BYTES):
        rows = slice(None) if done < shortest else np.flatnonzero(sizes > done)
        yield rows, at_byte[starts[rows] + done] & _LOW_BYTES[np.minimum(sizes[rows] - done, _WORD_BYTES)]


def _mixed(hashes: Hashes) -> Hashes:
    mixed = hashes ^ (hashes >> _SHIFT)
    mixed *= _FIRST
    mixed ^= mixed >> _SHIFT
    mixed *= _SECOND
    mixed ^= mixed >> _SHIFT
    return mixed
