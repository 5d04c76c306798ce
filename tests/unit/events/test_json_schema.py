from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import streamrec
from streamrec.config import MAX_TIME_MS, parse_config
from streamrec.events.codec import EventCodec
from streamrec.events.json_schema import DEAD_LETTER, KINDS, event_schema, json_type, schema_of
from streamrec.events.schema import FIELD_MEANINGS, FIELDS_OF, LOG_ROW, REQUIRED_OF, WIRE, Kind, Reason
from streamrec.pipeline.dead_letters import dead_letters

FORMATS = (Path(streamrec.__file__).parents[1] / "docs" / "formats.md").read_text()
CODEC = EventCodec(parse_config({}).events)
NOW_MS = MAX_TIME_MS  # no time is in the future
ANY_EVENT = Draft202012Validator(event_schema())
OF_KIND = {kind: Draft202012Validator(schema_of(kind)) for kind in KINDS}


def codec_takes(record: Any) -> bool:
    row = {"topic": "t", "partition": 0, "offset": 0, "timestamp": 0, "key": None, "value": orjson.dumps(record)}
    return bool(CODEC.decode(pa.Table.from_pylist([row], schema=LOG_ROW), NOW_MS).valid.num_rows)


# Cells that only a configuration can judge are left out: ids stay short, event types known, numbers for integers whole without a fraction.
odd = st.sampled_from([None, True, False, 0, -1, 1.5, "", "text", [], ["a"], ["a", ""], ["a", 1], {}, {"a": 1.5}, {"a": ["b"]}, {"a": [1.5]}])
short_text = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=12)
good = {
    "kind": st.sampled_from([str(kind) for kind in Kind]),
    "event_type": st.sampled_from(["click", "purchase"]),
    "event_time": st.sampled_from([-1, 0, 1, MAX_TIME_MS, MAX_TIME_MS + 1, 2**63]),
    "value": st.one_of(st.integers(-9, 9), st.floats(allow_nan=False, allow_infinity=False)),
    "vectors": st.dictionaries(short_text, st.lists(st.one_of(st.integers(-9, 9), st.floats(allow_nan=False, allow_infinity=False)))),
    "context": st.dictionaries(short_text, st.one_of(short_text, st.integers(-9, 9), st.booleans(), st.none(), st.just([]))),
    "categories": st.lists(short_text),
    "items": st.lists(short_text),
    "available": st.booleans(),
    "price": st.integers(0, 9),
}


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    """A record that is mostly valid: some fields left out, some odd, one unknown."""
    kind = draw(st.sampled_from([None, *Kind]))
    names = WIRE.names if kind is None else ["kind", "namespace", *sorted(FIELDS_OF[kind])]
    record = {name: draw(good.get(name, short_text.filter(bool))) for name in names}
    if kind is not None:
        record["kind"] = str(kind)
    for name in draw(st.lists(st.sampled_from(names), max_size=2)):
        if draw(st.booleans()):
            record.pop(name, None)
        else:
            record[name] = draw(odd)
    if isinstance(record.get("event_type"), str):
        record["event_type"] = "click"
    return {**record, "a field of tomorrow": draw(odd)}


@given(records())
def test_the_schema_takes_exactly_what_the_codec_takes(record: dict[str, Any]) -> None:
    assert ANY_EVENT.is_valid(record) == codec_takes(record), [error.message for error in ANY_EVENT.iter_errors(record)]


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("name", WIRE.names)
def test_each_field_of_each_kind_is_judged_alike_whatever_it_holds(kind: Kind, name: str) -> None:
    full = {"event_id": "e", "user_id": "u", "item_id": "i", "event_type": "click", "event_time": 5, "items": ["i"]}
    for cell in (None, True, 0, 5, 1.5, "", "click", ["a"], [""], [1], {}, {"a": [1.5]}, {"a": [1e39]}, {"a": {}}, "missing"):
        record = {"kind": str(kind), **full, name: cell}
        if cell == "missing":
            del record[name]
        if name == "event_type" and cell == "" and kind is Kind.INTERACTION:
            continue  # an unknown event type is the configuration's matter
        assert ANY_EVENT.is_valid(record) == codec_takes(record), record


@pytest.mark.parametrize("record", [[], None, "text", 5, {}])
def test_what_is_no_event_is_rejected_by_both(record: Any) -> None:
    assert not ANY_EVENT.is_valid(record)
    assert not codec_takes(record)


@pytest.mark.parametrize("kind", KINDS)
def test_each_schema_is_one_and_says_its_version_and_every_fields_meaning(kind: str) -> None:
    schema = schema_of(kind)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:streamrec:wire:1:{kind}"
    assert schema["additionalProperties"] is True
    assert all(len(field["description"]) > 10 for field in schema["properties"].values())


def test_dead_letters_of_any_size_fit_their_schema() -> None:
    row = {"topic": "t", "partition": 0, "offset": 3, "reason": "not_json", "detail": "why", "key": None, "value": b"x" * 600_000}
    letters = [orjson.loads(record.value) for record in dead_letters(row)]
    assert len(letters) == 3
    assert all(OF_KIND[DEAD_LETTER].is_valid(letter) for letter in letters)
    assert not OF_KIND[DEAD_LETTER].is_valid({**letters[0], "offset": None})
    assert OF_KIND[DEAD_LETTER].schema["properties"]["reason"]["examples"] == list(Reason)


def rows_below(header: str) -> list[list[str]]:
    lines = FORMATS[FORMATS.index(header) :].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[: next(n for n, line in enumerate(lines) if not line)]]


def test_the_documented_fields_are_the_schemas() -> None:
    assert rows_below("| field | JSON type | meaning |") == [[name, json_type(name), FIELD_MEANINGS[name]] for name in WIRE.names]
    kinds = {row[0].split("`")[1]: row[1:] for row in rows_below("| kind | required | optional |")}
    assert set(kinds) == {str(kind) for kind in Kind}
    for kind in Kind:
        required, optional = ([name.strip() for name in cell.split(",")] for cell in kinds[kind])
        assert set(required) == set(REQUIRED_OF[kind])
        assert {*required, *optional} == FIELDS_OF[kind] | {"namespace"}
