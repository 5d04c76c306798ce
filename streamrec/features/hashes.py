"""Hash whole columns of ids to 64 bits, the same in every process, with numpy over Arrow's buffers.

Arrow has no kernel for it, and a call per id costs more than parsing the record it came in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_FIRST, _SECOND, _SHIFT = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53), np.uint64(33)
_WORD_BYTES = 8
_LOW_BYTES = np.array([2 ** (8 * size) - 1 for size in range(_WORD_BYTES + 1)], np.uint64)


def namespace_seeds(namespaces: pa.ChunkedArray) -> Hashes:
    """Return the hash of each namespace, which `hash_ids` starts from. [n] uint64."""
    whole = namespaces.combine_chunks()
    if _is_one(whole):
        return np.repeat(_hash_strings(whole[:1], np.zeros(1, np.uint64)), len(whole))
    names = whole.dictionary_encode()
    seeds = _hash_strings(names.dictionary.cast(pa.string()), np.zeros(len(names.dictionary), np.uint64))
    of_rows: Hashes = seeds[names.indices.to_numpy()]
    return of_rows


def hash_ids(seeds: Hashes, ids: pa.ChunkedArray) -> Hashes:
    """Return a hash of each (namespace, id), 0 where the id is null. [n] uint64.

    The id's length, seeded with the namespace's hash, takes in eight bytes at a time, each through the finaliser of MurmurHash3. Two given
    keys collide with a chance of 2⁻⁶⁴, so one key collides with any of a million others with 5·10⁻¹⁴. It is no keyed hash: who may write
    into the topic can find keys that collide, but can as well repeat an id.

    Args:
        seeds: What `namespace_seeds` gives. [n]
        ids: Strings.

    Example:
        >>> hash_ids(namespace_seeds(pa.chunked_array([["a", "b"]])), pa.chunked_array([["1", None]])).tolist()
        [7263706703664031915, 0]
    """
    column = ids.combine_chunks()
    hashes = _hash_strings(column, seeds)
    if column.null_count:
        hashes[column.is_null().to_numpy(zero_copy_only=False)] = 0
    return hashes


def hash_id(namespace: str, identifier: str) -> int:
    """Return what `hash_ids` gives for one key."""
    seeds = namespace_seeds(pa.chunked_array([[namespace]], pa.string()))
    return int(hash_ids(seeds, pa.chunked_array([[identifier]], pa.string()))[0])


def first_of_each(hashes: Hashes) -> NDArray[np.bool_]:
    """Return which places hold a value that no earlier place holds. [n] bool."""
    num = len(hashes)
    places = np.arange(num)
    slots = (hashes & np.uint64((1 << (8 * num).bit_length()) - 1)).astype(np.int64)
    owner = np.zeros(1 << (8 * num).bit_length(), np.int64)
    owner[slots[::-1]] = places[::-1]  # Of several places for one slot the one written last stays: the first.
    held = owner[slots]
    is_first: NDArray[np.bool_] = held == places
    others = np.flatnonzero(~is_first)
    shared = others[hashes[held[others]] != hashes[others]]  # The slot belongs to another value, and these to nobody yet.
    is_first[shared[np.unique(hashes[shared], return_index=True)[1]]] = True
    return is_first


def _hash_strings(column: pa.StringArray, seeds: Hashes) -> Hashes:
    if not len(column) or column.buffers()[2] is None:
        return _mixed(seeds)
    offsets, text = _bytes_of(column)
    sizes = np.diff(offsets)
    hashes = _mixed(seeds ^ sizes.astype(np.uint64))
    for rows, word in _words(text, offsets[:-1], sizes):
        hashes[rows] = _mixed(hashes[rows] ^ word)
    return hashes


def _is_one(column: pa.StringArray) -> bool:
    """Return whether all strings are the same, told from the bytes: a stream has one namespace most of the time."""
    if not len(column) or column.null_count:
        return False
    offsets, text = _bytes_of(column)
    size = int(offsets[1] - offsets[0])
    is_even: bool = size > 0 and bool((np.diff(offsets) == size).all())
    return is_even and bool((text[size:] == text[:-size]).all())


def _bytes_of(column: pa.StringArray) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the offsets [n + 1] between the strings, from 0, and their bytes."""
    _, offsets_buffer, data_buffer = column.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    text = np.zeros(0, np.uint8) if data_buffer is None else np.frombuffer(data_buffer, np.uint8)[offsets[0] : offsets[-1]]
    return offsets - offsets[0], text


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
