from __future__ import annotations

import json
from pathlib import Path

import pytest
from deltalake import DeltaTable
from typer.testing import CliRunner, Result

from streamrec.cli import app
from streamrec.clock import ManualClock
from streamrec.config import parse_config
from streamrec.events.codec import encode
from streamrec.events.schema import EventId, Interaction, ItemId, UserId
from streamrec.log.base import Record
from streamrec.log.memory import MemoryLog
from streamrec.pipeline.skipping import skip_lost
from streamrec.pipeline.wiring import build_local

NOW_MS = 1_700_000_000_000


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a state whose lake has 40 rows, named by the configuration in the working folder."""
    monkeypatch.chdir(tmp_path)
    config = parse_config({"state": str(tmp_path / "run"), "teachers": {"enabled": []}, "student": {"control": False}, "lake": {"keep_for_s": 0}})
    (tmp_path / "streamrec.toml").write_text('state = "run"\nlake.keep_for_s = 0\n')
    log = MemoryLog()
    log.ensure_topic(config.log.events_topic, 2)
    controller = build_local(config, log, config.state, ManualClock(NOW_MS), dead_letters=log)
    controller.recover()
    for first in (0, 20):
        each = [Interaction(EventId(f"e{n}"), UserId(f"u{n % 5}"), ItemId(f"i{n % 7}"), "click", NOW_MS - 1000 + n) for n in range(first, first + 20)]
        log.append(config.log.events_topic, [Record(event.user_id.encode(), encode(event)) for event in each])
        controller.step()
        controller.finish()
    return tmp_path / "run"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["lake", *arguments])


def test_a_lake_that_agrees_is_said_to_in_one_sentence(state: Path) -> None:
    result = call("verify")
    assert (result.exit_code, result.output) == (0, f"{state}/lake agrees with the checkpoint of batch 4: 40 rows\n")
    values = json.loads(call("verify", "--json").output)
    assert (values["agrees"], values["rows"], values["expected"], values["applied"], values["differences"]) == (True, 40, 40, 40, [])


def test_of_a_lake_that_has_no_table_yet_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = call("info")
    assert (said.exit_code, said.stdout.splitlines()[1]) == (0, "version: nothing was written yet")
    assert json.loads(call("info", "--json").stdout)["version"] is None


def test_a_lake_that_differs_ends_with_status_1_and_says_where(state: Path) -> None:
    DeltaTable(state / "lake").delete("user_id = 'u3'")
    result = call("verify")
    assert result.exit_code == 1
    first, second = result.output.splitlines()
    assert first == f"{state}/lake differs from the checkpoint of batch 4:"
    assert "rows, the checkpoint appended" in second
    assert json.loads(call("verify", "--json").output)["agrees"] is False


@pytest.mark.parametrize("keep", [0.0, 0.5, None])
def test_a_file_that_is_torn_or_gone_is_named_with_status_1(state: Path, keep: float | None) -> None:
    path = next((state / "lake").glob("namespace=*/**/*.parquet"))
    data = path.read_bytes()
    path.unlink() if keep is None else path.write_bytes(data[: int(len(data) * keep)])
    for arguments in (("verify",), ("verify", "--json")):
        result = call(*arguments)
        assert result.exit_code == 1
        assert isinstance(result.exception, SystemExit)  # No traceback.
        assert f"a file of the table's rows can't be read, {path}" in result.stderr
        assert "restore that file from a copy" in result.stderr


def test_info_optimize_and_vacuum_say_what_is_there_and_what_they_did(state: Path) -> None:
    info = json.loads(call("info", "--json").output)
    assert (info["address"], info["rows"], info["files"], info["last_batch"]) == (f"{state}/lake", 40, 2, 3)
    assert f"address: {state}/lake\n" in call("info").output
    assert json.loads(call("optimize", "--json").output) == {"address": f"{state}/lake", "files_before": 2, "files_after": 1}
    assert "files_deleted: 2\n" in call("vacuum").output
    assert call("verify").exit_code == 0


@pytest.mark.parametrize("address", ["", "beside"])
def test_the_table_of_a_stream_that_keeps_no_lake_any_more_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.chdir(tmp_path)
    place = str(tmp_path / address) if address else ""
    log = MemoryLog()
    log.ensure_topic(parse_config({}).log.events_topic, 1)
    for enabled in (True, False):
        lake = {"enabled": enabled, "address": place}
        config = parse_config({"state": str(tmp_path / "run"), "teachers": {"enabled": []}, "student": {"control": False}, "lake": lake})
        controller = build_local(config, log, config.state, ManualClock(NOW_MS), dead_letters=log)
        controller.recover()
        event = Interaction(EventId(f"e{enabled}"), UserId("u"), ItemId("i"), "click", NOW_MS - 1000)
        log.append(config.log.events_topic, [Record(b"u", encode(event))])
        controller.step()
        controller.finish()
    result = call("verify", "--set", "state=run", "--set", "lake.enabled=false")
    assert result.exit_code == 1
    assert "Lake: the state has no checkpoint that speaks of a lake" in result.output
    assert f"what it has written before lies at {place or tmp_path / 'run' / 'lake'}" in result.output


def test_a_state_that_was_never_there_is_named_and_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("verify", "--set", "state=nowhere")
    assert result.exit_code == 1
    assert "Lake: the state has no checkpoint that speaks of a lake" in result.output
    assert list(tmp_path.iterdir()) == []


def test_rows_of_a_topic_before_are_said_to_be_counted_and_not_checked_further(state: Path) -> None:
    config = parse_config({"state": str(state), "teachers": {"enabled": []}, "student": {"control": False}})
    log = MemoryLog()
    log.ensure_topic(config.log.events_topic, 2)
    controller = build_local(config, log, config.state, ManualClock(NOW_MS), dead_letters=log)
    controller.recover()
    assert skip_lost(controller, lambda _: None) is not None
    event = Interaction(EventId("new"), UserId("u1"), ItemId("i1"), "click", NOW_MS)
    log.append(config.log.events_topic, [Record(b"u1", encode(event))])
    controller.step()
    controller.finish()
    result = call("verify")
    said = "41 rows; 40 rows are of a topic before the one of batch 5: they are counted, their offsets not checked"
    assert (result.exit_code, result.output) == (0, f"{state}/lake agrees with the checkpoint of batch 7: {said}\n")
    values = json.loads(call("verify", "--json").output)
    assert (values["rows_before"], values["topic_batch"]) == (40, 5)
    DeltaTable(state / "lake").delete("event_id = 'new'")
    assert "; 40 rows are of a topic before the one of batch 5: " in call("verify").output
