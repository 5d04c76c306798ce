"""The command `python -m serve`, as a process of its own."""

import os
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from serve.launch import wait_until_answers
from streamrec.registry.registry import Registry
from streamrec.storage import LocalStorage

# Serve takes a quarter of a minute to start here.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 15.0


@pytest.fixture
def folder():
    # Not tmp_path: a socket's name may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="sr-", dir="/tmp") as name:
        yield Path(name)


def processes_that_name(text):
    """Ids of the processes that have the text in their environment or command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(text.encode() in (process / part).read_bytes() for part in ("environ", "cmdline")):
                found.append(int(process.name))
        except OSError:
            continue  # it has just ended, or is another user's
    return found


def status_of(url):
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_the_command_takes_what_another_cluster_promotes_and_ends_with_sigterm(folder, make_version):
    words = [sys.executable, "-m", "serve", "--log", f"local://{folder / 'log'}"]
    words += ["--set", f"state={folder / 'state'}", "--set", "serving.port=0", "--set", "serving.num_replicas=1"]
    environment = {name: value for name, value in os.environ.items() if name not in {"RAY_ADDRESS", "STREAMREC_CONFIG"}}
    with (folder / "err").open("w+") as err:
        server = subprocess.Popen(words, cwd=ROOT, env={**environment, "TMPDIR": str(folder)}, stdout=subprocess.PIPE, stderr=err, text=True)
        try:
            url = server.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:"), (folder / "err").read_text()
            assert (status_of(f"{url}/healthz"), status_of(f"{url}/readyz")) == (200, 503)
            assert len(processes_that_name(str(folder))) > 1
            # A stream on another Ray cluster has only the storage in common with this server.
            registry = Registry(LocalStorage(folder / "state" / "registry"))
            registry.publish("v00000001", *make_version(1, 30))
            registry.promote("v00000001", "a test")
            where = urllib.parse.urlsplit(url)
            wait_until_answers(where.hostname, where.port, "/readyz", PATIENCE_S)
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0, (folder / "err").read_text()
            assert server.stdout.read() == ""
        finally:
            server.kill()
            server.communicate()
    assert processes_that_name(str(folder)) == []
