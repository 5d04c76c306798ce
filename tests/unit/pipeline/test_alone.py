"""A job that is submitted twice refuses and names the first, as long as that one runs."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from jobs import bootstrap, refresh_teachers, stream
from streamrec.config import Config, parse_config
from streamrec.errors import OperatorError
from streamrec.pipeline.alone import PATIENCE_S, Seen, check_alone, check_silent
from streamrec.pipeline.commit import Head, Owner
from streamrec.storage import open_storage


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return parse_config({"state": str(tmp_path / "state")})


def owned(config: Config, pid: int, host: str = "") -> None:
    """Let a process be the state's driver."""
    head = Head(7, Owner(host or socket.gethostname(), pid, "w"))
    assert open_storage(f"{config.state}/checkpoint").swap("HEAD", head.to_json(), None) is not None


@pytest.fixture
def process() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a process that has a word in its command line and does nothing until it is killed."""
    started = []

    def start(word: str = "jobs.stream") -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()", word], stdin=subprocess.PIPE))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


def test_a_state_whose_driver_runs_is_refused_and_the_driver_named(
    config: Config,
    process: Callable[..., subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert check_alone(config) is Seen.NOBODY
    first = process()
    owned(config, first.pid)
    with pytest.raises(OperatorError, match=f"got process {first.pid} on {socket.gethostname()}, epoch 7, allowed one at a time"):
        check_alone(config)
    for module in (stream, refresh_teachers):
        monkeypatch.setattr(module, "has_commits", lambda _: True)
        monkeypatch.setattr(module, "open_session", lambda *_: pytest.fail("something was started"))
        assert module.main(["--set", f"state={config.state}"]) == 1
        told = capsys.readouterr().err
        assert told.startswith(f"Stream: another job moves this state already, got process {first.pid} on ")
        assert "--take-over goes on in its place" in told.replace("\n", " ")
        assert ("streamrec refresh" in told) == (module is refresh_teachers)
    monkeypatch.setattr(bootstrap, "open_session", lambda *_: pytest.fail("something was started"))
    assert bootstrap.main(["--set", f"state={config.state}"]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"Stream: another job moves this state already, got process {first.pid} on ")
    assert told.replace("\n", " ").rstrip().endswith("leave it to that one, or end it first")
    assert bootstrap.main(["--dry-run", "--set", f"state={config.state}", "--set", "log.broker=local"]) == 1
    assert "it would stop at once: Stream: another job moves this state already" in capsys.readouterr().err.replace("\n", " ")
    first.kill()
    # Not waited for: a process that has ended is there until its parent asks for it.
    while psutil.Process(first.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    assert check_alone(config) is Seen.ENDED


def test_a_number_that_another_process_has_by_now_is_nobodys(config: Config, process: Callable[..., subprocess.Popen[bytes]]) -> None:
    owned(config, process("a-web-server").pid)
    assert check_alone(config) is Seen.ENDED


def test_this_process_is_not_another_one(config: Config) -> None:
    owned(config, psutil.Process().pid)
    assert check_alone(config) is Seen.ENDED


def listen(config: Config, ages: list[float | None]) -> float:
    """Return for how long somebody who tells with these ages was listened for."""
    waited: list[float] = []
    check_silent(config, lambda: ages.pop(0) if len(ages) > 1 else ages[0], waited.append)
    return sum(waited)


def test_a_driver_of_another_machine_is_listened_for_and_refused_only_if_it_still_tells(config: Config) -> None:
    owned(config, 1, "elsewhere")
    assert check_alone(config) is Seen.ELSEWHERE
    assert listen(config, [None]) == 0.0
    assert listen(config, [60.0]) == 0.0
    assert listen(config, [0.3 + 0.5 * look for look in range(20)]) == PATIENCE_S  # It was killed just now.
    with pytest.raises(OperatorError, match="got process 1 on elsewhere, epoch 7"):
        listen(config, [0.3, 0.8, 0.2])
