"""Read the insides of many JSON objects and lists at once, by the places of their quotes.

Each reader takes the texts of n parts from behind the opening bracket to the closing one, and returns their column and the rows that it can't vouch
for: these may be wrong, or written in a way that is not looked for here. A part that is not among them is well formed, and reads as one by one.
Strings with escapes, and numbers whose text may not be what Python would write, are read by orjson in one call.
"""

from __future__ import annotations

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamrec.config import FLOAT32_MAX
from streamrec.events.blocks import read_objects
from streamrec.events.records import fact_text
from streamrec.events.schema import CONTEXT_TYPE, VECTORS_TYPE
from streamrec.events.shapes import bytes_of
from streamrec.events.strings import Parts, Strings, joined, spans, unescaped

FEW_NUMBERS = 16  # lists of numbers among which one is wrong are not halved below this

_COLON, _COMMA, _SPACE = (ord(sign) for sign in ":, ")
_SURE_CHARS = 16  # a number of so many characters has at most 15 digits beside its point, and these survive a float64
# From 0.0001 on, up to which Python writes no exponent, and without zeros at its end.
_SURE_NUMBER = r"^-?(?:[1-9][0-9]*(?:\.(?:0|[0-9]*[1-9]))?|0\.(?:0|[0-9]{0,3}[1-9](?:[0-9]*[1-9])?))$"
_WORDS = pa.array(["true", "false"])
_WRONG = object()
_NUMBERS = pa.schema([("v", pa.list_(pa.float64()))])

_Mask = NDArray[np.bool_]
_Places = NDArray[np.int64]
Column = tuple[pa.Array, _Places]
"""A column [rows of the block], and the rows that are not vouched for."""


def texts_of(parts: Parts) -> Column:
    """Read lists of strings."""
    strings, text = Strings(parts), parts.text
    after = text.take(strings.closes + 2, mode="clip")
    gap = strings.nexts - strings.closes
    goes_on = (text[strings.closes + 1] == _COMMA) & ((gap == 2) | ((gap == 3) & (after == _SPACE)))
    strings.reject(~np.where(strings.is_last, gap == 1, goes_on))
    texts, wrong = unescaped(parts, spans(parts, strings.opens + 1, strings.closes))
    strings.reject(wrong)
    kept = ~strings.is_bad[strings.parts]
    offsets, mask, bad = _layout(parts, strings.is_bad, strings.parts[kept])
    return pa.ListArray.from_arrays(offsets, _as_texts(texts, kept), mask=mask), bad


