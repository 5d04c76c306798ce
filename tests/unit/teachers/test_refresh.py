from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RayError, RayTaskError

from streamrec.config import Config, RefreshPlacement
from streamrec.errors import OperatorError, StorageError
from streamrec.state import ComponentState, digest_of, from_bytes
from streamrec.storage import open_storage
from streamrec.teachers import refresh
from streamrec.teachers.protocol import content_request
from streamrec.teachers.refresh import RayRefresher
from streamrec.teachers.requests import RefreshRequest, carry_out
from streamrec.teachers.store import TeacherStore
from streamrec.testing.circles import Circles


class Actors:
    """Stand for Ray's actors: each call's result is a version's name, done when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: set[str] = set()
        self.asked: list[tuple[Any, ...]] = []
        self.carry_out = self
        self.num_made = 0
        monkeypatch.setattr(refresh, "background_refresh", self.make)
        monkeypatch.setattr(ray, "wait", lambda refs, **_: ([ref for ref in refs if ref in self.done], []))
        monkeypatch.setattr(ray, "get", lambda ref: None)

    def make(self, log_format: str, place: RefreshPlacement) -> Actors:
        self.num_made += 1
        assert (log_format, place) == ("plain", RefreshPlacement())
        return self

    def remote(self, request: RefreshRequest, *others: Any) -> str:
        self.asked.append((request, *others))
        return request.version


def request(version: str, teacher: str = "linear", payload: ComponentState | None = None) -> RefreshRequest:
    return RefreshRequest(teacher, version, None, 0, 0, payload or ComponentState())


@pytest.mark.parametrize("order", [["v1", "v2"], ["v2", "v1"]])
def test_of_two_versions_under_way_the_newest_is_the_finished_one_whichever_ends_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: list[str]
) -> None:
    actors, refresher = Actors(monkeypatch), RayRefresher(Config().teachers, str(tmp_path))
    for version in ("v1", "v2"):
        refresher.start(request(version))
    for version in order:
        actors.done.add(version)
        refresher.finished()
    assert refresher.finished() == {"linear": "v2"}
    assert actors.num_made == 1, "a teacher's refreshes share one process"


def test_asking_for_an_older_version_that_is_there_does_not_take_back_a_newer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    actors, refresher = Actors(monkeypatch), RayRefresher(Config().teachers, str(tmp_path))
    actors.done.add("v2")
    refresher.start(request("v2"))
    assert refresher.finished() == {"linear": "v2"}
    TeacherStore(open_storage(str(tmp_path))).publish("linear", "v1", ComponentState(), {})
    refresher.start(request("v1"))
    assert refresher.finished() == {"linear": "v2"}


def test_a_failure_names_the_version_that_failed_and_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    actors, refresher = Actors(monkeypatch), RayRefresher(Config().teachers, str(tmp_path))

    def get(ref: str) -> None:
        if ref == "v1":
            what = "the worker is gone"
            raise RayError(what)

    monkeypatch.setattr(ray, "get", get)
    for version in ("v1", "v2"):
        refresher.start(request(version))
        actors.done.add(version)
    assert refresher.failed() == {("linear", "v1"): "the worker is gone"}
    assert refresher.failed() == {}
    assert refresher.finished() == {"linear": "v2"}


def test_a_failure_that_says_what_happened_is_a_sentence_and_any_other_has_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    actors, refresher = Actors(monkeypatch), RayRefresher(Config().teachers, str(tmp_path))
    full, wrong = StorageError("Storage: no room", do="free some"), ValueError("wrong")

    def get(ref: str) -> None:
        raise RayTaskError("carry_out", f"Traceback\n{ref}", {"v1": full, "v2": wrong}[ref]).as_instanceof_cause()

    monkeypatch.setattr(ray, "get", get)
    for version in ("v1", "v2"):
        refresher.start(request(version))
        actors.done.add(version)
    failed = refresher.failed()
    assert failed["linear", "v1"] == "Storage: no room, free some"
    sentence, traced = caplog.records
    assert (sentence.getMessage().endswith(str(full)), sentence.exc_info) == (True, None)
    assert traced.exc_info is not None
    with pytest.raises(OperatorError, match=r"linear v3 \(it was never started here\)"):
        refresher.wait("linear", "v3")


def test_what_a_version_took_is_its_seconds_times_its_workers(tmp_path: Path) -> None:
    TeacherStore(open_storage(str(tmp_path))).publish("linear", "v1", ComponentState(), {"seconds": 30.0, "num_workers": 2})
    TeacherStore(open_storage(str(tmp_path))).publish("linear", "v2", ComponentState(), {})
    refresher = RayRefresher(Config().teachers, str(tmp_path))
    assert [refresher.cost_s("linear", version) for version in ("v1", "v2")] == [60.0, 0.0]


def test_what_a_refresh_is_made_from_is_stored_before_it_begins_and_stays_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    actors, config = Actors(monkeypatch), Config().teachers
    first = content_request(Circles().material(config), config)
    for payload in (first, content_request(Circles(num_users=2).material(config), config)):  # The second one comes after a restart.
        RayRefresher(config, str(tmp_path)).start(request("v1", "text", payload))
    sent, _, url, key = actors.asked[1]
    assert sent.payload.arrays == {}
    held = from_bytes(open_storage(url).read(key))
    assert digest_of(held) == digest_of(first)
    assert carry_out(replace(sent, payload=held), config, url)["num_known"] == 12
