from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamrec.cli import app
from streamrec.config import parse_config
from streamrec.errors import BrokerUnavailable, EmbeddedBrokerError
from streamrec.log.base import LogAddress
from streamrec.log.broker import NothingToStop
from streamrec.log.embedded import EmbeddedKafka
from streamrec.pipeline import session
from streamrec.pipeline.session import consumer_group, log_address, told_why_it_ended


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address that refuses connections."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{closed.getsockname()[1]}"


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    path = tmp_path / "ratings.csv"
    path.write_text("userId,movieId,rating,timestamp\n" + "".join(f"{number % 7},{number},5,{1_000_000_000 + number}\n" for number in range(20)))
    return path


def test_a_replay_names_the_address_at_each_attempt_and_ends_with_the_error(nobody: str, ratings: Path, tmp_path: Path) -> None:
    settings = [f"state={tmp_path / 'run'}", "log.connect_limit_s=500ms", "log.connect_timeout_s=1s"]
    options = [part for setting in settings for part in ("--set", setting)]
    result = CliRunner().invoke(app, ["replay", str(ratings), "--to", nobody, *options])
    assert result.exit_code == 1
    *attempts, error = result.stderr.splitlines()
    assert len(attempts) >= 2
    assert all(f"no Kafka answers at {nobody}, got {nobody}: connection refused" in line for line in attempts)
    assert attempts[0].startswith("attempt 1, trying again in 0.2 s")
    assert error.startswith(f"Broker: no Kafka answers at {nobody}")


def test_a_server_starts_without_its_broker_and_says_so_and_a_job_does_not(nobody: str, tmp_path: Path) -> None:
    said: list[str] = []
    config = parse_config({"state": str(tmp_path), "log": {"broker": f"kafka://{nobody}"}})
    address, handle = log_address(config, said.append, must_answer=False)
    handle.stop()
    assert handle.ended() is None
    assert address == LogAddress("kafka", nobody)
    (line,) = said
    assert line.startswith(f"going on without the log until it answers: Broker: no Kafka answers at {nobody}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_job_that_waits_at_once(nobody: str, tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-m", "jobs.bootstrap", "--set", f"state={tmp_path}", "--set", f"log.broker={nobody}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        assert job.stderr is not None
        assert "attempt 1, trying again" in job.stderr.readline()
        began = time.monotonic()
        job.send_signal(number)
        assert job.wait(60) == 130
        assert time.monotonic() - began < 60  # It would wait for two minutes; a busy machine takes seconds to end a process.
        assert job.stderr.read().splitlines()[-1] == "stopped by a signal before its end"


def test_a_broker_that_is_there_is_found_at_once(broker: EmbeddedKafka, tmp_path: Path) -> None:
    said: list[str] = []
    config = parse_config({"state": str(tmp_path), "log": {"broker": f"kafka://{broker.address.where}"}})
    assert log_address(config, said.append)[0] == broker.address
    assert len(said) == 1


def test_each_state_has_a_group_of_its_own_unless_one_is_named() -> None:
    names = [consumer_group(parse_config({"state": state})) for state in ("runs/a b", "s3://bucket/one", "s3://other/one")]
    assert names[0].startswith("streamrec-a-b-")
    assert len(set(names)) == 3
    assert names[1].rpartition("-")[0] == names[2].rpartition("-")[0] == "streamrec-one"
    assert consumer_group(parse_config({"log": {"consumer_group": "mine"}})) == "mine"


def test_a_job_whose_own_broker_has_ended_says_so_and_not_that_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    ended, runs = NothingToStop(), NothingToStop()
    error, what = EmbeddedBrokerError("Embedded Kafka: it ended by itself", do="mend that"), "Broker: no Kafka answers"
    monkeypatch.setattr(ended, "ended", lambda: error)
    with pytest.raises(EmbeddedBrokerError, match="ended by itself"), told_why_it_ended(ended):
        raise BrokerUnavailable(what)
    with pytest.raises(BrokerUnavailable), told_why_it_ended(runs):
        raise BrokerUnavailable(what)
    with pytest.raises(ZeroDivisionError), told_why_it_ended(ended):
        _ = 1 / 0


def test_a_session_tells_the_end_of_its_own_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle, error = NothingToStop(), EmbeddedBrokerError("Embedded Kafka: it ended by itself", do="mend that")
    monkeypatch.setattr(handle, "ended", lambda: error)
    monkeypatch.setattr(session, "log_address", lambda *_: (LogAddress("kafka", "127.0.0.1:1"), handle))
    monkeypatch.setattr(session, "ray_cluster", lambda _: nullcontext())
    monkeypatch.setattr(session, "check_resources", lambda *_: None)

    def nobody_answers(*_: object) -> None:
        what = "Broker: no Kafka answers"
        raise BrokerUnavailable(what)

    monkeypatch.setattr(session, "open_admin", nobody_answers)
    with pytest.raises(EmbeddedBrokerError, match="ended by itself"), session.open_session(parse_config({"state": str(tmp_path)}), print):
        pass