class _Entries:
    """Find the keys and values of objects whose values are strings, or bare: without quotes in them.

    Attributes:
        strings: The strings of the parts; receives what is wrong.
        keys: Which strings are keys. [e]
        parts: Which part each is in. [e]
        starts: Where each key's value begins, behind the quote if it has one. [e]
        ends: And where it ends. [e]
        is_bare: Whether it has none. [e]
    """

    def __init__(self, parts: Parts) -> None:
        text = parts.text
        strings = self.strings = Strings(parts)
        is_key = text.take(strings.closes + 1, mode="clip") == _COLON
        begins = strings.closes + 2
        begins = begins + (text.take(begins, mode="clip") == _SPACE)
        has_text = is_key & (begins == strings.nexts) & ~strings.is_last
        follows = np.zeros(len(is_key), np.bool_)  # a key whose value it is
        follows[1:] = has_text[:-1]
        strings.reject(is_key == follows)
        # What lies between a value and the next key: a comma, perhaps a space.
        ends = strings.nexts - 1
        ends = ends - (text.take(ends, mode="clip") == _SPACE)
        has_comma = text.take(ends, mode="clip") == _COMMA
        goes_on = np.where(is_key, has_comma & (ends > begins), has_comma & (ends == strings.closes + 1))
        at_end = np.where(is_key, strings.nexts > begins, strings.nexts == strings.closes + 1)
        strings.reject(~(has_text | np.where(strings.is_last, at_end, goes_on)))
        good = ~strings.is_bad[strings.parts]
        self.keys = np.flatnonzero(is_key & good)
        self.parts = strings.parts[self.keys]
        self.is_bare = ~has_text[self.keys]
        behind = self.keys + ~self.is_bare
        self.starts = np.where(self.is_bare, begins[self.keys], strings.opens[behind] + 1)
        last = strings.is_last[self.keys]
        self.ends = np.where(self.is_bare, np.where(last, strings.nexts[self.keys], ends[self.keys]), strings.closes[behind])

    def reject(self, wrong: _Mask) -> None:
        """Mark the parts of these entries. [e]."""
        self.strings.is_bad[self.parts[wrong]] = True

    def names(self, parts: Parts) -> pa.Array:
        """Return the keys [e], after looking for wrong and repeated ones."""
        names, wrong = unescaped(parts, spans(parts, self.strings.opens[self.keys] + 1, self.strings.closes[self.keys]))
        self.reject(wrong)
        codes = names.dictionary_encode()
        owner, kinds = self.parts, len(codes.dictionary)
        if kinds <= 64 and len(owner):
            firsts = np.flatnonzero(np.append(True, owner[1:] != owner[:-1]))
            seen = np.bitwise_or.reduceat(np.uint64(1) << codes.indices.to_numpy().astype(np.uint64), firsts)
            again = np.bitwise_count(seen) != np.diff(np.append(firsts, len(owner)))
            self.strings.is_bad[owner[firsts[again]]] = True
        else:
            pairs = np.sort(owner * kinds + codes.indices.to_numpy())
            self.strings.is_bad[pairs[1:][pairs[1:] == pairs[:-1]] // max(kinds, 1)] = True
        return names


def context_of(parts: Parts) -> Column:
    """Read objects of strings, numbers and booleans as maps of texts, without their nulls."""
    entries = _Entries(parts)
    names = entries.names(parts)
    found = spans(parts, entries.starts, entries.ends)
    texts, wrong = unescaped(parts, found, ~entries.is_bare)
    entries.reject(wrong)
    kept = np.ones(len(texts), np.bool_)
    bare = np.flatnonzero(entries.is_bare)
    odd = bare[~_reads_as_written(found.take(pa.array(bare)))]
    if len(odd):
        written, is_null, is_wrong = _written(found.take(pa.array(odd)))
        kept[odd[is_null]] = False
        entries.reject(_at(odd[is_wrong], len(texts)))
        texts = pc.replace_with_mask(texts, pa.array(_at(odd, len(texts))), written)
    kept &= ~entries.strings.is_bad[entries.parts]
    offsets, mask, bad = _layout(parts, entries.strings.is_bad, entries.parts[kept])
    return pa.MapArray.from_arrays(offsets, _as_texts(names, kept), _as_texts(texts, kept), type=CONTEXT_TYPE, mask=mask), bad


def vectors_of(parts: Parts) -> Column:
    """Read objects of lists of numbers as maps of float32."""
    entries = _Entries(parts)
    names = entries.names(parts)
    is_list = entries.is_bare & (parts.text.take(entries.starts, mode="clip") == ord("["))
    entries.reject(~is_list)
    lists = _number_lists(spans(parts, entries.starts, entries.ends))
    numbers = lists.flatten().to_numpy(zero_copy_only=False)
    wrong = lists.is_null().to_numpy(zero_copy_only=False)
    # Also what is no number. Of minus zero the sign depends on whether it is written as an integer.
    odd = ~(np.abs(numbers) <= FLOAT32_MAX) | ((numbers == 0) & np.signbit(numbers))
    wrong[pc.list_parent_indices(lists).to_numpy()[odd]] = True
    entries.reject(wrong)
    kept = ~entries.strings.is_bad[entries.parts]
    lists = lists.filter(pa.array(kept))
    with np.errstate(over="ignore"):
        small = pa.array(lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32))
    sizes = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    items = pa.ListArray.from_arrays(pa.array(_ends(sizes)), small)
    offsets, mask, bad = _layout(parts, entries.strings.is_bad, entries.parts[kept])
    return pa.MapArray.from_arrays(offsets, _as_texts(names, kept), items, type=VECTORS_TYPE, mask=mask), bad


