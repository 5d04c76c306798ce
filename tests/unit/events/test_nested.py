"""Nested fields that are read by their quotes against the same records one by one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from unittest import mock

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrec.config import EventsConfig
from streamrec.events import codec, entries, parse
from streamrec.events.codec import Decoded, EventCodec

NOW_MS = 1_700_000_000_000
CODEC = EventCodec(EventsConfig(max_id_bytes=16))
LogRows = Callable[[list[bytes | None]], pa.Table]
GOOD = {"event_id": "e", "user_id": "u", "item_id": "i", "event_type": "click", "event_time": 5}
SHOWN = {"kind": "impression", "event_id": "e", "user_id": "u", "event_time": 5, "items": ["a", "b"]}
UPDATE = {"kind": "item_update", "event_id": "e", "item_id": "i", "event_time": 5, "categories": ["home"], "vectors": {"text": [0.5, 1]}}
DELETION = {"kind": "deletion", "event_id": "e", "user_id": "u", "event_time": 5}
MEETS_SPEED = [
    {**GOOD, "context": {"device": "phone", "width": 320, "dark": True, "dwell_s": 1.25, "referrer": None}},
    GOOD,
    {**GOOD, "context": {"ü": 'a "quoted" {text}, with: signs [and] \\ 😀', "temperature": -1.5, "big": 2**60}},
    {**GOOD, "context": {}},
    SHOWN,
    {**SHOWN, "items": []},
    UPDATE,
    {**UPDATE, "vectors": {"text": [0.5, -1e-3], "image": [], "sound": [7]}, "categories": ["ü, [x]", ""]},
    DELETION,
]


def decode(rows: pa.Table, **settings_of_parse: int) -> Decoded:
    with mock.patch.multiple(parse, **settings_of_parse):
        return CODEC.decode(rows, NOW_MS)


def assert_ways_agree(rows: pa.Table) -> None:
    alone = decode(rows, FEW_ROWS=rows.num_rows + 1)
    for together in (decode(rows, FEW_ROWS=1, LEAF_ROWS=1, FEW_CUTS=0), decode(rows, FEW_CUTS=0)):
        together.valid.validate(full=True)
        together.rejected.validate(full=True)
        # As texts: 0.0 equals -0.0, and a state's bits differ.
        assert repr(together.valid.to_pylist()) == repr(alone.valid.to_pylist())
        assert repr(together.rejected.to_pylist()) == repr(alone.rejected.to_pylist())


def rows_alone(decoding: Callable[[], Decoded]) -> tuple[Decoded, int]:
    """Return the decoded, and how many values were parsed one by one for it."""
    with mock.patch.object(parse, "parse_records", wraps=parse.parse_records) as counted:
        decoded = decoding()
    return decoded, sum(len(call.args[0]) for call in counted.call_args_list)


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("escaped", [True, False])
def test_nested_records_of_all_kinds_decode_at_once_and_as_one_by_one(log_rows: LogRows, separators: tuple[str, str], *, escaped: bool) -> None:
    records = [record for record in MEETS_SPEED if "{text}" not in str(record) and "[x]" not in str(record)]
    values: list[bytes | None] = [json.dumps(record, ensure_ascii=escaped, separators=separators).encode() for record in records * 50]
    decoded, num_alone = rows_alone(lambda: decode(log_rows(values), FEW_CUTS=0))
    assert num_alone == 0
    assert decoded.rejected.num_rows == 0
    assert_ways_agree(log_rows(values))
    assert_ways_agree(log_rows([orjson.dumps(record) for record in MEETS_SPEED * 20]))


BAD = [
    *(orjson.dumps({**GOOD, "context": context}) for context in ({"a": [1]}, {"a": {"b": 1}}, [1], "text", 5, 0, True)),
    orjson.dumps({**GOOD, "user_id": 5, "context": {"a": 1}}),
    *(orjson.dumps({**SHOWN, "items": items}) for items in ([1], ["a", None], [["a"]], {}, {"a": 1}, "a", 0, None, [""], ["x" * 17])),
    *(orjson.dumps({**UPDATE, "categories": categories}) for categories in ([1], [None], ["a", 5], 0)),
    *(orjson.dumps({**UPDATE, "vectors": vectors}) for vectors in ({"a": [1, "2"]}, {"a": [1e39]}, {"a": None}, {"a": 1}, {"a": [None]}, [[1]], 0)),
]
CONTEXT = b'{"event_id":"e","user_id":"u","item_id":"i","event_type":"click","event_time":5,"context":'
ITEMS = b'{"kind":"impression","event_id":"e","user_id":"u","event_time":5,"items":'
VECTORS = b'{"kind":"item_update","event_id":"e","item_id":"i","event_time":5,"vectors":'
MALFORMED_CONTEXTS = r"""
    {"a":1,}  {"a":01}  {"a":1 2}  {"a"}  {"a":}  {:1}  {"a":1"b":2}  {"a":"x""b":2}  {"a":"x":"y"}  {"a",1}  {,"a":1}  {"a":NaN}  {"a":tru}
    {"a":"\x"}  {"a":"\ud800"}  {"a\":1}  {"a"\u003a1}  {5:1}  {"a":1}5  {"a":1}.5  {"a":1}e5  {"a":1} 5  {"a":1}"x":5
    ["a":1}  {"a":1]  {"a":1}}{  {"a":1},
    {"a":1e999}  {"a":\"x"}  {"a":1\"}
"""
MALFORMED_ITEMS = r"""["a",]  [,"a"]  ["a""b"]  ["a" "b"]  ["a":"b"]  ["a","b]  ["a\"]  ["a"}  ["a"]]  [["a"]  ["a"\n]  ["a","b"] "c" """
MALFORMED_VECTORS = """
    {"a":[1,]}  {"a":[NaN]}  {"a":[1}  {"a":[1],[2]}  {"a":[1]"b":[2]}  {[1]}  {"a":[01]}  {"a":[1]]}  {"a":[1] 5}  {"a":1],"b":[2]}  {"a":[1e999]}
"""
MALFORMED = [
    head + tail.encode() + b"}"
    for head, tails in ((CONTEXT, MALFORMED_CONTEXTS), (ITEMS, MALFORMED_ITEMS), (VECTORS, MALFORMED_VECTORS))
    for tail in tails.replace("\n", "  ").split("  ")
    if tail.strip()
]
MALFORMED += [CONTEXT + b'{"a":"\xff"}}', CONTEXT + b'{"a":"\n"}}', ITEMS + b'["\xc3"]}', VECTORS + b'{"\xc3":[1]}}']
ODD = [
    CONTEXT + b'{"a":1,"b":2,"a":"last"}}',
    CONTEXT + b'{"a":1,"\\u0061":null}}',
    CONTEXT + b'{"a":1},"context":{"b":2}}',
    CONTEXT + b'{"a":1},"items":[],"context":0}',
    CONTEXT + b'{"a":1},"cont\\u0065xt":0}',
    b'{"event_id":"e","user_id":"u","item_id":"i","event_type":"click","event_time":5,"cont\\u0065xt":{"a":1}}',
    b'{"event_id":",\\"context\\":{","user_id":"u","item_id":"i","event_type":"click","event_time":5,"x":"}"}',
    b'{"event_id":"e","user_id":"u","item_id":"i","event_type":"click","event_time":5,"x":{"context":{"a":1}}}',
    b'{"event_id":"e","user_id":"u","item_id":"i","event_type":"click","event_time":5,"my context":{"a":1}}',
    CONTEXT + b'{"a":-0,"b":-0.0,"c":1.50,"d":1E5,"e":1e-7,"f":1e16}}',
    CONTEXT + b'{"a":18446744073709551615,"b":18446744073709551616}}',
    CONTEXT + b'{"a" : 1 , "b":\t2}}',
    CONTEXT + b'{"a":1 , "b":  2 }}',
    CONTEXT + b' { "a":1}}',
    CONTEXT + b'{"path":"C:\\\\","b\\\\":1}}',
    VECTORS + b'{"a":[-0,-0.0,1e39],"a":[16777217]}}',
    VECTORS + b'{"a":[18446744073709551616,1E-50]},"categories":["\\ud83d\\ude00"]}',
    b'{"context":{"a":1},"event_id":"e","user_id":"u","item_id":"i","event_type":"click","event_time":5,"items":[1],"vectors":[]}',
]


@pytest.mark.parametrize("value", [*BAD, *MALFORMED, *ODD])
def test_a_bad_or_odd_nested_record_among_good_ones_decodes_as_one_by_one(log_rows: LogRows, value: bytes) -> None:
    good = [orjson.dumps(record) for record in MEETS_SPEED * 2]
    assert_ways_agree(log_rows([*good, value, *good, value, value]))
    assert_ways_agree(log_rows([value] * 24))


def test_bad_nested_fields_leave_the_rest_to_the_vectorised_way(log_rows: LogRows) -> None:
    records = [{**GOOD, "context": {"device": "phone", "width": 5}}, SHOWN, UPDATE]
    values: list[bytes | None] = [orjson.dumps({**records[row % 3], "event_id": f"e{row}"}) for row in range(6000)]
    bad = [value for value in BAD if b'user_id":5' not in value]
    for row in range(0, 6000, 100):
        values[row] = bad[row // 100 % len(bad)]
    decoded, num_alone = rows_alone(lambda: CODEC.decode(log_rows(values), NOW_MS))
    assert num_alone <= 60 + 60 // 2 * entries.FEW_NUMBERS
    assert decoded.valid.num_rows + decoded.rejected.num_rows == 6000
    assert_ways_agree(log_rows(values))


def test_few_nested_records_among_flat_ones_are_parsed_alone(log_rows: LogRows) -> None:
    flat = {**GOOD, "event_time": 1_600_000_000_000}
    values: list[bytes | None] = [orjson.dumps(flat)] * 1000
    values[500] = orjson.dumps({**flat, "context": {"device": "phone"}})
    decoded, num_alone = rows_alone(lambda: CODEC.decode(log_rows(values), NOW_MS))
    assert num_alone == 1
    assert decoded.valid["context"].to_pylist()[499:502] == [None, [("device", "phone")], None]


def test_a_row_stays_the_same_when_its_block_is_cut_for_its_bytes(log_rows: LogRows, monkeypatch: pytest.MonkeyPatch) -> None:
    values: list[bytes | None] = [orjson.dumps(MEETS_SPEED[row % len(MEETS_SPEED)]) if row % 7 else BAD[row % len(BAD)] for row in range(1000)]
    whole = CODEC.decode(log_rows(values), NOW_MS)
    monkeypatch.setattr(codec, "BLOCK_BYTES", 5000)
    with mock.patch.object(codec, "parse_values", wraps=codec.parse_values) as parsed:
        cut = CODEC.decode(log_rows(values), NOW_MS)
    assert all(call.args[0].nbytes < 3 * 5000 for call in parsed.call_args_list)
    assert cut.valid.to_pylist() == whole.valid.to_pylist()
    assert cut.rejected.to_pylist() == whole.rejected.to_pylist()


def test_bad_records_of_one_kind_do_not_look_like_good_ones_of_another(log_rows: LogRows) -> None:
    when = {"event_time": 1_600_000_000_000}
    flat = {**GOOD, "value": 1.5}
    records = [flat, {**flat, "context": {"device": "phone"}}, SHOWN, {**UPDATE, "title": "a", "price": 1.5}]
    values: list[bytes | None] = [orjson.dumps({**records[row % 4], **when, "event_id": f"e{row}"}) for row in range(8000)]
    for row in range(0, 8000, 100):
        wrong = [{"user_id": 5}, {"value": "1.5"}, {"event_time": 1_600_000_000_000.5}][row // 100 % 3]
        values[row] = orjson.dumps({**records[row // 100 % 4], **when, **wrong})
    _, num_alone = rows_alone(lambda: CODEC.decode(log_rows(values), NOW_MS))
    assert num_alone <= 80 + 5  # a number at the end of the block may be taken for a time
    assert_ways_agree(log_rows(values))


def test_a_context_of_more_than_64_keys_and_one_that_repeats_a_key_are_told_apart(log_rows: LogRows) -> None:
    wide: list[bytes | None] = [orjson.dumps({**GOOD, "context": {f"key {row} {key}": key for key in range(20)}}) for row in range(40)]
    twice = orjson.dumps({**GOOD, "context": {"a": 1, "b": 2, "c": 3}}).replace(b'"c"', b'"a"')
    decoded, num_alone = rows_alone(lambda: decode(log_rows([*wide, twice]), FEW_CUTS=0))
    assert num_alone == 1
    assert decoded.valid["context"][40].as_py() == [("a", "3"), ("b", "2")]
    assert_ways_agree(log_rows([*wide, twice]))


scalars = st.one_of(
    st.sampled_from(
        ["0", "-0", "-0.0", "1.50", "1e5", "1E+2", "01", "1.", ".5", "NaN", "null", "true", "false", "1e999", "1" * 18, "1" * 19, "9" * 30]
    ),
    st.sampled_from(
        ["9223372036854775808", '"\\ud800"', '"\\ud83d\\ude00"', '"a\\"b"', '"a\\\\"', '"a,b:c"', '"{x}"', '"["', '""', '"null"', '"\\n"', "5 "]
    ),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers().map(str),
    st.text(max_size=6).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.text(max_size=6).map(json.dumps),
)
names = st.one_of(st.sampled_from(['"a"', '"b"', '"device"', '"\\u0061"', '""', '"a"']), st.text(max_size=4).map(json.dumps))
commas, colons = st.sampled_from([",", ",", ", ", " ,"]), st.sampled_from([":", ":", ": ", " :"])


@st.composite
def lists(draw: st.DrawFn, elements: st.SearchStrategy[str], ends: str = "[]") -> str:
    return ends[0] + draw(commas).join(draw(st.lists(elements, max_size=4))) + ends[1]


def objects(fields: st.SearchStrategy[str], keys: st.SearchStrategy[str] = names) -> st.SearchStrategy[str]:
    return lists(st.tuples(keys, colons, fields).map("".join), "{}")


texts = st.text(max_size=4).map(json.dumps)
numbers = st.one_of(st.integers(-9, 9).map(str), st.floats(-1e6, 1e6).map(repr), st.sampled_from(["-0", "1e39", "16777217", "1" * 25]))
anything = st.one_of(scalars, lists(scalars), objects(scalars), objects(lists(scalars)))
contexts = st.one_of(objects(scalars), objects(scalars), objects(anything), anything)
text_lists = st.one_of(lists(texts), lists(texts), lists(scalars), anything)
vectors = st.one_of(objects(lists(numbers)), objects(lists(numbers)), objects(anything), anything)
BASES = [
    ['"event_id":"e"', '"user_id":"u"', '"item_id":"i"', '"event_type":"click"', '"event_time":5'],
    ['"kind":"impression"', '"event_id":"e"', '"user_id":"u"', '"event_time":5'],
    ['"kind":"item_update"', '"event_id":"e"', '"item_id":"i"', '"event_time":5', '"title":"a {lamp}"'],
    ['"kind":"deletion"', '"event_id":"é"', '"user_id":"u"', '"event_time":5'],
]


@st.composite
def records(draw: st.DrawFn) -> str:
    kind = draw(st.integers(0, 3))
    fields = list(BASES[kind])
    own = [["context"], ["items"], ["categories", "vectors"], []][kind]
    more = draw(st.lists(st.sampled_from(["context", "items", "categories", "vectors", "unknown", "value", "cont\\u0065xt"]), max_size=2))
    by_name = {"context": contexts, "items": text_lists, "categories": text_lists, "vectors": vectors}
    for name in [*own, *(more if draw(st.integers(0, 3)) == 0 else [])]:
        fields.insert(draw(st.integers(0, len(fields))), f'"{name}"' + draw(colons) + draw(by_name.get(name, anything)))
    return "{" + draw(commas).join(fields) + "}"


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    value = bytearray(draw(records()).encode("utf-8", "replace"))
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.integers(0, len(value)))
        signs = st.sampled_from([b"", b'"', b",", b":", b"{", b"}", b"[", b"]", b"\\", b" ", b"0", b"\xff", b"\n", b'"context":{', b'"items":['])
        value[place : place + draw(st.integers(0, 2))] = draw(signs)
    return bytes(value)


written = records().map(lambda text: text.encode("utf-8", "replace"))
values = st.one_of(
    written, written, written, mutated(), st.tuples(written, written).map(b"".join), st.sampled_from([None, b"", b"{}", b"null", b"{}{}"])
)


@settings(max_examples=250, deadline=None)
@given(mix=st.lists(values, min_size=1, max_size=12))
def test_any_mix_of_nested_records_decodes_at_once_as_one_by_one(mix: list[bytes | None]) -> None:
    assert_ways_agree(rows_of(mix))


@settings(max_examples=40, deadline=None)
@given(mix=st.lists(values, min_size=1, max_size=4), random=st.randoms(use_true_random=False))
def test_a_few_records_of_any_bytes_among_many_nested_ones_decode_as_one_by_one(mix: list[bytes | None], random: Any) -> None:
    many: list[bytes | None] = [orjson.dumps(record) for record in MEETS_SPEED * 20]
    for value in mix:
        many.insert(random.randrange(len(many)), value)
    assert_ways_agree(rows_of(many))


def rows_of(values: list[bytes | None]) -> pa.Table:
    size = len(values)
    columns = [["t"] * size, [3] * size, range(size), [9] * size, [b"key"] * size, pa.array(values, pa.binary())]
    return pa.table(columns, names=["topic", "partition", "offset", "timestamp", "key", "value"])


@pytest.mark.parametrize("number", ["-0", "-0.0", "-0e0", "0e5", "1e-400", "9007199254740993"])
def test_a_number_has_the_same_bits_however_many_records_a_block_has(log_rows: LogRows, number: str) -> None:
    good = json.dumps(GOOD)[:-1].encode()
    update = json.dumps({**UPDATE, "vectors": {}})[:-1].encode()
    values: list[bytes | None] = [good + b', "value": ' + number.encode() + b"}", update + b', "price": ' + number.encode() + b"}"]
    assert_ways_agree(log_rows(values * 40))
