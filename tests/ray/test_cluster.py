from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
import ray

from streamrec import local_node
from streamrec.errors import OperatorError
from streamrec.pipeline import cluster
from streamrec.pipeline.cluster import ray_cluster
from streamrec.teachers.background import give_way

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def usual(monkeypatch: pytest.MonkeyPatch):
    """A temporary folder of our own with a path that is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="sr-", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@ray.remote(num_cpus=0)
def priorities():
    usual = os.nice(0)
    give_way()
    return usual, os.nice(0)


def test_a_local_cluster_works_at_the_drivers_priority_and_leaves_nothing(usual) -> None:
    with ray_cluster():
        assert [path.name.startswith("streamrec-") for path in usual.iterdir()] == [True]
        # At Ray's own default, nice 15, a replica waits for every other program of the machine.
        usually, training = ray.get(priorities.remote())
        assert usually == os.nice(0)
        assert training > usually
    assert not ray.is_initialized()
    assert list(usual.iterdir()) == []


def test_a_child_that_ends_while_it_is_looked_at_keeps_no_cluster_from_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def name(self) -> str:
            raise psutil.NoSuchProcess(1)

    ended: list[bool] = []
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: ended.append(True))
    monkeypatch.setattr(cluster.psutil.Process, "children", lambda *_, **__: [Gone()])
    cluster._end_local(tmp_path)
    assert ended == [True]


@ray.remote(num_cpus=0)
class Worker:
    def never_ends(self):
        atexit.register(signal.pause)
        return os.getpid()

    def end(self):
        ray.actor.exit_actor()


@pytest.mark.usefixtures("usual")
def test_a_worker_that_hangs_at_its_own_end_ends_with_its_cluster() -> None:
    with ray_cluster():
        worker = Worker.remote()
        process = psutil.Process(ray.get(worker.never_ends.remote()))
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(worker.end.remote())
        assert process.is_running()
    try:
        assert not process.is_running()
    finally:
        if process.is_running():
            process.kill()


def test_a_local_cluster_whose_node_is_killed_is_told_so_and_leaves_nothing(usual: Path) -> None:
    with ray_cluster():
        local_node.check()
        worker = Worker.remote()
        process = psutil.Process(ray.get(worker.never_ends.remote()))
        (node,) = (child for child in psutil.Process().children() if child.name() == "raylet")
        node.kill()
        node.wait(10)
        with pytest.raises(OperatorError, match="raylet of this process's own cluster has ended"):
            local_node.check()
    local_node.check()
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE  # Its new parent may not have taken note.
    assert list(usual.iterdir()) == []


BLOCKED = """
import sys
import ray
from streamrec.pipeline.cluster import ray_cluster

@ray.remote(num_cpus=0)
class Worker:
    def wait(self):
        import time
        time.sleep(300)

with ray_cluster():
    worker = Worker.remote()
    sys.stdout.write("waits\\n")
    sys.stdout.flush()
    ray.get(worker.wait.remote())
"""


@pytest.mark.matrix(2)
@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_a_job_that_waits_for_a_call_when_its_cluster_is_killed_says_so_and_leaves_nothing(usual: Path, name: str) -> None:
    environment = {**os.environ, "TMPDIR": str(usual), "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", BLOCKED]
    job = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert job.stdout is not None
    assert job.stdout.readline() == "waits\n"
    started = psutil.Process(job.pid).children(recursive=True)
    next(child for child in started if child.name() == name).kill()
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 1
    assert f"Ray: {name} of this process's own cluster has ended" in errors
    assert [child for child in psutil.wait_procs(started, timeout=10)[1] if child.status() != psutil.STATUS_ZOMBIE] == []
    assert list(usual.iterdir()) == []