def _number_lists(lists: pa.StringArray) -> pa.Array:
    """Return lists of float64, null where a text is none."""
    if not len(lists):
        return pa.array([], _NUMBERS.field("v").type)
    text, _ = bytes_of(pc.binary_join_element_wise('{"v":', lists, "}", ""))
    try:
        table = read_objects(text, _NUMBERS)
    except pa.ArrowException:
        table = None
    if table is not None and table.num_rows == len(lists) and table.column_names == _NUMBERS.names:
        return table["v"].combine_chunks()
    if len(lists) <= FEW_NUMBERS:
        return pa.nulls(len(lists), _NUMBERS.field("v").type)
    half = len(lists) // 2
    return pa.concat_arrays([_number_lists(lists.slice(0, half)), _number_lists(lists.slice(half))])


def _reads_as_written(bare: pa.StringArray) -> _Mask:
    """Return where a value is true, false, or a number that Python writes as it is written here. [n]; some of these may be left out."""
    sizes = pc.binary_length(bare).to_numpy()
    plain: _Mask = pc.ascii_is_decimal(bare).to_numpy(zero_copy_only=False) & (sizes <= _SURE_CHARS)
    plain &= (sizes == 1) | ~pc.starts_with(bare, "0").to_numpy(zero_copy_only=False)
    plain |= pc.is_in(bare, _WORDS).to_numpy(zero_copy_only=False)
    others = np.flatnonzero(~plain)
    if len(others):
        is_sure = pc.match_substring_regex(bare.take(pa.array(others)), _SURE_NUMBER).to_numpy(zero_copy_only=False)
        plain[others] = is_sure & (sizes[others] <= _SURE_CHARS)
    return plain


def _written(bare: pa.StringArray) -> tuple[pa.StringArray, _Mask, _Mask]:
    """Return bare values as texts, where they are null, and where they are no JSON. [n] each."""
    codes = bare.dictionary_encode()
    given = codes.dictionary
    try:
        read = orjson.loads(b"[" + joined(given, ",") + b"]")
    except orjson.JSONDecodeError:
        read = []
    if len(read) != len(given) or pc.any(pc.match_substring(given, ",")).as_py():
        read = [_read(text) for text in given.to_pylist()]
    places = codes.indices.to_numpy()
    texts = list(map(str, read)) if set(map(type, read)) <= {int, float} else [fact_text(fact) for fact in read]
    is_null, is_wrong = (np.array([fact is odd for fact in read])[places] for odd in (None, _WRONG))
    return pa.array(texts, pa.string()).take(codes.indices), is_null, is_wrong


def _read(text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return _WRONG


def _layout(parts: Parts, is_bad: _Mask, owners: _Places) -> tuple[pa.Array, pa.Array, _Places]:
    """Return the offsets [rows + 1] and the nulls [rows] of a column whose elements belong to these parts, and the bad rows."""
    sizes = np.zeros(parts.num_rows, np.int64)
    sizes[parts.rows] = np.bincount(owners, minlength=len(parts.rows))
    is_null = np.ones(parts.num_rows, np.bool_)
    is_null[parts.rows[~is_bad]] = False
    return pa.array(_ends(sizes)), pa.array(is_null), parts.rows[is_bad]


def _ends(sizes: NDArray[np.integer]) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)


def _at(places: _Places, size: int) -> _Mask:
    mask = np.zeros(size, np.bool_)
    mask[places] = True
    return mask


def _as_texts(texts: pa.StringArray, kept: _Mask) -> pa.StringArray:
    return texts if kept.all() else texts.filter(pa.array(kept))
