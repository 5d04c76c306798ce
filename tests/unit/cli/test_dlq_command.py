from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import orjson
import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from streamrec.cli import app
from streamrec.config import LogConfig, parse_config
from streamrec.events.codec import EventCodec
from streamrec.log.base import LogAddress, Record
from streamrec.log.connect import open_admin, open_writer
from streamrec.pipeline.dead_letters import PART_BYTES

CFG = LogConfig()
EVENT = {"event_id": "e1", "user_id": "u1", "item_id": "i1", "event_type": "click", "event_time": 1_764_000_000_000}
PLACE = f"{CFG.events_topic}/0/0"
Reject = Callable[..., None]
RowsOf = Callable[[str], pa.Table]


def event(**changes: object) -> bytes:
    return orjson.dumps({name: cell for name, cell in {**EVENT, **changes}.items() if cell is not None})


@pytest.fixture
def dlq(log: LogAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STREAMREC_CONFIG", raising=False)

    def call(verb: str, *arguments: str, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(app, ["dlq", verb, *arguments, "--broker", str(log)], input=stdin)

    return call


@pytest.mark.parametrize("words", [["list"], ["show", PLACE], ["replay", "--all"]])
@pytest.mark.parametrize("broker", ["auto", "embedded"])
def test_where_no_log_ever_ran_none_is_started_to_say_so(words: list[str], broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STREAMREC_CONFIG", raising=False)
    monkeypatch.setattr("streamrec.cli.sending.resolve_broker", lambda *_, **__: pytest.fail("a broker was looked for"))
    refused = CliRunner().invoke(app, ["dlq", *words, "--set", f"log.broker={broker}"])
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith("Dead letters: there are none, no log has ever run on this state, got ")
    assert list(tmp_path.iterdir()) == []


def listed(dlq: Callable[..., Result], *arguments: str) -> list[dict[str, object]]:
    result = dlq("list", "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def applied(rows_of: RowsOf) -> list[tuple[bytes, str, str]]:
    """(key, event id, event type) of what the events topic holds; all of it decodes."""
    rows = rows_of(CFG.events_topic)
    decoded = EventCodec(parse_config({}).events).decode(rows, 1_790_000_000_000)
    assert decoded.rejected.num_rows == 0
    return list(zip(rows["key"].to_pylist(), decoded.valid["event_id"].to_pylist(), decoded.valid["event_type"].to_pylist(), strict=True))


def test_a_log_without_a_topic_of_dead_letters_says_what_creates_it(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["dlq", "list", "--broker", f"local://{tmp_path}/new"])
    assert result.exit_code != 0
    said = " ".join(result.stderr.split())
    assert "topic 'streamrec.dead-letters' does not exist" in said
    assert "start the stream (python -m jobs.stream), which creates its topics" in said
    assert "ensure_topic" not in said


def test_a_log_that_has_events_and_no_stream_yet_has_no_dead_letters(tmp_path: Path) -> None:
    address = f"local://{tmp_path}/new"
    with closing(open_admin(LogAddress.parse(address), CFG)) as admin:
        admin.ensure_topic(CFG.events_topic, 1)
    result = CliRunner().invoke(app, ["dlq", "list", "--broker", address])
    assert (result.exit_code, result.stdout) == (0, "")
    assert "0 dead letters: no stream has run on this log yet" in result.stderr
    assert CliRunner().invoke(app, ["dlq", "show", PLACE, "--broker", address]).exit_code == 1


def test_letters_are_listed_with_place_reason_size_and_detail(dlq: Callable[..., Result], reject: Reject) -> None:
    reject([b"{", event(event_type=None)])
    first, second = listed(dlq)
    assert (first["place"], first["reason"], first["bytes"], first["replays"]) == (PLACE, "not_json", 1, 0)
    assert (second["offset"], second["reason"]) == (1, "missing_field")
    assert "event_type" in str(second["detail"])
    lines = dlq("list").stdout.splitlines()
    assert [line.split()[:3] for line in lines] == [[PLACE, "not_json", "1"], [f"{CFG.events_topic}/0/1", "missing_field", str(second["bytes"])]]


def test_reason_and_last_filter_the_list(dlq: Callable[..., Result], reject: Reject) -> None:
    reject([b"{", b"[]", b"{", b"{"])
    assert [letter["offset"] for letter in listed(dlq, "--reason", "not_json", "--last", "2")] == [2, 3]
    for code in ("not_jsn", ""):
        wrong = dlq("list", "--reason", code)
        assert wrong.exit_code == 1
        assert f"no reason has this code, got {code!r}, allowed empty_value, not_json" in wrong.stderr


def test_what_a_crash_sent_twice_is_listed_once_and_parts_are_one_letter(dlq: Callable[..., Result], reject: Reject) -> None:
    large = b'"' + b"x" * (2 * PART_BYTES) + b'"'
    for _ in range(2):
        reject([large, b"{"])
    assert [(letter["reason"], letter["bytes"], letter["missing_parts"]) for letter in listed(dlq)] == [
        ("not_an_object", len(large), []),
        ("not_json", 1, []),
    ]
    assert dlq("show", PLACE, "--raw").stdout_bytes == large


def test_a_letter_whose_sender_died_between_its_parts_says_so_and_is_not_sent(
    dlq: Callable[..., Result], reject: Reject, rows_of: RowsOf, log: LogAddress
) -> None:
    reject([b'"' + b"x" * PART_BYTES + b'"'], start=9)
    second_part = rows_of(CFG.dead_letter_topic)["value"][1].as_py().replace(b'"offset": 9', b'"offset": 5')
    open_writer(log, CFG).append(CFG.dead_letter_topic, [Record(f"{CFG.events_topic}/0/5".encode(), second_part)])
    assert [(letter["offset"], letter["missing_parts"]) for letter in listed(dlq)] == [(9, []), (5, [0])]
    result = dlq("replay", f"{CFG.events_topic}/0/5")
    assert result.exit_code == 1
    assert "parts 0 of it are not in the topic" in result.stderr


def test_foreign_records_in_the_topic_are_counted_and_left_out(dlq: Callable[..., Result], reject: Reject, log: LogAddress) -> None:
    foreign = [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"topic": "t", "partition": 0, "offset": 1, "reason": "x", "detail": "", "key_base64": 1, "value_base64": 1}',
    ]
    open_writer(log, CFG).append(CFG.dead_letter_topic, [Record(None, value) for value in foreign])
    reject([b"{"])
    result = dlq("list", "--json")
    assert len(result.stdout.splitlines()) == 1
    assert "5 records of the topic can't be read as dead letters" in result.stderr


def test_show_gives_the_reasons_meaning_and_the_bytes_as_text_or_in_hex(dlq: Callable[..., Result], reject: Reject) -> None:
    reject(['{"é": \x1b[31m'.encode(), b"\xff\x00", None])
    shown = dlq("show", PLACE).stdout
    assert "not_json: The bytes are not exactly one JSON document" in shown
    assert shown.endswith('text:\n{"é": \\x1b[31m\n')
    assert dlq("show", f"{CFG.events_topic}/0/1").stdout.endswith("hex:\nff 00\n")
    assert "bytes     none (null)" in dlq("show", f"{CFG.events_topic}/0/2").stdout
    nothing = dlq("show", f"{CFG.events_topic}/0/7")
    assert (nothing.exit_code, nothing.stdout) == (1, "")
    assert "Dead letters: the topic holds none of streamrec.events/0/7" in nothing.stderr


def test_a_repaired_letter_is_sent_once_with_its_key_and_id(dlq: Callable[..., Result], reject: Reject, rows_of: RowsOf) -> None:
    reject([event(event_type="klick")], key=b"its own key")
    result = dlq("replay", PLACE, "--set", "event_type=click")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{PLACE} → {CFG.events_topic}/")
    assert applied(rows_of) == [(b"its own key", "e1", "click")]
    again = dlq("replay", PLACE, "--set", "event_type=click")
    assert (again.exit_code, again.stdout) == (0, "")
    assert "0 sent to streamrec.events, 0 not sent, 1 were sent before" in again.stderr
    assert len(applied(rows_of)) == 1
    assert [letter["replays"] for letter in listed(dlq)] == [1]
    assert "replayed" in dlq("list").stdout
    assert "as e1" in dlq("show", PLACE).stdout


def test_sending_again_is_asked_for_and_gets_a_new_event_id(dlq: Callable[..., Result], reject: Reject, rows_of: RowsOf) -> None:
    reject([event(event_type="klick")])
    for _ in range(3):
        assert dlq("replay", PLACE, "--again", "--set", "event_type=view").exit_code == 0
    assert dlq("replay", PLACE, "--again", "--set", "event_type=view", "--set", "event_id=e1").exit_code == 0
    assert [name for _, name, _ in applied(rows_of)] == ["e1", "e1~2", "e1~3", "e1"]


def test_what_would_be_rejected_again_is_not_sent(dlq: Callable[..., Result], reject: Reject, rows_of: RowsOf) -> None:
    reject([event(event_type="klick"), event(user_id=None), b"{"])
    result = dlq("replay", "--all", "--set", "event_type=click")
    assert result.exit_code == 1
    assert [name for _, name, _ in applied(rows_of)] == ["e1"]
    assert "streamrec.events/0/1: not sent, it would be rejected again, missing_field: user_id" in result.stderr
    assert "streamrec.events/0/2: not sent, Dead letter: its bytes are no JSON" in result.stderr
    assert "1 sent to streamrec.events, 2 not sent" in result.stderr
    assert [letter["replays"] for letter in listed(dlq)] == [1, 0, 0]


def test_all_letters_of_one_reason_are_sent_and_a_second_call_sends_nothing(dlq: Callable[..., Result], reject: Reject, rows_of: RowsOf) -> None:
    reject([event(event_id=f"e{number}", event_type="klick") for number in range(600)] + [b"{"])
    assert dlq("replay", "--reason", "unknown_event_type", "--set", "event_type=click").exit_code == 0
    assert dlq("replay", "--reason", "unknown_event_type", "--set", "event_type=click").stdout == ""
    assert len({name for _, name, _ in applied(rows_of)}) == len(applied(rows_of)) == 600


def test_a_letter_that_is_valid_by_now_is_sent_byte_for_byte(dlq: Callable[..., Result], reject: Reject, rows_of: RowsOf) -> None:
    value = event(event_time=1_764_000_000_000).replace(b",", b" ,  ")
    reject([value], now_ms=1_000_000_000_000)
    assert listed(dlq)[0]["reason"] == "future_time"
    assert dlq("replay", "--all").exit_code == 0
    assert rows_of(CFG.events_topic)["value"].to_pylist() == [value]


def test_a_whole_value_replaces_the_bytes_and_a_letter_without_a_key_gets_the_events(
    dlq: Callable[..., Result], reject: Reject, rows_of: RowsOf, tmp_path: Path
) -> None:
    reject([b"{", b"}"], key=None)
    (tmp_path / "fixed.json").write_bytes(event(user_id="u7") + b"\n")
    assert dlq("replay", PLACE, "--with", "fixed.json").exit_code == 0
    assert dlq("replay", f"{CFG.events_topic}/0/1", "--with", "-", "--key", "k", stdin=event(event_id="e2")).exit_code == 0
    assert sorted(applied(rows_of)) == [(b"k", "e2", "click"), (b"u7", "e1", "click")]


def test_fields_of_strings_are_taken_as_they_stand_and_an_empty_one_is_removed(dlq: Callable[..., Result], reject: Reject, rows_of: RowsOf) -> None:
    reject([event(user_id=42, value="3", session_id=7)])
    result = dlq("replay", PLACE, "--set", "user_id=42", "--set", "value=3.5", "--set", "session_id=")
    assert result.exit_code == 0, result.stderr
    assert orjson.loads(rows_of(CFG.events_topic)["value"][0].as_py()) == {**EVENT, "user_id": "42", "value": 3.5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "exactly one of PLACE…, --reason and --all"),
        ([PLACE, "--all"], "exactly one of PLACE…, --reason and --all"),
        (["events/1"], "not a place, got 'events/1', allowed TOPIC/PARTITION/OFFSET"),
        ([f"{CFG.events_topic}/0/9"], "the topic holds none of streamrec.events/0/9"),
        ([PLACE, "--set", "user=u"], "no field of an event, got 'user'"),
        ([PLACE, "--set", "user_id"], "a field to set does not parse"),
        ([PLACE, "--set", "event_time=soon"], "the value of event_time is no JSON"),
        ([PLACE, "--with", "nowhere.json"], "the file of --with can't be read"),
        ([PLACE, "--with", "-", "--set", "user_id=u"], "fields and a whole value can't both be given"),
        (["--all", "--set", "event_id=e2"], "are of one letter, got many letters"),
    ],
)
def test_a_wrong_request_sends_nothing_and_says_why(
    dlq: Callable[..., Result], reject: Reject, rows_of: RowsOf, arguments: list[str], message: str
) -> None:
    reject([event(event_type="klick")])
    result = dlq("replay", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert rows_of(CFG.events_topic).num_rows == 0
