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
from streamrec.events.codec import EventCodec
from streamrec.events.json_schema import schema_of
from streamrec.log.base import LogAddress

CFG = LogConfig()
RowsOf = Callable[[str], pa.Table]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STREAMREC_CONFIG", raising=False)


def call(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, arguments, input=stdin)


def test_the_printed_schema_is_the_kinds() -> None:
    assert json.loads(call("schema", "--kind", "deletion").stdout) == schema_of("deletion")
    assert json.loads(call("schema").stdout)["$id"] == "urn:streamrec:wire:1:event"
    assert call("schema", "--json").stdout == call("schema").stdout
    wrong = call("schema", "--kind", "user")
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert "no such kind, got 'user', allowed interaction, impression, item_update, deletion, dead_letter" in wrong.stderr


def test_a_deletion_is_in_the_log_under_the_users_key_when_its_place_is_printed(log: LogAddress, rows_of: RowsOf) -> None:
    result = call("delete-user", "u 1", "--namespace", "shop", "--yes", "--broker", str(log))
    assert result.exit_code == 0, result.stderr
    rows = rows_of(CFG.events_topic)
    (event,) = EventCodec(parse_config({}).events).decode(rows, 2_000_000_000_000).valid.to_pylist()
    assert (event["kind"], event["namespace"], event["user_id"], rows["key"].to_pylist()) == ("deletion", "shop", "u 1", [b"u 1"])
    assert result.stdout == f"{CFG.events_topic}/{event['partition']}/{event['offset']} {event['event_id']}\n"
    assert call("delete-user", "u 1", "--yes", "--broker", str(log)).stdout.split()[1] != event["event_id"]


@pytest.mark.parametrize("confirmed", [True, False])
def test_a_deletion_says_before_it_is_sent_that_it_closes_the_way_back_also_where_nothing_is_known_of_the_user(
    log: LogAddress, monkeypatch: pytest.MonkeyPatch, confirmed: bool
) -> None:
    monkeypatch.setattr("streamrec.cli.delete_user._at_a_terminal", lambda: True)
    result = call("delete-user", "nobody", *(["--yes"] if confirmed else []), "--broker", str(log), stdin="n\n")
    (line,) = [line for line in result.stderr.splitlines() if "rolled back to" in line]
    assert "no version older than that step" in line
    assert "also where nothing is known of the user" in line
    assert result.stderr.find(line) < (result.stderr + "Delete user").find("Delete user")


def test_a_deletion_names_the_configured_namespace(log: LogAddress, rows_of: RowsOf) -> None:
    assert call("delete-user", "u1", "--yes", "--broker", str(log), "--set", 'events.namespace="shop"').exit_code == 0
    assert orjson.loads(rows_of(CFG.events_topic)["value"][0].as_py())["namespace"] == "shop"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["u1"], "nobody at a terminal can confirm it, say --yes"),
        (["", "--yes"], "the stream would reject it (empty_id: user_id"),
        (["u" * 600, "--yes"], "the stream would reject it (id_too_long"),
        (["u1", "--namespace", "", "--yes"], "the stream would reject it (empty_id: namespace"),
        (["\udcff", "--yes"], "the user or the namespace is not UTF-8"),
    ],
)
def test_a_deletion_that_is_not_confirmed_or_would_be_rejected_is_not_sent(
    log: LogAddress, rows_of: RowsOf, arguments: list[str], message: str
) -> None:
    result = call("delete-user", *arguments, "--broker", str(log), stdin="y\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr
    assert rows_of(CFG.events_topic).num_rows == 0


@pytest.mark.parametrize(("answer", "num_events"), [("y\n", 1), ("n\n", 0), ("\n", 0)])
def test_at_a_terminal_a_deletion_is_asked_about(
    log: LogAddress, rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch, answer: str, num_events: int
) -> None:
    monkeypatch.setattr("streamrec.cli.delete_user._at_a_terminal", lambda: True)
    result = call("delete-user", "u1", "--broker", str(log), stdin=answer)
    assert rows_of(CFG.events_topic).num_rows == num_events
    assert result.exit_code == 1 - num_events
