"""The command `python -m serve` on a cluster that is there: a signal ends it at any time without leaving anything."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from streamrec.pipeline.cluster import STUCK

ROOT = Path(__file__).resolve().parents[2]
NamedActors = Callable[[], list[tuple[str, str]]]


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("moment", ["broker: ", "Connected to Ray cluster"])
def test_a_server_that_is_stopped_while_it_starts_ends_well_and_leaves_nothing_on_the_cluster(
    tmp_path: Path, moment: str, named_actors: NamedActors
) -> None:
    words = [sys.executable, "-m", "serve", "--set", "log.broker=local", "--set", f"state={tmp_path / 'state'}", "--set", "serving.port=0"]
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address, "PYTHONPATH": str(ROOT)}
    before = named_actors()
    server = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        told = next((line for line in server.stderr if moment in line), "")
        assert told
        server.send_signal(signal.SIGTERM)
        output, errors = server.communicate(timeout=90)
    finally:
        server.kill()
        server.communicate()
    assert (server.returncode, output) == (0, ""), errors
    assert "SIGTERM received" not in errors
    assert errors.rstrip().endswith("stopped by a signal during the start")
    assert named_actors() == before


CONNECTS = """
import os, signal, sys
import ray._private.state as state
from streamrec.pipeline.cluster import ray_cluster

class Struck(state.GlobalStateAccessor):
    def __init__(self, *_):
        state.GlobalStateAccessor = type(self).__base__  # once: a second signal ends the process
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))

state.GlobalStateAccessor = Struck
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.default_int_handler)
try:
    with ray_cluster():
        print("inside")
except KeyboardInterrupt:
    import ray
    print("interrupted", ray.is_initialized())
"""


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_waits_until_ray_has_connected(name: str) -> None:
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", CONNECTS, name], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "interrupted True\n"), done.stderr


STUCK_IN_RAY = """
import signal, sys, threading
import ray
from streamrec.pipeline import cluster

cluster.GRACE_S = float(sys.argv[1])
lock = threading.Lock()
lock.acquire()
ray.init = lambda **_: (print("waiting", flush=True), lock.acquire())
for number in (signal.SIGTERM, signal.SIGINT):  # As a job does; whoever starts the tests in the background lets SIGINT be ignored.
    signal.signal(number, signal.default_int_handler)
with cluster.ray_cluster():
    print("inside")
"""


@pytest.mark.parametrize(("grace_s", "signals"), [(0.2, [signal.SIGTERM]), (3600.0, [signal.SIGTERM, signal.SIGINT])])
def test_a_ray_that_does_not_come_back_is_left_after_a_signal_or_at_once_after_two(grace_s: float, signals: list[signal.Signals]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", STUCK_IN_RAY, str(grace_s)]
    with subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as stuck:
        assert stuck.stdout is not None
        assert stuck.stdout.readline() == "waiting\n"
        for number in signals:  # Two of a kind may arrive as one.
            stuck.send_signal(number)
        output, errors = stuck.communicate(timeout=60)
    assert (stuck.returncode, output) == (STUCK, "")
    assert errors.splitlines()[-1] == "stopped by a signal while Ray did not answer"


def test_a_job_whose_cluster_is_not_there_ends_with_one_paragraph(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        words = [sys.executable, "-m", "jobs.bootstrap", "--set", "log.broker=local", "--set", f"state={tmp_path / 'state'}"]
        environment = {**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    told = " ".join(done.stderr.split())
    assert f"Ray: no cluster answers at RAY_ADDRESS = {address}, got [Errno 111] Connection refused" in told
    assert "Traceback" not in done.stderr
