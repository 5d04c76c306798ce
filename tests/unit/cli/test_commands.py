from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import streamrec
from streamrec.cli import app
from streamrec.config import LogConfig, load_config, parse_config
from streamrec.events.codec import EventCodec
from streamrec.log.base import LogAddress
from streamrec.log.connect import open_table_reader
from streamrec.log.offsets import OffsetRange
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.switches import SwitchBoard
from streamrec.registry.registry import Registry
from streamrec.storage import LocalStorage

NUM_EVENTS = 600
HEAVY = ("torch", "ray", "pyarrow", "numpy", "pydantic")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STREAMREC_CONFIG", raising=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    lines = "".join(f"{number % 40},{number % 70},5,{1_000_000_000 + number}\n" for number in range(NUM_EVENTS))
    path = tmp_path / "ratings.csv"
    path.write_text("userId,movieId,rating,timestamp\n" + lines)
    return path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def events_in(folder: Path) -> list[dict[str, object]]:
    config = LogConfig()
    reader = open_table_reader(LogAddress("local", str(folder)), config)
    rows = reader.read_table([OffsetRange(config.events_topic, number, 0, end) for number, end in reader.latest(config.events_topic).items()])
    reader.close()
    return EventCodec(parse_config({}).events).decode(rows, 2_000_000_000_000).valid.to_pylist()


def test_help_names_every_verb_and_loads_nothing_heavy() -> None:
    code = "import sys, streamrec.cli; print([name for name in sys.argv[1:] if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"
    assert all(verb in call("--help").output for verb in ("config", "replay", "items", "backtest", "rollback", "lake", "version"))


def test_version_is_the_packages() -> None:
    assert call("version").output.strip() == streamrec.__version__


def test_a_shown_config_loads_as_the_same_config(tmp_path: Path) -> None:
    shown = call("config", "show", "--set", "student.dim=32", "--set", "pipeline.checkpoint_interval_s=5m").output
    (tmp_path / "shown.toml").write_text(shown)
    config = load_config(tmp_path / "shown.toml")
    assert config == parse_config({"student": {"dim": 32}, "pipeline": {"checkpoint_interval_s": 300}})
    assert tomllib.loads(shown)["pipeline"]["checkpoint_interval_s"] == 300


