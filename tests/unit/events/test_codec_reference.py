"""The vectorised codec against a reference that takes one record at a time and shares no code with it."""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrec.config import EventsConfig
from streamrec.events import parse
from streamrec.events.codec import EventCodec
from streamrec.events.schema import LOG_ROW

CFG = EventsConfig(max_id_bytes=16)
NOW_MS = 1_700_000_000_000
IDS = {"event_id", "user_id", "item_id", "session_id", "request_id", "namespace"}
TEXTS = IDS | {"event_type", "title", "description", "locale"}
FIELDS = {
    "interaction": ("event_id", "user_id", "item_id", "event_type", "value", "event_time", "session_id", "request_id", "context"),
    "impression": ("event_id", "user_id", "event_time", "request_id", "items", "context"),
    "item_update": ("event_id", "item_id", "event_time", "title", "description", "categories", "price", "locale", "available", "vectors"),
    "deletion": ("event_id", "user_id", "event_time"),
}
OPTIONAL = {"value", "session_id", "request_id", "context", "title", "description", "categories", "price", "locale", "available", "vectors"}


def is_number(cell: Any) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def type_is_right(name: str, cell: Any) -> bool:
    if name in TEXTS:
        return isinstance(cell, str)
    if name in {"value", "price"}:
        return is_number(cell)
    if name == "event_time":
        return isinstance(cell, int) and not isinstance(cell, bool)
    if name == "available":
        return isinstance(cell, bool)
    if name in {"categories", "items"}:
        return isinstance(cell, list) and all(isinstance(part, str) for part in cell)
    if name == "context":
        return isinstance(cell, dict) and all(part is None or is_number(part) or isinstance(part, str | bool) for part in cell.values())
    return isinstance(cell, dict) and all(isinstance(part, list) and all(is_number(number) for number in part) for part in cell.values())


def reference(value: bytes | None) -> dict[str, Any] | str:
    """Return the valid event's fields, or the reason."""
    if not value:
        return "empty_value"
    try:
        record = orjson.loads(value)
    except orjson.JSONDecodeError:
        return "not_json"
    if not isinstance(record, dict):
        return "not_an_object"
    kind = record.get("kind", None)
    kind = "interaction" if kind is None else kind
    if not isinstance(kind, str):
        return "wrong_type"
    if kind not in FIELDS:
        return "unknown_kind"
    names = ("namespace", *FIELDS[kind])
    for name in names:
        if record.get(name) is not None and not type_is_right(name, record[name]):
            return "wrong_type"
        if name == "event_time" and isinstance(record.get(name), int) and record[name] >= 2**63:
            return "bad_time"
    event = {name: record.get(name) for name in names}
    reason = broken_rule(event)
    if reason:
        return reason
    for name in ("session_id", "request_id"):
        event[name] = event.get(name) or None
    if event.get("context") is not None:
        words = {True: "true", False: "false"}
        event["context"] = [(key, words[fact] if isinstance(fact, bool) else str(fact)) for key, fact in event["context"].items() if fact is not None]
    if event.get("vectors") is not None:
        event["vectors"] = [(key, pa.array(vector, pa.float32()).to_pylist()) for key, vector in event["vectors"].items()]
    return {**event, "kind": kind, "namespace": event["namespace"] or CFG.namespace}


def broken_rule(event: dict[str, Any]) -> str | None:
    if any(event[name] is None for name in event if name not in OPTIONAL | {"namespace"}):
        return "missing_field"
    for name in ("event_id", "user_id", "item_id", "session_id", "request_id", "namespace"):
        text = event.get(name)
        if text == "" and name not in {"session_id", "request_id"}:
            return "empty_id"
        if text and (len(text) > 64 or len(text.encode()) > 81 if name == "namespace" else len(text.encode()) > CFG.max_id_bytes):
            return "id_too_long"
    listed = event.get("items") or []
    if "" in listed:
        return "empty_id"
    if any(len(text.encode()) > CFG.max_id_bytes for text in listed):
        return "id_too_long"
    if "event_type" in event and event["event_type"] not in CFG.meanings:
        return "unknown_event_type"
    if not 0 <= event["event_time"] <= 253_402_300_799_999:
        return "bad_time"
    return "future_time" if event["event_time"] > NOW_MS + 86_400_000 else None


def log_rows(values: list[bytes | None]) -> pa.Table:
    size = len(values)
    columns = [["t"] * size, [3] * size, range(100, 100 + size), [NOW_MS] * size, [b"key"] * size, values]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, LOG_ROW, strict=True)], schema=LOG_ROW)


def assert_equal_to_reference(values: list[bytes | None]) -> None:
    decoded = EventCodec(CFG).decode(log_rows(values), NOW_MS)
    decoded.valid.validate(full=True)
    decoded.rejected.validate(full=True)
    valid = {row.pop("offset") - 100: row for row in decoded.valid.to_pylist()}
    rejected = {row["offset"] - 100: row for row in decoded.rejected.to_pylist()}
    assert sorted([*valid, *rejected]) == list(range(len(values)))
    assert list(valid) == sorted(valid)
    assert list(rejected) == sorted(rejected)
    for place, value in enumerate(values):
        wanted = reference(value)
        if isinstance(wanted, str):
            assert place in rejected, (value, wanted, valid[place])
            assert rejected[place]["reason"] == wanted, (value, rejected[place])
            assert rejected[place]["value"] == value
            assert len(rejected[place]["detail"]) < 400
        else:
            assert place in valid, (value, rejected.get(place))
            got = {name: cell for name, cell in valid[place].items() if cell is not None and name != "partition"}
            assert got == {name: cell for name, cell in wanted.items() if cell is not None}, value


