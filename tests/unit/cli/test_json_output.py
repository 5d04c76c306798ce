"""What programs get of verbs that turn something: `--json` gives one object, or one a line, and nothing else on the output."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

import streamrec
from streamrec.cli import app
from streamrec.log.base import LogAddress
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.registry.registry import Registry
from streamrec.storage import LocalStorage

WITHOUT = {"dev": "has a live view", "demo": "has a live view", "serve": "prints its address", "key": "prints TOML for the file of keys"}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STREAMREC_CONFIG", raising=False)


def call(*arguments: str) -> Result:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code in {0, 1}, done.output
    return done


def said(*arguments: str) -> dict[str, Any]:
    (line,) = call(*arguments, "--json").stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def verbs(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, part in getattr(command, "commands", {}).items():
        yield from verbs(part, (*path, name))
    if not hasattr(command, "commands"):
        yield " ".join(path), command


@pytest.fixture
def state(tmp_path: Path) -> tuple[str, str]:
    """Settings that name a state with two versions, v2 live, on which a stream has run."""
    registry = Registry(LocalStorage(tmp_path / "state" / "registry"))
    for version in ("v1", "v2"):
        registry.publish(version, {"item_bias": np.zeros(3, np.float32)}, {})
        registry.promote(version, "a test")
    CheckpointStore(LocalStorage(tmp_path / "state" / "checkpoint")).acquire()
    return "--set", f"state={tmp_path / 'state'}"


def test_each_verb_has_it_or_a_reason_not_to() -> None:
    without = {name for name, verb in verbs(typer.main.get_command(app)) if "--json" not in {word for part in verb.params for word in part.opts}}
    assert without == set(WITHOUT)


def test_the_version() -> None:
    assert said("version") == {"version": streamrec.__version__}
    assert call("version").stdout == call("--version").stdout == f"{streamrec.__version__}\n"


def test_moves_of_the_alias_and_pins(state: tuple[str, str]) -> None:
    assert said("rollback", *state) == {"student": "default", "before": "v2", "live": "v1"}
    assert said("rollback", *state, "--to", "v2") == {"student": "default", "before": "v1", "live": "v2"}
    assert said("models", "promote", "v1", *state) == {"student": "default", "before": "v2", "live": "v1"}
    assert said("pin", "v1", *state) == {"student": "default", "pinned": ["v1"]}
    assert said("unpin", "v1", *state) == {"student": "default", "pinned": []}
    refused = call("unpin", "v1", *state, "--json")
    assert (refused.exit_code, refused.stdout) == (1, "")


def test_switches_give_what_is_in_force(state: tuple[str, str]) -> None:
    paused = said("pause", *state, "--by", "ann", "--reason", "incident 12")
    assert (paused["action"], paused["turn"]["by"], paused["turn"]["reason"]) == ("pause", "ann", "incident 12")
    assert paused == json.loads(call("switches", "--json", *state).stdout.splitlines()[-1])
    assert said("resume", *state)["action"] == "resume"
    assert said("freeze-publishing", *state)["action"] == "freeze"
    assert said("unfreeze-publishing", *state)["action"] == "unfreeze"
    assert said("refresh", "linear", *state) == {"teachers": ["linear"]}


def test_what_is_sent_says_where_it_is(tmp_path: Path) -> None:
    log = f"local://{tmp_path / 'log'}"
    (tmp_path / "log.csv").write_text("who,what,when\nu,i,1764000000000\nv,i,1764000000001\n")
    sent = said("replay", "log.csv", "--map", "user=who,item=what,time=when", "--to", log)
    assert (sent["events"], sent["position"], sent["stop"], sent["done"], sent["topic"]) == (2, 2, 2, True, "streamrec.events")
    assert sent["log"] == log.replace("local://", "local:///").replace("////", "///")
    (tmp_path / "shop.csv").write_text("sku,name\na,Red teapot\n")
    assert said("items", "import", "shop.csv", "--map", "item=sku,title=name", "--to", log)["items"] == 1
    deleted = said("delete-user", "u", "--yes", "--broker", log)
    assert (deleted["topic"], deleted["namespace"]) == ("streamrec.events", "default")
    assert deleted["event_id"].startswith("deletion:")
    assert isinstance(deleted["offset"], int)


def test_dead_letters(log: LogAddress, reject: Callable[..., None]) -> None:
    broker = ("--broker", str(log))
    reject([b"{\xff", b"[]"])
    place = "streamrec.events/0/0"
    shown = said("dlq", "show", place, *broker)
    assert (shown["place"], base64.b64decode(shown["value_base64"]), shown["replays"]) == (place, b"{\xff", [])
    lines = [json.loads(line) for line in call("dlq", "replay", "--all", *broker, "--json").stdout.splitlines()]
    assert [(line["place"], line["sent"]) for line in lines] == [(place, False), ("streamrec.events/0/1", False)]
    assert lines[0]["why"] != lines[1]["why"]
    event = '{"event_id":"e","user_id":"u","item_id":"i","event_type":"click","event_time":1764000000000}'
    Path("event").write_text(event)
    (sent,) = [json.loads(line) for line in call("dlq", "replay", place, "--with", "event", *broker, "--json").stdout.splitlines()]
    assert (sent["place"], sent["sent"], sent["event_id"]) == (place, True, "e")
    assert said("dlq", "show", place, *broker)["replays"][0]["to"] == sent["to"]
