from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import orjson
import pyarrow as pa
import pytest

from streamrec.config import EventsConfig
from streamrec.errors import DataError
from streamrec.events import parse
from streamrec.events.codec import Decoded, EventCodec, encode, encode_table, key_of
from streamrec.events.schema import (
    EVENT,
    REASONS,
    REJECTED,
    Deletion,
    EventId,
    Impression,
    Interaction,
    ItemId,
    ItemUpdate,
    Namespace,
    Reason,
    RequestId,
    SessionId,
    UserId,
)

NOW_MS = 1_700_000_000_000
GOOD = {"event_id": "e", "user_id": "u", "item_id": "i", "event_type": "click", "event_time": 5}
UPDATE = {"kind": "item_update", "event_id": "e", "item_id": "i", "event_time": 5}
LogRows = Callable[[list[bytes | None]], pa.Table]


@pytest.fixture
def decode(log_rows: LogRows) -> Callable[..., Decoded]:
    def run(*values: bytes | dict[str, Any] | None, cfg: EventsConfig | None = None) -> Decoded:
        rows = log_rows([orjson.dumps(value) if isinstance(value, dict) else value for value in values])
        return EventCodec(cfg or EventsConfig()).decode(rows, NOW_MS)

    return run


REFUSED: list[tuple[str, bytes | dict[str, Any] | None]] = [
    ("empty_value", None),
    ("empty_value", b""),
    ("not_json", b"   "),
    ("not_json", b"hello"),
    ("not_json", b'{"event_id": "e"'),
    ("not_json", b'{"a":1}{"b":2}'),
    ("not_json", b"{}null"),
    ("not_json", b"\xef\xbb\xbf" + orjson.dumps(GOOD)),
    ("not_json", orjson.dumps(GOOD).replace(b'"u"', b'"\xff"')),
    ("not_json", orjson.dumps(GOOD).replace(b'"u"', b'"\\ud800"')),
    ("not_json", orjson.dumps(GOOD)[:-1] + b',"value":NaN}'),
    ("not_json", orjson.dumps(GOOD)[:-1] + b',"value":-Infinity}'),
    ("not_json", orjson.dumps(GOOD)[:-1] + b',"value":1e999}'),
    ("not_json", orjson.dumps(GOOD)[:-1] + b',"other":NaN}'),
    ("not_json", orjson.dumps(GOOD)[:-1] + b',"other":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ("not_json", b"[" * 100_000),
    ("not_json", b'{"a":' * 100_000),
    ("not_an_object", b"null"),
    ("not_an_object", b"[{}]"),
    ("not_an_object", b"5"),
    ("not_an_object", b'"text"'),
    ("unknown_kind", {**GOOD, "kind": "zzz"}),
    ("unknown_kind", {**GOOD, "kind": ""}),
    ("missing_field", b"{}"),
    ("missing_field", {**GOOD, "item_id": None}),
    ("missing_field", {"kind": "impression", "event_id": "e", "user_id": "u", "event_time": 5}),
    ("missing_field", {**UPDATE, "item_id": None}),
    ("missing_field", {"kind": "deletion", "event_id": "e", "event_time": 5}),
    ("wrong_type", {**GOOD, "kind": 5}),
    ("wrong_type", {**GOOD, "user_id": 5}),
    ("wrong_type", {**GOOD, "user_id": {"id": 5}}),
    ("wrong_type", {**GOOD, "value": "5"}),
    ("wrong_type", {**GOOD, "value": True}),
    ("wrong_type", {**GOOD, "event_time": 5.0}),
    ("wrong_type", {**GOOD, "event_time": "2020-01-01"}),
    ("wrong_type", {**GOOD, "event_time": True}),
    ("wrong_type", {**GOOD, "context": ["phone"]}),
    ("wrong_type", {**GOOD, "context": {"device": {"name": "phone"}}}),
    ("wrong_type", {**UPDATE, "available": 1}),
    ("wrong_type", {**UPDATE, "categories": "shoes"}),
    ("wrong_type", {**UPDATE, "categories": ["shoes", 5]}),
    ("wrong_type", {**UPDATE, "vectors": {"text": [1, "2"]}}),
    ("wrong_type", {**UPDATE, "vectors": {"text": [1e39]}}),
    ("wrong_type", {"kind": "impression", "event_id": "e", "user_id": "u", "event_time": 5, "items": [1]}),
    ("empty_id", {**GOOD, "user_id": ""}),
    ("empty_id", {**GOOD, "namespace": ""}),
    ("empty_id", {"kind": "impression", "event_id": "e", "user_id": "u", "event_time": 5, "items": ["a", ""]}),
    ("id_too_long", {**GOOD, "user_id": "x" * 513}),
    ("id_too_long", {**GOOD, "user_id": "x" * 10_000_000}),
    ("id_too_long", {**GOOD, "session_id": "é" * 257}),
    ("id_too_long", {**GOOD, "namespace": "x" * 65}),
    ("id_too_long", {**GOOD, "namespace": "商" * 28}),
    ("unknown_event_type", {**GOOD, "event_type": "nonsense"}),
    ("unknown_event_type", {**GOOD, "event_type": ""}),
    ("bad_time", {**GOOD, "event_time": -1}),
    ("bad_time", {**GOOD, "event_time": 253_402_300_800_000}),
    ("bad_time", {**GOOD, "event_time": 2**63}),
    ("future_time", {**GOOD, "event_time": NOW_MS + 86_400_001}),
]


@pytest.mark.parametrize("padding", [0, 300])
@pytest.mark.parametrize(("reason", "value"), REFUSED)
def test_a_bad_record_is_rejected_alone_with_its_reason_place_and_bytes(
    decode: Callable[..., Decoded], reason: str, value: bytes | dict[str, Any] | None, padding: int
) -> None:
    decoded = decode(*[GOOD] * padding, value, *[GOOD] * padding)
    assert decoded.valid["offset"].to_pylist() == [*range(100, 100 + padding), *range(101 + padding, 101 + 2 * padding)]
    (row,) = decoded.rejected.to_pylist()
    assert (row["topic"], row["partition"], row["offset"], row["reason"], row["key"]) == ("t", 3, 100 + padding, reason, b"key")
    assert row["value"] == (orjson.dumps(value) if isinstance(value, dict) else value)
    assert 0 < len(row["detail"]) < 400


def test_every_reason_has_a_meaning_and_a_record_that_shows_it() -> None:
    assert set(REASONS) == set(Reason) == {reason for reason, _ in REFUSED}
    assert all(meaning.endswith(".") and "\n" not in meaning for meaning in REASONS.values())


@pytest.mark.parametrize("padding", [0, 300])
def test_odd_but_valid_records_are_kept(decode: Callable[..., Decoded], padding: int) -> None:
    odd = [
        b'{"event_id":"old","event_id":"new","user_id":"u","item_id":"i","event_type":"click","event_time":5}',
        orjson.dumps({**GOOD, "event_id": "brace } in { text ["}),
        orjson.dumps({**GOOD, "event_id": "e: NaN"}),
        b'{\r"event_id":"return","user_id":"u","item_id":"i","event_type":"click","event_time":5}',
        b'{\n"event_id":"line",\n"user_id":"u","item_id":"i","event_type":"click","event_time":5}\n',
        b' {"event_id":"space","user_id":"u","item_id":"i","event_type":"click","event_time":-0} ',
        b'{"event_id":"\\ud83d\\ude00\\u0000","user_id":"u","item_id":"i","event_type":"click","event_time":5}',
        orjson.dumps({**GOOD, "event_id": "foreign", "title": 5, "items": "none of an interaction's fields", "other": [{}]}),
        orjson.dumps({**GOOD, "event_id": "tolerated", "event_time": NOW_MS + 86_400_000, "value": 9_007_199_254_740_993, "session_id": ""}),
    ]
    decoded = decode(*[GOOD] * padding, *odd)
    assert decoded.rejected.num_rows == 0
    rows = decoded.valid.slice(padding).to_pylist()
    wanted = ["new", "brace } in { text [", "e: NaN", "return", "line", "space", "😀\0", "foreign", "tolerated"]
    assert [row["event_id"] for row in rows] == wanted
    assert rows[-1]["value"] == 9_007_199_254_740_992.0
    assert rows[-1]["session_id"] is None
    assert rows[-2]["title"] is None
    assert rows[-2]["items"] is None


def test_the_tables_have_the_stated_schemas_also_when_nothing_comes(decode: Callable[..., Decoded]) -> None:
    for values in ([], [GOOD], [b"bad"], [GOOD, b"bad"]):
        decoded = decode(*values)
        assert decoded.valid.schema == EVENT
        assert decoded.rejected.schema == REJECTED


def test_an_absent_namespace_and_kind_become_the_defaults(decode: Callable[..., Decoded]) -> None:
    decoded = decode(GOOD, {**GOOD, "namespace": "books"}, cfg=EventsConfig(namespace="shop"))
    assert decoded.valid["namespace"].to_pylist() == ["shop", "books"]
    assert decoded.valid["kind"].to_pylist() == ["interaction", "interaction"]


def test_the_configuration_says_which_ids_types_and_times_are_allowed(decode: Callable[..., Decoded]) -> None:
    meanings = {"listen": {"role": "target"}}
    cfg = EventsConfig.model_validate({"max_id_bytes": 8, "future_tolerance_s": "1s", "meanings": meanings})
    values = [
        {**GOOD, "event_type": "listen"},
        GOOD,
        {**GOOD, "event_type": "listen", "user_id": "x" * 9},
        {**GOOD, "event_type": "listen", "event_time": NOW_MS + 1001},
    ]
    decoded = decode(*values, cfg=cfg)
    assert decoded.valid["offset"].to_pylist() == [100]
    assert decoded.rejected["reason"].to_pylist() == ["unknown_event_type", "id_too_long", "future_time"]


def test_a_row_stays_the_same_however_the_rows_are_split_into_calls_and_chunks(log_rows: LogRows) -> None:
    values: list[bytes | None] = [orjson.dumps({**GOOD, "event_id": f"e{row}"}) if row % 7 else b"bad" for row in range(700)]
    rows, codec = log_rows(values), EventCodec(EventsConfig())
    whole = codec.decode(rows, NOW_MS)
    parts = [codec.decode(rows.slice(start, 90), NOW_MS) for start in range(0, 700, 90)]
    assert pa.concat_tables(part.valid for part in parts).to_pylist() == whole.valid.to_pylist()
    assert pa.concat_tables(part.rejected for part in parts).to_pylist() == whole.rejected.to_pylist()
    chunked = codec.decode(pa.concat_tables([rows.slice(0, 1), rows.slice(1, 0), rows.slice(1)]), NOW_MS)
    assert chunked.valid.to_pylist() == whole.valid.to_pylist()


def test_rows_with_other_string_types_are_taken_too(log_rows: LogRows) -> None:
    rows = log_rows([orjson.dumps(GOOD)])
    large = rows.set_column(5, "value", rows["value"].cast(pa.large_binary())).append_column("headers", pa.nulls(1))
    assert EventCodec(EventsConfig()).decode(large, NOW_MS).valid.num_rows == 1


def test_the_codec_survives_pickling(log_rows: LogRows) -> None:
    codec = pickle.loads(pickle.dumps(EventCodec(EventsConfig(max_id_bytes=8))))
    assert codec.decode(log_rows([orjson.dumps({**GOOD, "user_id": "x" * 9})]), NOW_MS).rejected.num_rows == 1


EVENTS = [
    Interaction(EventId("e1"), UserId("u"), ItemId("i"), "click", 5),
    Interaction(
        EventId("e2"),
        UserId("ü"),
        ItemId("i"),
        "rating",
        6,
        value=4.5,
        session_id=SessionId("s"),
        request_id=RequestId("r"),
        namespace=Namespace("shop"),
        context={"device": "phone", "width": 320, "dark": True},
    ),
    Impression(EventId("e3"), UserId("u"), (ItemId("a"), ItemId("b")), 7, request_id=RequestId("r")),
    ItemUpdate(
        EventId("e4"),
        ItemId("i"),
        8,
        title="A lamp",
        description="bright",
        categories=("home", "light"),
        price=9.5,
        locale="en",
        available=False,
        vectors={"text": (0.5, -1.0)},
    ),
    Deletion(EventId("e5"), UserId("u"), 9),
]


def test_what_is_encoded_is_decoded_to_the_same(decode: Callable[..., Decoded]) -> None:
    decoded = decode(*(encode(event) for event in EVENTS))
    assert decoded.rejected.num_rows == 0
    rows = [{name: cell for name, cell in row.items() if cell is not None} for row in decoded.valid.to_pylist()]
    place = {"partition": 3}
    one, two, three, four, five = rows
    assert one == {"kind": "interaction", "namespace": "default", **GOOD, "event_id": "e1", "offset": 100, **place}
    assert two["context"] == [("device", "phone"), ("width", "320"), ("dark", "true")]
    assert (two["value"], two["session_id"], two["request_id"], two["namespace"]) == (4.5, "s", "r", "shop")
    assert three["items"] == ["a", "b"]
    assert (four["vectors"], four["categories"], four["price"], four["available"]) == ([("text", [0.5, -1.0])], ["home", "light"], 9.5, False)
    assert five == {"kind": "deletion", "namespace": "default", "event_id": "e5", "user_id": "u", "event_time": 9, "offset": 104, **place}


def test_a_decoded_table_is_encoded_to_the_same_events(decode: Callable[..., Decoded]) -> None:
    valid = decode(*(encode(event) for event in EVENTS)).valid
    keys, values = encode_table(valid)
    assert keys == [key_of(event) for event in EVENTS] == [b"u", "ü".encode(), b"u", b"i", b"u"]
    again = decode(*values)
    assert again.valid.to_pylist() == valid.to_pylist()


def test_a_row_without_an_owner_can_not_be_encoded() -> None:
    with pytest.raises(DataError, match="row 1 has no key"):
        encode_table(pa.table({"event_id": ["a", "b"], "user_id": ["u", None]}))


def good_events(num: int) -> list[dict[str, Any]]:
    return [{**GOOD, "event_id": f"e{number}", "event_time": 1_600_000_000_000 + number} for number in range(num)]


def test_a_block_with_bad_records_of_every_kind_loses_only_these_and_no_row_shifts(decode: Callable[..., Decoded]) -> None:
    values: list[bytes | dict[str, Any] | None] = list(good_events(2000))
    bad = {37 * place: value for place, (_, value) in enumerate(REFUSED[: 2000 // 37])}
    for row, value in bad.items():
        values[row] = value
    decoded = decode(*values)
    assert decoded.rejected["offset"].to_pylist() == [100 + row for row in bad]
    assert decoded.rejected["reason"].to_pylist() == [reason for reason, _ in REFUSED[: len(bad)]]
    rows = [row for row in range(2000) if row not in bad]
    assert decoded.valid["offset"].to_pylist() == [100 + row for row in rows]
    assert decoded.valid["event_id"].to_pylist() == [f"e{row}" for row in rows]


def test_records_that_hold_wrong_types_leave_the_rest_to_the_vectorised_way(decode: Callable[..., Decoded], monkeypatch: pytest.MonkeyPatch) -> None:
    alone: list[int] = []
    parse_records = parse.parse_records

    def counted(values: pa.BinaryArray, *rest: Any) -> Any:
        alone.append(len(values))
        return parse_records(values, *rest)

    monkeypatch.setattr(parse, "parse_records", counted)
    values = good_events(4000)
    for row in range(0, 4000, 100):
        wrong = [{"user_id": 5}, {"event_time": 1_600_000_000_000.5}, {"value": "1"}, {"context": None, "user_id": {"id": 5}}]
        values[row] = {**values[row], **wrong[row // 100 % 4]}
    decoded = decode(*values)
    assert decoded.rejected["reason"].to_pylist() == ["wrong_type"] * 40
    assert decoded.valid.num_rows == 3960
    assert sum(alone) == 40


def test_no_two_values_make_one_document_between_them(decode: Callable[..., Decoded]) -> None:
    begins, ends = b'{"event_id":"x}', b'{","user_id":"u","item_id":"i","event_type":"click","event_time":5}'
    decoded = decode(*good_events(300), begins, ends, *good_events(300))
    assert decoded.rejected["offset"].to_pylist() == [400, 401]
    assert decoded.rejected["reason"].to_pylist() == ["not_json", "not_json"]


@pytest.mark.parametrize("new", [{"device": "phone"}, {"width": 5}, {"width": "5"}, {"when": "2026-11-25"}, {"flags": [1, {"a": None}]}, {"x": None}])
def test_readers_take_new_optional_fields_also_where_only_some_records_have_them(decode: Callable[..., Decoded], new: dict[str, Any]) -> None:
    values = [{**event, **(new if row % 3 == 0 else {"width": 1.5} if row % 3 == 1 else {})} for row, event in enumerate(good_events(600))]
    decoded = decode(*values)
    assert decoded.rejected.num_rows == 0
    assert decoded.valid.schema == EVENT
    assert decoded.valid["event_id"].to_pylist() == [f"e{row}" for row in range(600)]


@pytest.mark.parametrize("rare", [{"session_id": "2026-11-25"}, {"value": 5}, {"value": 2.5}, {"session_id": None}])
def test_a_field_that_few_records_have_is_read_with_its_own_type(decode: Callable[..., Decoded], rare: dict[str, Any]) -> None:
    values = [{**event, **(rare if row == 601 else {})} for row, event in enumerate(good_events(1000))]
    decoded = decode(*values)
    assert decoded.rejected.num_rows == 0
    (name, value), *_ = rare.items()
    assert decoded.valid[name].to_pylist() == [value if row == 601 else None for row in range(1000)]
