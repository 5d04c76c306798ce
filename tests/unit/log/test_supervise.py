from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import streamrec.log.embedded as embedded

SCRIPT = str(Path(embedded.__file__).with_name("_supervise.py"))
CHILD = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + CHILD


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        signal.sigtimedwait([], 0.01)
    return not Path(f"/proc/{pid}").exists()


def supervised(lock: int, program: str, grace_s: float = 5.0) -> subprocess.Popen[str]:
    command = [sys.executable, "-I", "-S", SCRIPT, str(lock), str(grace_s), sys.executable, "-c", program]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=(lock,))


def pid_said_by(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("program", [CHILD, STUBBORN])
def test_the_command_ends_when_the_starter_lets_go(lock: int, program: str) -> None:
    with supervised(lock, program, grace_s=0.2) as supervisor:
        child = pid_said_by(supervisor)
        assert supervisor.stdin is not None
        supervisor.stdin.close()
        assert supervisor.wait(10) == 128 + (signal.SIGKILL if program is STUBBORN else signal.SIGTERM)
        assert gone(child)


def test_the_command_ends_with_its_supervisor(lock: int) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with supervised(lock, CHILD) as supervisor:
            child = pid_said_by(supervisor)
            supervisor.send_signal(number)
            supervisor.wait(10)
            assert gone(child)


def test_the_status_of_the_command_is_the_supervisors(lock: int) -> None:
    with supervised(lock, "import sys; sys.exit(7)") as supervisor:
        assert supervisor.wait(10) == 7


def test_the_supervisor_imports_nothing_but_the_standard_library() -> None:
    listing = "import runpy, sys; runpy.run_path(sys.argv[1]); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-I", "-S", "-c", listing, SCRIPT], capture_output=True, text=True, check=True).stdout.split()
    assert {name.partition(".")[0] for name in modules} <= sys.stdlib_module_names | {"__main__", "sitecustomize"}
