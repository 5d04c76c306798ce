"""Dead letters by HTTP: shown cut and escaped, sent again once, and nothing of users who asked to be forgotten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from serve.letters import LOOKED_AT, MOST_BYTES, MOST_CHARS
from streamrec.config import LogConfig
from streamrec.config.keys import ApiKey, digest_of
from streamrec.environment import tombstone_key
from streamrec.features.tombstones import Tombstones
from streamrec.log.connect import local_address, open_admin, open_writer
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.dead_letters import dead_letters
from streamrec.pipeline.layout import checkpoint_url
from streamrec.storage import open_storage

CFG = LogConfig()
EVENT = {"event_id": "e1", "user_id": "u1", "item_id": "i1", "event_type": "click", "event_time": 1_764_000_000_000}
HOSTILE = b"<script>alert(1)</script>\x1b[2J\xe2\x80\xae" + "é".encode() * MOST_BYTES
Reject = Callable[..., None]


def place(offset: int) -> str:
    return f"{CFG.events_topic}/0/{offset}"


@pytest.fixture
def reject(tmp_path: Path) -> Reject:
    """Return a function that rejects records: values from an offset on."""
    address = local_address(tmp_path / "log")

    def send(*values: bytes | None, start: int = 0, detail: str = "why", key: bytes = b"u1") -> None:
        open_admin(address, CFG).ensure_topic(CFG.dead_letter_topic, 1)
        writer = open_writer(address, CFG)
        rows = [
            {"topic": CFG.events_topic, "partition": 0, "offset": start + n, "reason": "not_json", "detail": detail, "key": key, "value": value}
            for n, value in enumerate(values)
        ]
        writer.append(CFG.dead_letter_topic, [letter for row in rows for letter in dead_letters(row)])
        writer.close()

    return send


@pytest.fixture
def replica(serving: Any) -> Any:
    return serving(is_local=True, has_state=True)


def listed(replica: Any, last: int = 50) -> Any:
    answer = replica.ask("GET", f"/v1/stream/dead-letters?last={last}")
    assert answer.status == 200, answer.body
    return answer.body


def replayed(replica: Any, *places: str) -> Any:
    answer = replica.ask("POST", "/v1/stream/dead-letters:replay", {"places": list(places)})
    assert answer.status == 200, answer.body
    return answer.body


def test_bytes_that_mean_harm_are_escaped_and_cut(replica: Any, reject: Reject) -> None:
    reject(HOSTILE, b"\xff\x00" * MOST_BYTES, None, detail="\x1b[31m" + "x" * 1000, key=b"\xff" * 1000)
    text, binary, null = sorted(listed(replica)["letters"], key=lambda one: one["offset"])
    assert text["text"].startswith("<script>alert(1)</script>\\x1b[2J\\u202eé")
    assert (text["form"], text["is_cut"], text["bytes"]) == ("text", True, len(HOSTILE))
    assert MOST_BYTES - 2 < len(text["text"].encode().replace(b"\\x1b", b"?").replace(b"\\u202e", b"???")) <= MOST_BYTES
    assert (binary["form"], binary["text"][:6], len(binary["text"])) == ("hex", "ff 00 ", 3 * MOST_BYTES - 1)
    assert (null["text"], null["bytes"], null["is_cut"]) == ("", 0, False)
    assert text["detail"].startswith("\\x1b[31mxxx")
    assert len(text["detail"]) < MOST_CHARS + 10
    assert len(text["key"]) < 3 * MOST_CHARS


def test_the_newest_are_listed_and_of_a_long_topic_the_rest_is_not_read(replica: Any, reject: Reject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.letters.LOOKED_AT", 20)
    reject(*[b"{"] * 30)
    found = listed(replica, last=4)
    assert (found["records"], found["not_looked_at"], len(found["letters"])) == (30, 10, 4)
    assert {letter["offset"] for letter in listed(replica)["letters"]} == set(range(10, 30))
    assert "streamrec dlq" in replayed(replica, place(3))["refused"][0]["why"]
    assert LOOKED_AT == 1000


def test_a_letter_that_is_valid_now_is_sent_once_as_it_is_and_the_others_say_why_not(replica: Any, reject: Reject) -> None:
    reject(orjson.dumps(EVENT), b"{")
    done = replayed(replica, place(0), place(1), place(2), "nowhere", place(0))
    assert done["sent"] == [{"place": place(0), "to": place(0), "event_id": "e1"}]
    why = {one["place"]: one["why"] for one in done["refused"]}
    assert why.keys() == {place(1), place(2), "nowhere"}
    assert "it would be rejected again, not_json" in why[place(1)]
    assert "not a place" in why["nowhere"]
    replica.follow()
    assert [item["item_id"] for item in replica.ask("GET", "/v1/users/u1").body["items"]] == ["i1"]
    again = replayed(replica, place(0))
    assert (again["sent"], "sent before" in again["refused"][0]["why"]) == ([], True)
    assert {letter["offset"]: letter["replays"] for letter in listed(replica)["letters"]} == {0: 1, 1: 0}


def test_what_a_user_did_who_asked_to_be_forgotten_is_neither_shown_nor_sent(replica: Any, reject: Reject, tmp_path: Path) -> None:
    tombstones = Tombstones(tombstone_key())
    tombstones.add("default", "u1", EVENT["event_time"] + 1, 0, 100, until_ms=EVENT["event_time"] + 4_000)
    store = CheckpointStore(open_storage(checkpoint_url(str(tmp_path))))
    store.acquire()
    store.commit({"tombstones": tombstones.snapshot()}, {"batch": 1}, None)
    reject(orjson.dumps(EVENT))
    found = listed(replica)
    assert (found["letters"], found["left_out"]) == ([], 1)
    assert "asked to be forgotten" in replayed(replica, place(0))["refused"][0]["why"]


def test_a_deletion_is_sent_for_those_alone_who_may_delete_users(serving: Any, reject: Reject) -> None:
    reject(orjson.dumps({"kind": "deletion", "event_id": "d1", "user_id": "u1", "event_time": EVENT["event_time"]}))
    refused = replayed(serving(has_state=True, remote_promotion=True), place(0))
    assert (refused["sent"], "deletes a user" in refused["refused"][0]["why"]) == ([], True)
    assert replayed(serving(has_state=True, is_local=True), place(0))["sent"][0]["event_id"] == "d1"


def test_without_a_topic_nothing_was_rejected_and_without_a_state_nothing_is_shown(replica: Any, serving: Any, reject: Reject) -> None:
    assert (listed(replica)["letters"], replayed(replica, place(0))["sent"]) == ([], [])
    reject(b"{")
    refused = serving(is_local=True).ask("GET", "/v1/stream/dead-letters")
    assert (refused.status, "without a state" in refused.body["error"]["message"]) == (409, True)


def test_who_sends_letters_again_stands_in_the_log(serving: Any, reject: Reject, caplog: pytest.LogCaptureFixture) -> None:
    replica = serving(has_state=True, keys={"nights": ApiKey(sha256=digest_of(b"k"), scopes=("admin",))})
    bearer = ((b"x-api-key", b"k"), (b"x-request-id", b"r-1"))
    assert replica.ask("POST", "/v1/stream/dead-letters:replay", {"places": [place(0)]}, bearer).status == 200
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Audit")]
    assert line == f"Audit: replay of 1 dead letters, {place(0)!r} first, asked by key 'nights', request 'r-1'"
