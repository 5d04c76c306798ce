from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import replay as job
from streamrec.config import LogConfig
from streamrec.events.replay import event_ids_in
from streamrec.log.base import LogAddress
from streamrec.log.connect import open_table_reader
from streamrec.log.offsets import OffsetRange

ROOT = Path(__file__).parents[3]
NUM_EVENTS = 900


@pytest.fixture
def data(tmp_path: Path) -> Path:
    lines = "".join(f"{number % 40},{number % 70},{number % 5 + 1},{1_000_000_000 + number}\n" for number in range(NUM_EVENTS))
    path = tmp_path / "ratings.csv"
    path.write_text("userId,movieId,rating,timestamp\n" + lines)
    return path


def options(tmp_path: Path, data: Path, *more: str) -> list[str]:
    config = tmp_path / "streamrec.toml"
    config.write_text(f'state = "{tmp_path / "run"}"\n')
    return ["--config", str(config), "--data", str(data), "--broker", f"local://{tmp_path / 'log'}", *more]


def sent_ids(tmp_path: Path) -> list[str]:
    reader, topic = open_table_reader(LogAddress("local", str(tmp_path / "log")), LogConfig()), LogConfig().events_topic
    ids = event_ids_in(reader.read_table([OffsetRange(topic, number, 0, end) for number, end in reader.latest(topic).items()]))
    reader.close()
    return ids


def test_the_last_line_is_a_json_object_and_the_exit_status_is_0(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert job.main(options(tmp_path, data, "--speed", "max", "--max-events", "600")) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out.splitlines()[-1])
    assert (summary["dataset"], summary["sent"], summary["position"], summary["stop"], summary["done"]) == ("movielens", 600, 600, 600, True)
    assert "600 of 600 events sent" in captured.err
    assert job.main(options(tmp_path, data)) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["sent"] == 300
    assert len(set(sent_ids(tmp_path))) == len(sent_ids(tmp_path)) == NUM_EVENTS


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--speed", "fast"], "Replay: not a speed, got 'fast'"),
        (["--map", "user"], "mapping does not parse"),
        (["--map", "user=nobody,item=movieId"], "no column 'nobody'"),
        (["--broker", "smoke://signals"], "not an address"),
        (["--data", "absent.csv"], "can't be read"),
        (["--config", "absent.toml"], "can't be read"),
    ],
)
def test_an_error_is_one_paragraph_on_the_error_output_and_the_exit_status_is_1(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert job.main(options(tmp_path, data, *more)) == 1
    captured = capsys.readouterr()
    assert message in captured.err.replace("\n", " ")
    assert captured.out == ""


@pytest.mark.parametrize("more", [["--speed", "max", "--rate", "5"], ["--max-events", "0"], ["--rate", "many"], ["--colour"]])
def test_wrong_options_are_refused_with_the_usage(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], more: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        job.main(options(tmp_path, data, *more))
    assert "usage: python -m jobs.replay" in capsys.readouterr().err


def test_a_job_whose_input_stays_open_ends_well_when_all_is_sent(tmp_path: Path, data: Path) -> None:
    command = [sys.executable, "-m", "jobs.replay", *options(tmp_path, data, "--speed", "max", "--until-input-ends")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        errors = process.stderr.read()
        assert process.wait(timeout=60) == 0, errors
    assert "Fatal" not in errors
    assert len(sent_ids(tmp_path)) == NUM_EVENTS


def test_a_job_that_lives_as_long_as_its_starter_stops_when_its_input_ends(tmp_path: Path, data: Path) -> None:
    command = [sys.executable, "-m", "jobs.replay", *options(tmp_path, data, "--rate", "50", "--until-input-ends")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stdin is not None
        assert any("events sent" in line for line in process.stderr)
        process.stdin.close()
        assert process.wait(timeout=60) == 130
    assert 0 < len(sent_ids(tmp_path)) < NUM_EVENTS


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_job_that_is_killed_or_stopped_sends_the_rest_when_started_again_and_nothing_twice(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "jobs.replay", *options(tmp_path, data, "--rate", "300")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("events sent" in line for line in process.stderr)
        process.send_signal(number)
        out = process.communicate(timeout=60)[0]
    if number is signal.SIGTERM:
        assert process.returncode == 130
        assert json.loads(out.splitlines()[-1])["done"] is False
    num_sent = len(sent_ids(tmp_path))
    assert 0 < num_sent < NUM_EVENTS
    assert job.main(options(tmp_path, data)) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["sent"] == NUM_EVENTS - num_sent
    ids = sent_ids(tmp_path)
    assert len(ids) == len(set(ids)) == NUM_EVENTS
