"""`streamrec dlq` neither lists nor shows nor sends letters of what a user did before asking to be forgotten."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import orjson
import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from streamrec.cli import app
from streamrec.config import LogConfig, parse_config
from streamrec.environment import tombstone_key
from streamrec.features.tombstones import Tombstones
from streamrec.log.base import LogAddress
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.layout import checkpoint_url
from streamrec.storage import open_storage

CFG = LogConfig()
Reject = Callable[..., None]
RowsOf = Callable[[str], pa.Table]
ASKED_MS, ASKED_AT = 1_763_999_999_000, 100
GONE = "gone"


def place(offset: int) -> str:
    return f"{CFG.events_topic}/0/{offset}"


def event(**changes: object) -> bytes:
    """An interaction without its type, which is why it is rejected."""
    return orjson.dumps({"event_id": "e1", "user_id": GONE, "item_id": "i1", "event_time": ASKED_MS - 5} | changes)


@pytest.fixture
def dlq(log: LogAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The verbs beside a state in which the user has asked, at offset 100 of partition 0."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STREAMREC_CONFIG", raising=False)
    tombstones = Tombstones(tombstone_key())
    tombstones.add("default", GONE, ASKED_MS, 0, ASKED_AT, until_ms=ASKED_MS + 4_000)
    store = CheckpointStore(open_storage(checkpoint_url(parse_config({}).state)))
    store.acquire()
    store.commit({"tombstones": tombstones.snapshot()}, {"batch": 1}, None)

    def call(verb: str, *arguments: str) -> Result:
        return CliRunner().invoke(app, ["dlq", verb, *arguments, "--broker", str(log)])

    return call


def listed(dlq: Callable[..., Result]) -> list[int]:
    result = dlq("list", "--json")
    assert result.exit_code == 0, result.stderr
    return [json.loads(line)["offset"] for line in result.stdout.splitlines()]


OF_THE_USER = {
    "whole": event(),
    "a time after the request, at a place before it": event(event_time=ASKED_MS + 5_000),
    "no time": orjson.dumps({"event_id": "e1", "user_id": GONE, "item_id": "i1"}),
    "cut off": event()[:-6],
    "cut off in spaces": b'{"user_id" : "gone" , "item_id": "i',
    "no user but the key": b"{",
    "no bytes": None,
    "an empty user": event(user_id=""),
    "a user that is no text": event(user_id=[GONE]),
    "a user that is true": event(user_id=True),
    "an empty namespace": event(namespace=""),
    "a namespace that is too long": event(namespace="x" * 65),
    "a namespace that is no text": event(namespace=7),
    "another user before it": b'{"user_id": "u1", "event_time": 5}' + event(),
    "another user in its bytes": event(user_id="u1"),
}


@pytest.mark.parametrize("name", OF_THE_USER)
def test_a_letter_of_before_the_request_is_neither_listed_nor_shown_nor_sent(
    dlq: Callable[..., Result], reject: Reject, rows_of: RowsOf, name: str
) -> None:
    reject([OF_THE_USER[name]], key=GONE.encode(), start=7)
    assert listed(dlq) == []
    told = dlq("list")
    assert "1 were left out: they are of users who have asked to be forgotten" in told.stderr
    for result in (dlq("show", place(7)), dlq("show", place(7), "--raw"), dlq("replay", place(7), "--set", "event_type=click")):
        assert result.exit_code == 1
        assert "asked to be forgotten" in result.stderr
        assert GONE not in result.stdout
    assert rows_of(CFG.events_topic).num_rows == 0


def test_a_letter_of_a_time_up_to_which_the_user_had_sent_ahead_is_left_out_at_any_place(dlq: Callable[..., Result], reject: Reject) -> None:
    reject([event(event_time=ASKED_MS + 4_000), event(event_time=ASKED_MS + 4_001)], key=GONE.encode(), start=ASKED_AT + 1)
    assert listed(dlq) == [ASKED_AT + 2]


OF_OTHERS = {
    "after the request": (GONE, event(event_time=ASKED_MS + 5_000), ASKED_AT + 1),
    "another user": ("u1", event(user_id="u1"), 7),
    "another namespace": (GONE, event(namespace="shop"), 7),
    "an item whose id is the user's": (GONE, b'{"kind": "item_update", "item_id": "gone"', 7),
    "no time, after the request": (GONE, orjson.dumps({"event_id": "e1", "user_id": GONE}), ASKED_AT + 1),
}


@pytest.mark.parametrize("name", OF_OTHERS)
def test_letters_of_others_and_of_after_the_request_are_there_as_before(dlq: Callable[..., Result], reject: Reject, name: str) -> None:
    key, value, offset = OF_OTHERS[name]
    reject([value], key=key.encode(), start=offset)
    assert listed(dlq) == [offset]
    assert dlq("show", place(offset)).exit_code == 0
    assert "left out" not in dlq("list").stderr


def test_a_letter_that_only_its_repair_gives_to_the_user_is_not_sent(dlq: Callable[..., Result], reject: Reject, rows_of: RowsOf) -> None:
    reject([orjson.dumps({"event_id": "e1", "item_id": "i1", "event_time": ASKED_MS - 5, "event_type": "click"})], key=None, start=7)
    result = dlq("replay", place(7), "--set", f"user_id={GONE}")
    assert result.exit_code == 1
    assert "asked to be forgotten" in result.stderr
    assert rows_of(CFG.events_topic).num_rows == 0


def test_of_many_letters_the_others_are_sent(dlq: Callable[..., Result], reject: Reject, rows_of: RowsOf) -> None:
    reject([event(), event(user_id="u1"), event()])
    result = dlq("replay", "--all", "--set", "event_type=click")
    assert result.exit_code == 1
    assert "1 sent to streamrec.events, 2 not sent" in result.stderr
    assert [orjson.loads(value)["user_id"] for value in rows_of(CFG.events_topic)["value"].to_pylist()] == ["u1"]


def test_with_another_key_than_the_states_nothing_is_shown(dlq: Callable[..., Result], reject: Reject, monkeypatch: pytest.MonkeyPatch) -> None:
    reject([event(user_id="u1")])
    monkeypatch.setenv("STREAMREC_TOMBSTONE_KEY", "another")
    result = dlq("list")
    assert result.exit_code == 1
    assert "STREAMREC_TOMBSTONE_KEY is not the key" in result.stderr
