from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.exceptions import RayActorError

from streamrec.awaiting import BEHIND
from streamrec.features.dedupe import Dedupe, EventKeys
from streamrec.pipeline import saving
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.components import WorkerComponent
from streamrec.pipeline.ray_workers import RayWorker
from streamrec.pipeline.saving import Saver
from streamrec.storage import LocalStorage
from streamrec.student.actor import host

NUM_COMMITS = 20
LAST = 19
"""Of all priorities; Ray begins workers at 15 unless it is told otherwise."""


def remember(dedupe: Dedupe, number: int, num: int = 1) -> None:
    ids = number * 10_000 + np.arange(1, num + 1, dtype=np.uint64)
    dedupe.remember(EventKeys(ids, ids, np.zeros(num, np.int64)))


def itself(dedupe: Dedupe) -> Dedupe:
    return dedupe


def large_in_an_actor(folder: Path) -> tuple[RayWorker[Dedupe], Saver]:
    """Return an actor's component, and its saver after a first commit, which takes it for large."""
    worker: RayWorker[Dedupe] = RayWorker(host(None, 0.1), 1, Dedupe, 100_000)
    saver = Saver(CheckpointStore(LocalStorage(folder)), {"dedupe": WorkerComponent("dedupe", worker, itself)})
    saver.restore()
    worker.submit(remember, 0, 5000)
    saver.commit(0, {})
    saver.wait()
    return worker, saver


def committed(folder: Path) -> Dedupe:
    loaded = CheckpointStore(LocalStorage(folder)).load_newest()
    assert loaded is not None
    base, *deltas = loaded.components["dedupe"]
    again = Dedupe(100_000)
    again.restore(base, deltas)
    return again


def test_what_a_commit_asks_of_an_actor_is_the_state_before_the_calls_that_follow(ray_cluster, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(saving, "LARGE_BYTES", 100)
    worker, saver = large_in_an_actor(tmp_path)
    here = Dedupe(100_000)
    remember(here, 0, 5000)
    for number in range(1, NUM_COMMITS + 1):
        worker.submit(remember, number)
        remember(here, number)
        saver.commit(number, {})
        worker.submit(remember, 1000 + number)  # The next step's, submitted while the commit is still asked for.
        saver.wait()
        assert committed(tmp_path).digest() == here.digest()
        remember(here, 1000 + number)


def test_an_actor_that_dies_before_it_answers_fails_the_next_commit_and_the_one_before_stays(ray_cluster, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(saving, "LARGE_BYTES", 100)
    worker, saver = large_in_an_actor(tmp_path)
    before = committed(tmp_path).digest()
    ray.kill(worker.handle)
    with pytest.raises(RayActorError):
        ask_for_ever(worker)
    saver.commit(1, {})
    with pytest.raises(RayActorError):
        saver.commit(2, {})
    assert committed(tmp_path).digest() == before


def test_who_a_step_waits_for_only_at_its_end_goes_behind_the_others(ray_cluster) -> None:
    before, behind = (RayWorker(host(None, 0.1, niceness=niceness), 1, Dedupe, 10) for niceness in (0, BEHIND))
    priorities = [worker.submit(priority).result() for worker in (before, behind)]
    assert priorities[0] < priorities[1] == min(priorities[0] + BEHIND, LAST)


def ask_for_ever(worker: RayWorker) -> None:
    """Ask until the process is gone: for a moment after a kill it may still answer."""
    while True:
        worker.submit(priority).result()


def priority(_: Dedupe) -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)
