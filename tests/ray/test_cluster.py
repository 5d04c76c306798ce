from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import ray

from streamrec.pipeline.cluster import ray_cluster
from streamrec.teachers.trainer import give_way


def run_folders():
    return {path for folder in {tempfile.gettempdir(), "/tmp"} for path in Path(folder).glob("streamrec-*")}


@ray.remote(num_cpus=0)
def priorities():
    usual = os.nice(0)
    give_way()
    return usual, os.nice(0)


def test_a_local_cluster_works_at_the_drivers_priority_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = run_folders()
    with ray_cluster():
        assert len(run_folders() - before) == 1
        # At Ray's own default, nice 15, a replica waits for every other program of the machine.
        usual, training = ray.get(priorities.remote())
        assert usual == os.nice(0)
        assert training > usual
    assert not ray.is_initialized()
    assert run_folders() == before
