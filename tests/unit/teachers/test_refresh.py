from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RayError

from streamrec.config import Config
from streamrec.state import ComponentState
from streamrec.storage import open_storage
from streamrec.teachers import refresh
from streamrec.teachers.refresh import RayRefresher
from streamrec.teachers.requests import RefreshRequest
from streamrec.teachers.store import TeacherStore


class Tasks:
    """Stand for Ray's tasks: each is a version's name, done when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: set[str] = set()
        monkeypatch.setattr(refresh, "_carry_out_task", self)
        monkeypatch.setattr(ray, "wait", lambda refs, **_: ([ref for ref in refs if ref in self.done], []))
        monkeypatch.setattr(ray, "get", lambda ref: None)

    def remote(self, request: RefreshRequest, *_: Any) -> str:
        return request.version


def request(version: str) -> RefreshRequest:
    return RefreshRequest("linear", version, None, 0, 0, ComponentState())


@pytest.mark.parametrize("order", [["v1", "v2"], ["v2", "v1"]])
def test_of_two_versions_under_way_the_newest_is_the_finished_one_whichever_ends_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: list[str]
) -> None:
    tasks, refresher = Tasks(monkeypatch), RayRefresher(Config().teachers, str(tmp_path))
    for version in ("v1", "v2"):
        refresher.start(request(version))
    for version in order:
        tasks.done.add(version)
        refresher.finished()
    assert refresher.finished() == {"linear": "v2"}


def test_asking_for_an_older_version_that_is_there_does_not_take_back_a_newer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks, refresher = Tasks(monkeypatch), RayRefresher(Config().teachers, str(tmp_path))
    tasks.done.add("v2")
    refresher.start(request("v2"))
    assert refresher.finished() == {"linear": "v2"}
    TeacherStore(open_storage(str(tmp_path))).publish("linear", "v1", ComponentState(), {})
    refresher.start(request("v1"))
    assert refresher.finished() == {"linear": "v2"}


def test_a_failure_names_the_version_that_failed_and_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks, refresher = Tasks(monkeypatch), RayRefresher(Config().teachers, str(tmp_path))

    def get(ref: str) -> None:
        if ref == "v1":
            what = "the worker is gone"
            raise RayError(what)

    monkeypatch.setattr(ray, "get", get)
    for version in ("v1", "v2"):
        refresher.start(request(version))
        tasks.done.add(version)
    assert refresher.failed() == {("linear", "v1"): "the worker is gone"}
    assert refresher.failed() == {}
    assert refresher.finished() == {"linear": "v2"}


def test_what_a_version_took_is_its_seconds_times_its_workers(tmp_path: Path) -> None:
    TeacherStore(open_storage(str(tmp_path))).publish("linear", "v1", ComponentState(), {"seconds": 30.0, "num_workers": 2})
    TeacherStore(open_storage(str(tmp_path))).publish("linear", "v2", ComponentState(), {})
    refresher = RayRefresher(Config().teachers, str(tmp_path))
    assert [refresher.cost_s("linear", version) for version in ("v1", "v2")] == [60.0, 0.0]
