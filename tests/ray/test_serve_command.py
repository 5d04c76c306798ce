"""The command `python -m serve`, as a process of its own."""

import json
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

from serve.haproxy import has_haproxy
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


def is_haproxy(process):
    try:
        return Path(f"/proc/{process}/exe").resolve().name == "haproxy"
    except OSError:
        return False


def status_of(url):
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def assert_a_replica_audits(folder, url, log_format):
    """A replica writes down what it is ordered, by the request's id, when it is."""
    asked = urllib.request.Request(f"{url}/v1/models:rollback", b"{}", {"x-request-id": "r-7"})
    with pytest.raises(urllib.error.HTTPError) as refused, urllib.request.urlopen(asked, timeout=20):
        pass
    with refused.value as answer:
        assert (answer.code, answer.headers["x-request-id"]) == (409, "r-7")
    lines = [line for path in folder.rglob("worker-*.err") for line in path.read_text().splitlines() if "r-7" in line]
    if log_format == "plain":
        (plain,) = lines
        assert "WARNING serve.access: Audit: rollback, asked by " in plain
        return
    (line,) = map(json.loads, lines)
    assert (line["process"], line["level"], line["request_id"]) == ("replica", "warning", "r-7")


@pytest.mark.parametrize("log_format", ["json", "plain"])
def test_the_command_takes_what_another_cluster_promotes_and_ends_with_sigterm(folder, make_version, log_format):
    words = [sys.executable, "-m", "serve", "--log", f"local://{folder / 'log'}"]
    settings = f"state={folder / 'state'}", "serving.port=0", "serving.num_replicas=1", f"telemetry.log_format={log_format}"
    words += [word for setting in settings for word in ("--set", setting)]
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
            assert_a_replica_audits(folder, url, log_format)
            if log_format == "plain" and has_haproxy():
                (proxy,) = [process for process in processes_that_name(str(folder)) if is_haproxy(process)]
                os.kill(proxy, signal.SIGKILL)
                wait_until_answers(where.hostname, where.port, "/readyz", PATIENCE_S)  # Serve's own watch takes twice as long.
                assert not is_haproxy(proxy)
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0, (folder / "err").read_text()
            assert server.stdout.read() == ""
        finally:
            server.kill()
            server.communicate()
    assert processes_that_name(str(folder)) == []