def test_a_shown_config_can_be_json(tmp_path: Path) -> None:
    (tmp_path / "streamrec.toml").write_text("seed = 7\n")
    assert json.loads(call("config", "show", "--json").output)["seed"] == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["config", "show", "--set", "student.dmi=3"], "did you mean 'student.dim'?"),
        (["config", "show", "--config", "nowhere.toml"], "the file can't be read"),
        (["backtest", "--data", "nowhere.csv"], "nowhere.csv"),
        (["backtest", "--data", "nowhere.csv", "--protocol", "loo"], "allowed progressive, sessions, leave-one-out, static"),
        (["replay", "nowhere.csv", "--to", "local", "--speed", "fast"], "not a speed, got 'fast'"),
        (["items", "import", "nowhere.csv", "--to", "local"], "nowhere.csv"),
        (["rollback"], "there is no version to roll back to, got no live version"),
        (["config", "show", "--set", "state=s3://"], "state is not valid, got 's3://', allowed s3://BUCKET or s3://BUCKET/PREFIX, correct the value"),
    ],
)
def test_our_errors_are_one_paragraph_and_exit_status_1(arguments: list[str], message: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_replay_goes_on_where_it_was_and_sends_nothing_twice(tmp_path: Path, data: Path) -> None:
    log = tmp_path / "log"
    first = call("replay", str(data), "--to", f"local://{log}", "--speed", "max", "--max-events", "250")
    assert (first.exit_code, first.stdout) == (0, "")
    assert "250 events to streamrec.events" in first.stderr
    assert call("replay", str(data), "--to", f"local://{log}").exit_code == 0
    ids = [event["event_id"] for event in events_in(log)]
    assert len(ids) == len(set(ids)) == NUM_EVENTS


def test_an_imported_catalogue_is_in_the_log(tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text("sku,name\na,Red teapot\nb,Blue mug\n")
    result = call("items", "import", "shop.csv", "--map", "item=sku,title=name", "--to", f"local://{tmp_path / 'log'}")
    assert result.exit_code == 0, result.stderr
    assert {event["item_id"]: event["title"] for event in events_in(tmp_path / "log")} == {"a": "Red teapot", "b": "Blue mug"}


def test_without_the_record_of_deletions_nothing_goes_back_and_nothing_is_pinned(tmp_path: Path) -> None:
    state = tmp_path / "state"
    registry = Registry(LocalStorage(state / "registry"))
    for version in ("v1", "v2"):
        registry.publish(version, {"w": np.zeros(2, np.float32)}, {})
        registry.promote(version, "first")
    registry.forget_before("v2", "gone")
    (state / "deletions").mkdir()
    (state / "deletions" / "one.json").write_text("{}")
    record = state / "registry" / "default" / "forgotten"
    assert "would bring back" in call("rollback", "--set", f"state={state}", "--reason", "worse").stderr
    record.unlink()
    for words in (["rollback", "--reason", "worse"], ["rollback", "--reason", "worse", "--to", "v1"], ["pin", "v1"]):
        done = call(*words, "--set", f"state={state}")
        assert done.exit_code == 1
        assert "the record of deletions is gone" in done.stderr
        assert str(record) in done.stderr
    assert registry.live() == "v2"


def test_a_further_student_is_rolled_back_and_pinned_by_its_name(tmp_path: Path) -> None:
    registry = Registry(LocalStorage(tmp_path / "state" / "registry"), "edge")
    for name in ("v1", "v2"):
        registry.publish(name, {"item_bias": np.zeros(3, np.float32)}, {})
        registry.promote(name, "a test")
    to = ("--set", f"state={tmp_path / 'state'}", "--set", "students.edge.dim=8", "--student", "edge")
    assert call("pin", "v2", *to).stdout == "v2\n"
    assert call("rollback", *to, "--reason", "worse").stdout == "v2 → v1\n"
    refused = call("rollback", "--set", f"state={tmp_path / 'state'}", "--student", "edge", "--reason", "worse")
    assert "there is no such student, got 'edge', allowed default" in refused.stderr


def test_a_rollback_names_both_versions_and_its_reason_is_kept(tmp_path: Path) -> None:
    registry = Registry(LocalStorage(tmp_path / "state" / "registry"))
    for version in ("v1", "v2"):
        registry.publish(version, {"item_bias": np.zeros(3, np.float32)}, {})
        registry.promote(version, "a test")
    arguments = ("rollback", "--set", f"state={tmp_path / 'state'}", "--reason", "worse")
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (0, "v2 → v1\n"), result.stderr
    assert [(move.action, move.version, move.reason) for move in registry.history(last=1)] == [("rollback", "v1", "worse")]
    for empty in ("", " \t"):
        refused = call("rollback", "--set", f"state={tmp_path / 'state'}", "--to", "v2", "--reason", empty)
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert f"Rollback: the reason is empty, got {empty!r}, allowed words, say why" in refused.stderr
    assert registry.live() == "v1"
    again = call(*arguments)
    assert (again.exit_code, again.stdout) == (1, "")
    assert "there is no version to roll back to, got v1 live" in again.stderr


def test_a_version_is_pinned_and_unpinned_by_name(tmp_path: Path) -> None:
    registry = Registry(LocalStorage(tmp_path / "state" / "registry"))
    for version in ("v1", "v2"):
        registry.publish(version, {"item_bias": np.zeros(3, np.float32)}, {})
    state = ("--set", f"state={tmp_path / 'state'}")
    assert call("pin", "v2", *state).stdout == "v2\n"
    assert call("pin", "v1", *state).stdout == "v1\nv2\n"
    assert registry.pinned() == {"v1", "v2"}
    result = call("unpin", "v2", *state)
    assert (result.exit_code, result.stdout) == (0, "v1\n"), result.stderr
    assert registry.pinned() == {"v1"}
    again = call("unpin", "v2", *state)
    assert (again.exit_code, again.stdout) == (1, "")
    assert "the version is not pinned, got 'v2', allowed v1, name one that is" in again.stderr
    for unknown in ("v9", "../../x", "a/b", "", ".v1"):
        refused = call("pin", unknown, *state)
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert f"student 'default' has no such version, got {unknown!r}, allowed v1, v2" in refused.stderr
    last = call("unpin", "v1", *state)
    assert (last.exit_code, last.stdout, last.stderr) == (0, "", "no version is pinned\n")


def test_a_stream_is_paused_and_frozen_by_a_verb_and_each_turn_is_shown(tmp_path: Path) -> None:
    state = ("--set", f"state={tmp_path / 'state'}")
    for verb in ("pause", "resume", "freeze-publishing", "unfreeze-publishing"):
        refused = call(verb, *state)
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert refused.stderr.startswith(f"Stream: none has ever run on this state, got {tmp_path / 'state'}, name the state with")
    assert call("pin", "v1", "--live", *state).exit_code == 1
    assert not (tmp_path / "state").exists()
    CheckpointStore(LocalStorage(tmp_path / "state" / "checkpoint")).acquire()
    paused = call("pause", *state, "--reason", "incident 12", "--by", "ann")
    assert paused.exit_code == 0, paused.stderr
    assert paused.stdout.startswith("the stream is paused since ")
    assert paused.stdout.endswith(" by ann: incident 12\n")
    again = call("pause", *state)
    assert (again.exit_code, again.stderr) == (0, "nothing to pause: it is so already\n")
    assert "publishing is frozen" in call("freeze-publishing", *state).stdout
    assert "paused" not in call("resume", *state).stdout
    assert call("unfreeze-publishing", *state).stdout == "nothing is held: the stream runs and promotes\n"
    shown = call("switches", *state).stdout.splitlines()
    turns = ["pause", "freeze", "resume", "unfreeze"]
    assert [line.split()[1] for line in shown[:-1]] == turns
    assert [json.loads(line)["action"] for line in call("switches", "--json", *state).stdout.splitlines()] == turns


@pytest.mark.parametrize("verb", ["recommend", "explain"])
def test_who_asks_for_nobody_and_nothing_is_told_the_options(verb: str) -> None:
    refused = call(verb)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "name a user, or items of a history: --item ID, several times" in refused.stderr


def test_a_running_stream_is_asked_for_teachers_by_a_verb(tmp_path: Path) -> None:
    state = ("--set", f"state={tmp_path / 'state'}")
    assert "none has ever run" in call("refresh", *state).stderr
    CheckpointStore(LocalStorage(tmp_path / "state" / "checkpoint")).acquire()
    every = call("refresh", *state, "--by", "cron", "--set", "teachers.enabled=['linear', 'transformer', 'repeats']")
    assert (every.exit_code, every.stderr) == (0, "no stream runs on this state: the next one that does will make them\n")
    assert every.stdout.startswith("asked for new versions of linear, transformer: ")
    assert call("refresh", "linear", *state, "--by", "ann", "--reason", "new season").exit_code == 0
    refused = call("refresh", "linear", "repeats", *state)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "no such teacher that comes in versions, got repeats, allowed " in refused.stderr
    shown = call("switches", *state).stdout.splitlines()
    assert [re.sub(r"\d", "0", " ".join(line.split()[1:3])) for line in shown[:-1]] == ["refresh 0000-00-00", "refresh linear"]
    assert shown[1].endswith("Z by ann: new season")
    assert shown[-1] == "nothing is held: the stream runs and promotes"
    switches = SwitchBoard(LocalStorage(tmp_path / "state")).now()
    asked = {name: switches.asked_for(name) for name in ("linear", "transformer")}
    assert {name: flip.by for name, flip in asked.items() if flip is not None} == {"linear": "ann", "transformer": "cron"}


def test_a_version_that_is_pinned_live_is_live_and_a_rollback_is_refused_until_it_is_unpinned(tmp_path: Path) -> None:
    registry = Registry(LocalStorage(tmp_path / "state" / "registry"))
    for version in ("v1", "v2"):
        registry.publish(version, {"item_bias": np.zeros(3, np.float32)}, {})
        registry.promote(version, "a test")
    state = ("--set", f"state={tmp_path / 'state'}")
    assert call("pin", "v1", "--live", "--by", "ann", "--reason", "fewer orders", *state).stdout == "v1\n"
    assert (registry.live(), registry.history(1)[0].reason) == ("v1", "pinned live by ann: fewer orders")
    refused = call("rollback", *state)
    assert refused.exit_code == 1
    assert "v1 is pinned live, since" in refused.stderr
    assert "run `streamrec unpin v1` first" in refused.stderr
    call("unpin", "v1", *state)
    assert call("rollback", *state).stdout == "v1 → v2\n"