ids = st.one_of(st.sampled_from(["a", "b", "user-1", "é", "x" * 16, "x" * 17, ""]), st.text(max_size=20), st.none(), st.integers(), st.booleans())
times = st.one_of(st.integers(0, NOW_MS), st.integers(-5, 5), st.sampled_from([2**63, 2**64, 10**30, NOW_MS + 86_400_001, 1.5, "5", True, -(2**63)]))
numbers = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.integers(), st.text(max_size=3), st.booleans())
leaves = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.floats(-1e6, 1e6), st.text(max_size=5))
json_values = st.recursive(
    leaves, lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3), max_leaves=5
)
records = st.fixed_dictionaries(
    {},
    optional={
        "kind": st.sampled_from(["interaction", "impression", "item_update", "deletion", "zzz", None, 5]),
        "namespace": st.one_of(st.just("shop"), ids),
        "event_id": ids,
        "user_id": ids,
        "item_id": ids,
        "event_type": st.sampled_from(["click", "purchase", "nonsense", "", 5, None]),
        "value": numbers,
        "event_time": times,
        "session_id": ids,
        "request_id": ids,
        "context": json_values,
        "title": st.one_of(st.sampled_from(["A {curly} title", "NaN: NaN", "[x]"]), ids),
        "categories": json_values,
        "price": numbers,
        "available": st.one_of(st.booleans(), st.integers(0, 1)),
        "vectors": st.one_of(st.just({"text": [0.5, 1]}), json_values),
        "items": st.one_of(st.lists(ids, max_size=3), json_values),
        "unknown": json_values,
    },
)
good = st.builds(
    lambda user, time: orjson.dumps({"event_id": "e", "user_id": user, "item_id": "i", "event_type": "click", "event_time": time}),
    st.sampled_from(["u1", "ü2"]),
    st.integers(0, NOW_MS),
)
fragments = st.sampled_from(
    [
        *(
            b"{",
            b"}",
            b"{}",
            b"[",
            b"]",
            b"null",
            b"\n",
            b"\r",
            b"\t",
            b" ",
            b",",
            b":",
            b'"',
            b"\\",
            b"NaN",
            b"-Infinity",
            b"1e999",
            b"\x00",
            b"\xff",
        ),
        *(
            b"\xef\xbb\xbf",
            b'"a":1',
            b'"user_id":',
            b'"x":NaN',
            b'"x":Inf',
            b"\\ud800",
            b"true",
            b"//",
            b"1",
            b"-",
            b".",
            b'{"a":1}',
            b'"event_time":5',
        ),
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    value = bytearray(draw(st.one_of(good, records.map(lambda record: json.dumps(record, ensure_ascii=False).encode("utf-8", "replace")))))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(value)))
        width = draw(st.integers(0, 3))
        value[place : place + width] = draw(st.one_of(fragments, st.binary(max_size=2)))
    return bytes(value)


values = st.one_of(
    good,
    records.map(lambda record: json.dumps(record).encode()),
    mutated(),
    st.lists(fragments, max_size=6).map(b"".join),
    st.tuples(good, good).map(b"".join),
    st.sampled_from([None, b"", b" ", b"null", b"{}", b"{}null", b"{}{}"]),
    st.binary(max_size=30),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(values, min_size=1, max_size=12))
def test_any_mix_of_bytes_decodes_as_the_reference_does(mix: list[bytes | None]) -> None:
    with mock.patch.multiple(parse, FEW_ROWS=1, LEAF_ROWS=1, FEW_CUTS=0):
        assert_equal_to_reference(mix)


@settings(max_examples=50, deadline=None)
@given(st.lists(values, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_a_few_bad_records_among_many_good_ones_decode_as_the_reference_does(mix: list[bytes | None], random: Any) -> None:
    many: list[bytes | None] = [
        orjson.dumps({"event_id": f"e{row}", "user_id": "u", "item_id": "i", "event_type": "view", "event_time": row}) for row in range(600)
    ]
    for value in mix:
        many.insert(random.randrange(len(many)), value)
    assert_equal_to_reference(many)


@pytest.mark.parametrize("tail", [b"", b"null", b"{}", b"5"])
def test_two_documents_in_one_value_never_shift_rows_even_when_another_value_is_empty(tail: bytes) -> None:
    one = b'{"event_id":"e","user_id":"u","item_id":"i","event_type":"click","event_time":5}'
    assert_equal_to_reference([one] * 300 + [one + one + tail, b""] + [one] * 300)
    assert_equal_to_reference([one] * 300 + [one + b" " + one + tail, b" ", None] + [one] * 300)
