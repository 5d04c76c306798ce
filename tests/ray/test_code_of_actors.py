"""Adopt actors that an earlier job has left behind: they run the code of the driver that adopts them."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.exceptions import RayActorError

from serve.system import processes
from streamrec.errors import Fenced, OperatorError
from streamrec.pipeline.ray_workers import RayWorker, leave
from streamrec.pipeline.session import tell_other_code
from streamrec.registry.remote_board import RemoteBoard
from streamrec.student import actor
from streamrec.student.actor import NAMESPACE, host

ROOT = Path(__file__).resolve().parents[2]
NAME = "test-student"
JOB = """
import ray, sys
ray.init(address=sys.argv[1], namespace="streamrec", log_to_driver=False, runtime_env={"working_dir": sys.argv[2]})
from streamrec.pipeline.ray_workers import RayWorker
from streamrec.student.actor import host
from streamrec.student.learner import marker
worker = RayWorker(host("test-student", 0.1), int(sys.argv[3]), dict)
worker.adopted()
print("runs", worker.submit(marker).result())
"""


@pytest.fixture(autouse=True, scope="module")
def _none_stays(ray_cluster: None) -> Iterator[None]:
    yield
    ray.kill(ray.get_actor(NAME, namespace=NAMESPACE), no_restart=True)


def taking(number: int) -> RayWorker[dict[str, int]]:
    """Adopt the actor as a driver does, with an epoch."""
    worker: RayWorker[dict[str, int]] = RayWorker(host(NAME, 0.1), number, dict)
    worker.adopted()
    return worker


def pid_of(_: object) -> int:
    return os.getpid()


def never(_: object) -> None:
    threading.Event().wait()


def named() -> bool:
    return {"name": NAME, "namespace": NAMESPACE} in ray.util.list_named_actors(all_namespaces=True)


def job_of_its_own(folder: Path, marker: str, epoch: int) -> str:
    """Run a driver whose working folder holds this package with a marker in it, and return what its actor says."""
    shutil.copytree(ROOT / "streamrec", folder / "streamrec", ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "streamrec" / "student" / "learner.py").open("a") as source:
        source.write(f"\n\ndef marker(_: object) -> str:\n    return {marker!r}\n")
    (folder / "job.py").write_text(JOB)
    words = [sys.executable, "job.py", ray.get_runtime_context().gcs_address, str(folder), str(epoch)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return next(line for line in done.stdout.splitlines() if line.startswith("runs "))


@pytest.mark.usefixtures("ray_cluster")
def test_an_actor_is_adopted_while_its_code_is_the_drivers_and_else_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    first = taking(1)
    pid = first.submit(pid_of).result()
    again = taking(2)
    assert again.submit(pid_of).result() == pid
    monkeypatch.setattr(actor, "code_version", lambda: "0.0.0-of-another-release")
    other = taking(3)
    assert other.submit(pid_of).result() != pid
    with pytest.raises(RayActorError):
        again.submit(pid_of).result()


@pytest.mark.usefixtures("ray_cluster")
def test_an_actors_process_is_called_what_the_actor_is_for() -> None:
    worker: RayWorker[dict[str, int]] = RayWorker(host(None, 0.1, role="student_events_only"), 1, dict)
    worker.adopted()
    pid = worker.submit(pid_of).result()
    assert {one["name"] for one in processes() if one["pid"] == pid} == {"student_events_only"}


@pytest.mark.usefixtures("ray_cluster")
def test_an_actor_of_a_job_with_another_environment_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    pid = taking(1).submit(pid_of).result()
    monkeypatch.setattr(actor, "environment_of_job", lambda: "another")
    other = taking(2)
    pid_of_other = other.submit(pid_of).result()
    assert pid_of_other != pid
    assert taking(3).submit(pid_of).result() == pid_of_other


@pytest.mark.usefixtures("ray_cluster")
def test_a_driver_that_was_replaced_ends_no_actor_of_the_newer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = taking(1)
    pid = newer.submit(pid_of).result()
    monkeypatch.setattr(actor, "code_version", lambda: "0.0.0-of-another-release")

    def fenced() -> None:
        what = "Checkpoint: another writer has taken over the state"
        raise Fenced(what)

    with pytest.raises(Fenced):
        host(NAME, 0.1, fenced)
    assert newer.submit(pid_of).result() == pid


@pytest.mark.usefixtures("ray_cluster")
def test_what_was_refused_to_a_replaced_driver_that_never_asked_for_it_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[object] = []
    monkeypatch.setattr("ray._private.worker._unhandled_error_handler", printed.append)
    older = taking(1)
    newer = taking(2)
    refused = older.handle.call.remote(1, pid_of)  # Ray prints of no error that somebody has waited for.
    with pytest.raises(OperatorError, match="not its owner's"):
        older.submit(pid_of).result()
    del refused
    gc.collect()
    assert newer.submit(pid_of).result() > 0
    assert printed == []


@pytest.mark.usefixtures("ray_cluster")
def test_nor_is_what_an_actor_was_about_to_answer_that_a_newer_driver_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[object] = []
    monkeypatch.setattr("ray._private.worker._unhandled_error_handler", printed.append)
    older = taking(1)
    unanswered = [older.handle.call.remote(1, pid_of), older.handle.call.remote(1, never)]
    ray.kill(older.handle, no_restart=True)
    with pytest.raises(RayActorError):
        older.submit(pid_of).result()
    del unanswered
    gc.collect()
    assert taking(2).submit(pid_of).result() > 0
    assert printed == []


@pytest.mark.usefixtures("ray_cluster")
def test_a_driver_that_ends_ends_its_actors_and_none_that_another_has_adopted() -> None:
    older = taking(1)
    newer = taking(2)
    leave([older, None])
    assert newer.submit(pid_of).result() > 0
    with pytest.raises(OperatorError, match="not its owner's"):
        older.submit(pid_of).result()
    leave([newer])
    with pytest.raises(RayActorError):
        newer.submit(pid_of).result()
    assert not named()
    assert taking(3).submit(pid_of).result() > 0


@pytest.mark.usefixtures("ray_cluster")
def test_a_board_with_other_code_is_told_loudly_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    board, said = RemoteBoard.get_or_create(), []
    try:
        assert board.live() == (0, "")
        tell_other_code(board, said.append)
        assert said == []
        monkeypatch.setattr("streamrec.registry.remote_board.code_version", lambda: "0.0.0-of-another-release")
        tell_other_code(board, said.append)
        assert len(said) == 1
        assert said[0].startswith("WARNING: the board, which hands versions to the servers, runs other code (")
        assert board.live() == (0, "")
    finally:
        board.kill()


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.usefixtures("ray_cluster")
def test_after_an_upgrade_the_actors_run_what_the_new_job_brought(tmp_path: Path) -> None:
    assert job_of_its_own(tmp_path / "old", "old code", 1) == "runs old code"
    assert job_of_its_own(tmp_path / "new", "new code", 2) == "runs new code"
