"""A server that is killed leaves no HAProxy behind, nor its folder."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

# What HAProxy is to a server: a process that outlives it, started with a file in its folder.
SERVER = """
import subprocess, sys
from contextlib import ExitStack
from serve import haproxy
with ExitStack() as stack:
    where = haproxy.folder(stack)
    (where / "haproxy.cfg").touch()
    words = [sys.executable, "-c", "import time; time.sleep(600)", "-f"]
    quiet = dict(start_new_session=True, stdout=subprocess.DEVNULL)
    mine, other = (subprocess.Popen([*words, name], **quiet) for name in (str(where / "haproxy.cfg"), f"{where}-other/haproxy.cfg"))
    print(where, mine.pid, other.pid, flush=True)
    sys.stdin.readline()
"""


def is_there(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[subprocess.Popen[str], Path, int, int]]:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    started = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    where, mine, other = started.stdout.readline().split()
    try:
        yield started, Path(where), int(mine), int(other)
    finally:
        started.kill()
        for pid in (int(mine), int(other)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        started.communicate()


def test_what_has_its_files_in_the_folder_of_a_server_that_was_killed_is_ended(server: tuple[subprocess.Popen[str], Path, int, int]) -> None:
    started, where, mine, other = server
    assert (is_there(mine), where.is_dir()) == (True, True)
    started.kill()
    deadline = time.monotonic() + 20
    while (is_there(mine) or where.exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (is_there(mine), where.exists(), is_there(other)) == (False, False, True)


def test_a_server_that_ends_leaves_nobody_who_sweeps(server: tuple[subprocess.Popen[str], Path, int, int]) -> None:
    started, where, mine, _ = server
    sweepers = [int(entry.name) for entry in Path("/proc").iterdir() if cmdline(entry)[-2:-1] == [str(where).encode()]]
    assert len(sweepers) == 1
    started.communicate("\n")
    # Serve itself has ended what it started, before.
    assert (started.returncode, where.exists(), is_there(sweepers[0]), is_there(mine)) == (0, False, False, True)


def cmdline(entry: Path) -> list[bytes]:
    with contextlib.suppress(OSError):
        return (entry / "cmdline").read_bytes().split(b"\0")
    return []
