"""``GET /v1/system``: processes by short names, memory, resources, versions; looked at now and then."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import ray

from serve import system
from serve.system import EVERY_S, System, name_of, packages
from streamrec import __version__
from streamrec.clock import ManualClock

NAMES = [
    ("ray::StudentActor.step", "StudentActor"), ("ray::IDLE", "IDLE"), ("/x/ray/core/src/ray/raylet/raylet --store=/tmp/x", "Ray: raylet"),
    ("/x/gcs_server --redis_password=secret", "Ray: control (GCS)"), ("python -u /x/ray/_private/log_monitor.py --x=1", "Ray: log_monitor"),
    ("python -m jobs.stream --state s3://key:secret@bucket", "jobs.stream"), ("/usr/bin/python3 /v/bin/streamrec dev --key=secret", "streamrec dev"),
    ("streamrec --key=secret", "streamrec"), ("java -Xmx1g kafka.Kafka kraft.properties", "Kafka"), ("java -jar other.jar", None),
    ("vim streamrec", None), ("python other.py jobs.stream", None), ("python", None), ("", None),
]  # fmt: skip


@pytest.mark.parametrize(("command", "name"), NAMES)
def test_of_a_command_a_short_name_is_told_and_nothing_that_may_be_a_secret(command: str, name: str | None) -> None:
    assert name_of(command.split(" ")) == name


def test_a_process_of_ours_is_told_with_its_memory_until_it_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()", "x"], stdin=subprocess.PIPE, executable=sys.executable) as child:
        told = {one["pid"]: one for one in system.processes()}
        assert child.pid not in told  # Python, but nothing of ours.
        assert told[os.getpid()]["name"] == "Server"
        assert 2**20 < told[os.getpid()]["bytes"] < 2**36
        assert told[os.getpid()]["kind"] in {"pss", "rss"}
        child.kill()


def test_it_looks_now_and_then_whoever_asks_how_often(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, looks = ManualClock(), list[int]()
    monkeypatch.setattr(system, "processes", lambda: [{"num": looks.append(1) or len(looks)}])
    looked = System("r1", lambda: {"resources": [], "nodes": []}, clock)
    assert [looked.facts()["processes"][0]["num"] for _ in range(3)] == [1, 1, 1]
    clock.advance(EVERY_S)
    assert looked.facts()["processes"][0]["num"] == 2


def test_versions_are_those_that_are_installed() -> None:
    found = {one["name"]: one["version"] for one in packages()}
    assert found["streamrec"] == __version__
    assert found.keys() >= {"python", "numpy", "torch"}
    assert not {"pytest", "obstore"} & found.keys()  # Of extras.


def test_without_ray_there_is_no_cluster(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # Other tests of this process may have one.
    told = System("r1").facts()
    assert (told["resources"], told["nodes"]) == ([], [])
    assert serving().ask("GET", "/v1/system").body["replica"] == "replica-1"
