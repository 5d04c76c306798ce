"""A dry run says what a job would do and what it needs, and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import backtest, bootstrap, compact, rebuild, refresh_teachers, replay, stream
from streamrec.pipeline.lake_writer import open_lake
from streamrec.pipeline.lineage import known_lineage
from streamrec.pipeline.resources import needed

World = Any
Job = Callable[[list[str]], int]


@pytest.fixture
def dry(
    plain: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Run a job dry on a state, by default one that has a version; its status, its JSON and what it told."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for module in (bootstrap, rebuild, refresh_teachers, stream):
        monkeypatch.setattr(module, "open_session", lambda *_: pytest.fail("something was started"))

    def run(job: Job, *words: str, state: Path = plain.folder) -> tuple[int, dict[str, Any], str]:
        values = plain.config.model_dump(mode="json", exclude_none=True)
        values["log"]["broker"] = f"local://{tmp_path / 'no-log'}"
        (tmp_path / "settings.yaml").write_text(json.dumps({**values, "state": str(state)}))
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        status = job(["--config", str(tmp_path / "settings.yaml"), "--dry-run", *words])
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        out, err = capsys.readouterr()
        found: dict[str, Any] = json.loads(out)
        assert found["dry_run"] is True
        assert err.rstrip().endswith("a dry run: nothing was changed")
        return status, found, err

    return run


def test_a_stream_says_where_it_would_go_on_and_what_it_needs(dry: Callable[..., Any], plain: World) -> None:
    status, found, told = dry(stream.main)
    assert (status, found["job"], found["status"]) == (0, "stream", 0)
    assert f"it would go on after batch {plain.controller().state.batch}" in told
    assert found["needs"]["cpus"] == needed(plain.config).cpus
    assert f"it needs {found['needs']['cpus']:g} logical CPUs and no GPU" in told


@pytest.mark.parametrize("job", [stream.main, refresh_teachers.main])
def test_what_would_stop_at_once_is_told_with_its_status(dry: Callable[..., Any], tmp_path: Path, job: Job) -> None:
    status, found, told = dry(job, state=tmp_path / "new")
    assert (status, found["status"], found["needs"]) == (2, 2, None)
    assert "it would stop at once: the state was never bootstrapped" in told
    assert not (tmp_path / "new").exists()


def test_a_bootstrap_says_what_it_would_learn_or_that_there_is_nothing_to_do(dry: Callable[..., Any], tmp_path: Path) -> None:
    assert "is live: there is nothing to learn first" in dry(bootstrap.main)[2]
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "".join(f"{at % 9},{at % 7},4,{10**9 + at}\n" for at in range(300)))
    told = dry(bootstrap.main, "--data", str(tmp_path / "ratings.csv"), "--max-events", "200", state=tmp_path / "new")[2]
    assert "it would send 200 events of" in told
    assert "50 in a step" in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "learn the lake from its beginning"),
        (["--from-log", "--anew"], "begin anew: learn the log alone"),
        (["--drop"], "it would remove what an"),
    ],
)
def test_a_rebuild_says_what_its_options_ask_for(dry: Callable[..., Any], words: list[str], said: str) -> None:
    assert said in dry(rebuild.main, *words)[2]


def test_a_replay_says_which_events_it_would_send_and_where(dry: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "demo_dataset", lambda _: pytest.fail("a data set was fetched"))
    assert "MovieLens 100K, which is brought" in dry(replay.main)[2]
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "".join(f"{at % 9},{at % 7},4,{10**9 + at}\n" for at in range(30)))
    told = dry(replay.main, "--data", str(tmp_path / "ratings.csv"), "--broker", "kafka.example:9092")[2]
    assert "30 events of" in told
    assert "to streamrec.events of kafka.example:9092" in told


def test_a_refresh_names_the_teachers_it_would_train(dry: Callable[..., Any]) -> None:
    found = dry(refresh_teachers.main, "--set", 'teachers.enabled=["linear"]')[1]
    assert any("train linear, and commit" in step for step in found["steps"])


def test_a_backtest_and_a_compaction_say_what_they_would_read(dry: Callable[..., Any], plain: World, tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "".join(f"{at % 9},{at % 7},4,{10**9 + at}\n" for at in range(30)))
    assert "it would play 30 events of" in dry(backtest.main, "--data", str(tmp_path / "ratings.csv"))[2]
    told = dry(compact.main)[2]
    assert f"files of {plain.folder}/lake, and delete what was not needed for" in told


def test_a_compaction_merges_files_and_loses_no_row(plain: World, capsys: pytest.CaptureFixture[str]) -> None:
    lake = open_lake(plain.config, str(plain.folder), lambda: known_lineage(str(plain.folder)))
    before = lake.info()
    assert compact.main(["--set", f"state={plain.folder}", "--set", "log.num_partitions=2"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert lake.info()["rows"] == before["rows"] > 0
    assert lake.info()["files"] <= before["files"]
    assert done["address"] == before["address"]


def test_a_backtest_ends_with_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "".join(f"{at % 9},{at % 7},4,{10**9 + at}\n" for at in range(300)))
    quick = ["--set", "teachers.enabled=[]", "--set", "student.dim=8", "--set", "student.control=false"]
    assert backtest.main(["--data", str(tmp_path / "ratings.csv"), "--max-blocks", "1", *quick]) == 0
    assert "student" in json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]
