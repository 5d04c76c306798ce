"""Start jobs where Ray unpacks a job's working folder: what they keep must not lie there."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import jobs
from jobs import backtest, bootstrap, compact, demo, dev, rebuild, recommend_batch, refresh_teachers, replay, stream
from serve import __main__ as server
from serve.app import app as application
from streamrec.cli import app
from streamrec.config import parse_config
from streamrec.errors import ConfigError
from streamrec.pipeline.places import check_places, misplaced

JOBS = {
    "stream": stream.main,
    "bootstrap": bootstrap.main,
    "rebuild": rebuild.main,
    "refresh": refresh_teachers.main,
    "replay": replay.main,
    "compact": compact.main,
    "dev": dev.main,
    "recommend_batch": recommend_batch.main,
    "serve": server.main,
}

VERBS = {
    "dev": [],
    "serve": [],
    "replay": ["events.csv"],
    "items import": ["items.csv"],
    "rollback": [],
    "pin": ["v1"],
    "unpin": ["v1"],
    "pause": [],
    "resume": [],
    "freeze-publishing": [],
    "unfreeze-publishing": [],
    "switches": [],
    "refresh": [],
    "quarantine": [],
    "worth": [],
    "status": [],
    "report": [],
    "recommend": ["u1"],
    "explain": ["u1"],
    "models list": [],
    "models show": ["v1"],
    "models diff": ["v1", "v2"],
    "models promote": ["v1"],
    "delete-user": ["u1", "--yes"],
    "receipt": ["d1"],
    "dlq list": [],
    "dlq show": ["streamrec.dead-letters/0/0"],
    "dlq replay": ["--all"],
    "lake info": [],
    "lake verify": [],
    "lake optimize": [],
    "lake vacuum": [],
}
"""What each verb that takes a state needs besides."""
WITHOUT_STATE = {"version", "init", "plan", "config show", "backtest", "schema", "key"}
JUDGES = {"doctor"}
HAS_ITS_OWN = {"demo"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a job that ``ray job submit --working-dir .`` started."""
    folder = tmp_path / "session_latest" / "runtime_resources" / "working_dir_files" / "_ray_pkg_18e4"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("STREAMREC_CONFIG", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for module in ("streamrec.pipeline.session", "streamrec.cli.sending"):
        monkeypatch.setattr(f"{module}.resolve_broker", lambda *_, **__: pytest.fail("a broker was looked for"))
    return folder


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
@pytest.mark.parametrize(
    ("settings", "name", "got"),
    [
        (["state=runs/rel", "log.broker=kafka.example:9092"], "state", "'runs/rel', here "),
        (["state={outside}", "lake.address=lake", "log.broker=kafka.example:9092"], "lake.address", "'lake', here "),
        (["state=s3://bucket/run", "log.broker=auto"], "log.broker", "'auto', here "),
        (["state=s3://bucket/run", "log.broker=local://{cache}/log"], "log.broker", "'local://"),
    ],
)
def test_a_job_keeps_nothing_in_rays_cache_of_working_folders(
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    job: Callable[[Sequence[str]], int],
    settings: list[str],
    name: str,
    got: str,
) -> None:
    words = [word for one in settings for word in ("--set", one.format(outside=tmp_path / "state", cache=cache))]
    assert job(words) == 1
    told = capsys.readouterr().err.replace("\n", " ")
    assert told.startswith(f"Config: {name} ")
    assert "Ray unpacks this job's working folder" in told
    assert f"got {got}" in told
    assert f"set {name} to one of these" in told
    assert list(cache.iterdir()) == []
    assert not (tmp_path / "state").exists()


def test_what_all_nodes_reach_is_no_mans_cache(cache: Path, tmp_path: Path) -> None:
    for settings in (
        {"state": str(tmp_path / "state")},
        {"state": "s3://bucket/run", "lake": {"address": "gs://bucket/lake"}, "log": {"broker": "kafka.example:9092"}},
        {"state": str(tmp_path / "state"), "lake": {"enabled": False, "address": "lake"}},
    ):
        check_places(parse_config(settings))
    check_places(parse_config({"state": "s3://bucket/run"}), broker="kafka.example:9092")
    (cache / "linked").symlink_to(tmp_path)
    check_places(parse_config({"state": "linked/state"}))
    with pytest.raises(ConfigError, match="state lies where"):
        check_places(parse_config({"state": str(cache / "absolute")}))


def test_a_relative_state_elsewhere_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert misplaced(parse_config({})) == {}


def commands(command: Any, name: str = "") -> list[str]:
    """All verbs of the command line."""
    parts = getattr(command, "commands", None)
    return [name] if parts is None else [found for part, each in parts.items() for found in commands(each, f"{name} {part}".strip())]


def test_each_verb_is_known_to_take_a_state_or_not() -> None:
    assert set(commands(get_command(app))) == {*VERBS, *WITHOUT_STATE, *JUDGES, *HAS_ITS_OWN}


def test_each_job_is_known_here() -> None:
    modules = {name: importlib.import_module(f"jobs.{name}") for _, name, _ in pkgutil.iter_modules(jobs.__path__)}
    assert {module.main for module in modules.values() if hasattr(module, "main")} == {*JOBS.values(), demo.main, backtest.main} - {server.main}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("given", ["a configuration", "nothing"])
def test_a_verb_looks_for_nothing_in_the_cache(cache: Path, tmp_path: Path, verb: str, given: str) -> None:
    """Neither where nothing is given nor where the lake alone lies there; dlq replay takes no --set."""
    (tmp_path / "lake.toml").write_text(f'state = "{tmp_path}/state"\n[lake]\naddress = "lake"\n[log]\nbroker = "kafka.example:9092"\n')
    words = ["--config", str(tmp_path / "lake.toml")] if given == "a configuration" else []
    result = CliRunner().invoke(app, [*verb.split(), *VERBS[verb], *words])
    assert result.exit_code == 1, result.output
    name = "lake.address" if words else "state"
    assert result.stderr.replace("\n", " ").startswith(f"Config: {name} lies where Ray unpacks")
    assert list(cache.iterdir()) == []
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(("words", "name"), [([], "state"), (["--set", "state={outside}", "--set", "lake.address=lake"], "lake.address")])
def test_the_demo_begins_nothing_in_the_cache(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], name: str
) -> None:
    monkeypatch.setattr(demo, "demo_dataset", lambda _: pytest.fail("a data set was fetched"))
    assert demo.main([word.format(outside=tmp_path / "state") for word in words]) == 1
    assert capsys.readouterr().err.replace("\n", " ").startswith(f"Config: {name} ")
    assert list(cache.iterdir()) == []


def test_the_served_application_reads_no_state_of_the_cache(cache: Path) -> None:
    with pytest.raises(ConfigError, match="state lies where Ray unpacks"):
        application({})


@pytest.mark.usefixtures("cache")
def test_the_doctor_fails_what_jobs_refuse_there() -> None:
    result = CliRunner().invoke(app, ["doctor", "--broker", "local", "--json", "--set", "lake.address=lake"])
    assert result.exit_code == 1
    findings = [json.loads(line) for line in result.stdout.splitlines()]
    failed = {finding["check"]: finding for finding in findings if finding["verdict"] == "FAIL"}
    assert set(failed) == {"state", "lake", "broker"}
    assert "set state to one of these" in failed["state"]["remedy"]
    assert [finding["verdict"] for finding in findings if finding["check"] == "state"] == ["FAIL"]
