from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrec.config import Config, parse_config
from streamrec.errors import ConfigError, OperatorError, StorageError
from streamrec.features.dedupe import Dedupe, EventKeys
from streamrec.pipeline import saving
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.components import WorkerComponent
from streamrec.pipeline.saving import MAX_DELTAS, Saver, shape_of
from streamrec.pipeline.stream_state import StreamState, books
from streamrec.state import Component, ComponentState
from streamrec.storage import LocalStorage
from streamrec.testing.storage_faults import FaultyStorage
from streamrec.workers import LocalWorker


def remember(dedupe: Dedupe, start: int, num: int) -> None:
    ids = np.arange(start + 1, start + num + 1, dtype=np.uint64)
    dedupe.remember(EventKeys(ids, ids, np.zeros(num, np.int64)))


def restored(folder: Path, components: dict[str, Component]) -> Saver:
    saver = Saver(CheckpointStore(LocalStorage(folder)), components)
    assert saver.restore()
    return saver


class Counted(Dedupe):
    """Counts how often it was written whole."""

    num_wholes = 0

    def snapshot(self) -> ComponentState:
        self.num_wholes += 1
        return super().snapshot()


def test_small_changes_are_written_as_deltas_up_to_the_bound_and_restored(tmp_path: Path) -> None:
    one = Counted(100_000)
    saver = Saver(CheckpointStore(LocalStorage(tmp_path)), {"dedupe": one})
    assert not saver.restore()
    remember(one, 0, 5000)
    for number in range(MAX_DELTAS + 3):
        remember(one, 10_000 + number, 1)
        saver.commit(number, {})
    assert one.num_wholes == 2
    again = Dedupe(100_000)
    restored(tmp_path, {"dedupe": again})
    assert again.digest() == one.digest()


def test_a_component_that_the_last_commit_does_not_know_starts_empty_and_is_committed_whole(tmp_path: Path) -> None:
    old, new = Dedupe(1000), Dedupe(1000)
    saver = Saver(CheckpointStore(LocalStorage(tmp_path)), {"old": old})
    saver.restore()
    saver.commit(1, {})
    saver = restored(tmp_path, {"old": old, "new": new})
    remember(new, 0, 3)
    saver.commit(2, {})
    again = Dedupe(1000)
    restored(tmp_path, {"old": Dedupe(1000), "new": again})
    assert again.digest() == new.digest()


def test_after_a_failed_commit_the_next_one_hands_over_everything(tmp_path: Path) -> None:
    one = Dedupe(1000)
    storage = FaultyStorage(LocalStorage(tmp_path), is_crash=False)
    saver = Saver(CheckpointStore(storage), {"dedupe": one})
    saver.restore()
    remember(one, 0, 50)
    saver.commit(1, {})
    remember(one, 100, 1)
    storage._fail_at = storage.num_calls
    with pytest.raises(StorageError):
        saver.commit(2, {})
    remember(one, 200, 1)
    saver.commit(3, {})
    again = Dedupe(1000)
    restored(tmp_path, {"dedupe": again})
    assert again.digest() == one.digest()


def test_the_oldest_plan_that_a_fallback_needs_is_the_one_after_the_oldest_commit(tmp_path: Path) -> None:
    saver = Saver(CheckpointStore(LocalStorage(tmp_path), keep=2), {"dedupe": Dedupe(10)})
    saver.restore()
    assert [saver.commit(batch, {}) for batch in (3, 7, 9)] == [4, 4, 8]


def test_the_oldest_kept_teacher_is_the_smallest_of_all_commits_and_unknown_where_one_has_none(tmp_path: Path) -> None:
    saver = Saver(CheckpointStore(LocalStorage(tmp_path), keep=2), {"dedupe": Dedupe(10)})
    saver.restore()
    found = []
    for batch, teachers in enumerate([{}, {"linear": "v3"}, {"linear": "v5", "text": "v4"}, {"linear": "v7", "text": "v6"}]):
        saver.commit(batch, {"teachers": teachers})
        found.append(saver.oldest_kept("teachers"))
    assert found == [{}, {}, {"linear": "v3"}, {"linear": "v5", "text": "v4"}]


def test_a_state_of_another_shape_is_refused_before_anything_is_restored(tmp_path: Path) -> None:
    held, mine = Dedupe(10), Dedupe(10)
    remember(held, 0, 3)
    saver = Saver(CheckpointStore(LocalStorage(tmp_path)), {"dedupe": held}, shape_of(Config()))
    saver.restore()
    saver.commit(1, {})
    narrower = parse_config({"student": {"dim": 32}})
    with pytest.raises(ConfigError, match=r"student\.dim does not fit the state, got 32, allowed 64, give it that value, or make the state anew"):
        Saver(CheckpointStore(LocalStorage(tmp_path)), {"dedupe": mine}, shape_of(narrower)).restore()
    for ring in ({"student": {"replay_capacity": 7}}, {"teachers": {"window_events": 200}}):
        with pytest.raises(ConfigError, match="does not fit the state"):
            Saver(CheckpointStore(LocalStorage(tmp_path)), {"dedupe": mine}, shape_of(parse_config(ring))).restore()
    assert mine.digest() == Dedupe(10).digest()
    assert Saver(CheckpointStore(LocalStorage(tmp_path)), {"dedupe": mine}, shape_of(Config())).restore()
    assert mine.digest() == held.digest()


def test_a_stream_state_is_restored_whole_and_its_snapshot_stands_still() -> None:
    state = StreamState(batch=7, offsets={0: 5, 3: 9}, watermarks_ms={0: 123}, teachers={"linear": "v1"}, evidence={"num_queries": 3})
    state.counts["received"] = 12
    held = state.snapshot()
    again = StreamState(batch=99, live="v9")
    again.restore(held)
    assert again == state
    assert again.digest() == state.digest()
    state.counts["received"] = 13
    state.teachers["linear"] = "v2"
    assert again.counts["received"] == 12
    assert held.meta["teachers"] == {"linear": "v1"}
    again.restore(ComponentState())
    assert again == StreamState()


def test_books_call_pending_what_came_since_the_commit() -> None:
    state = StreamState()
    committed = dict(state.counts)
    state.counts |= {"received": 9, "applied": 7, "late": 2}
    assert books(state, committed) == {"received": 9, "applied": 0, "duplicate": 0, "rejected": 0, "late": 0, "quarantined": 0, "pending": 9}
    assert books(state, dict(state.counts))["pending"] == 0


class Elsewhere(LocalWorker[Dedupe]):
    """A worker that answers when it is let go: it has the state of the moment at which it was asked."""

    def __init__(self, target: Dedupe) -> None:
        super().__init__(target)
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.failure: Exception | None = None

    def submit(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        answer, failure = super().submit(method, *args, **kwargs), self.failure
        return _Answer(self.may_answer, answer, failure)


class _Answer:
    def __init__(self, may_answer: threading.Event, answer: Any, failure: Exception | None) -> None:
        self._may_answer, self._answer, self._failure = may_answer, answer, failure

    def result(self) -> Any:
        assert self._may_answer.wait(30)
        if self._failure is not None:
            raise self._failure
        return self._answer.result()


def large_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Saver, Elsewhere, Dedupe]:
    """Return a saver that has committed a component of a worker and one of its own, and takes the worker's for large."""
    monkeypatch.setattr(saving, "LARGE_BYTES", 100)
    worker, own = Elsewhere(Dedupe(1000)), Dedupe(1000)
    parts: dict[str, Component] = {"far": WorkerComponent("far", worker, lambda target: target), "own": own}
    saver = Saver(CheckpointStore(LocalStorage(folder)), parts)
    saver.restore()
    remember(worker.target, 0, 50)
    saver.commit(1, {})
    saver.wait()
    return saver, worker, own


def assert_holds(folder: Path, far: Dedupe, own: Dedupe) -> None:
    far_again, own_again = Dedupe(1000), Dedupe(1000)
    restored(folder, {"far": far_again, "own": own_again})
    assert (far_again.digest(), own_again.digest()) == (far.digest(), own.digest())


def test_a_large_change_of_a_worker_is_asked_for_and_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saver, worker, own = large_elsewhere(tmp_path, monkeypatch)
    remember(worker.target, 100, 1)
    worker.may_answer.clear()
    saver.commit(2, {})  # It returns although the worker has not answered.
    digest = worker.target.digest()
    remember(worker.target, 200, 1)  # This is asked after the change, so the commit does not have it.
    worker.may_answer.set()
    saver.wait()
    again = Dedupe(1000)
    restored(tmp_path, {"far": again, "own": Dedupe(1000)})
    assert again.digest() == digest
    assert again.digest() != worker.target.digest()
    assert len(own) == 0


def test_a_small_change_of_a_worker_is_durable_when_the_commit_returns(tmp_path: Path) -> None:
    worker = Elsewhere(Dedupe(1000))
    parts: dict[str, Component] = {"far": WorkerComponent("far", worker, lambda target: target), "own": Dedupe(1000)}
    saver = Saver(CheckpointStore(LocalStorage(tmp_path)), parts)
    saver.restore()
    for number in range(3):
        remember(worker.target, 100 * number, 1)
        saver.commit(number, {})
        assert_holds_without_taking_over(tmp_path, worker.target)


def assert_holds_without_taking_over(folder: Path, far: Dedupe) -> None:
    loaded = CheckpointStore(LocalStorage(folder)).load_newest()
    assert loaded is not None
    base, *deltas = loaded.components["far"]
    again = Dedupe(1000)
    again.restore(base, deltas)
    assert again.digest() == far.digest()


def test_a_change_that_a_worker_can_not_give_is_raised_by_the_next_commit_and_given_whole_by_the_one_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver, worker, own = large_elsewhere(tmp_path, monkeypatch)
    before = worker.target.digest()
    remember(worker.target, 100, 1)
    remember(own, 100, 1)
    worker.failure = OperatorError("Actor: the call is not its owner's")
    saver.commit(2, {})
    remember(worker.target, 200, 1)
    remember(own, 200, 1)
    with pytest.raises(OperatorError):
        saver.commit(3, {})
    again = Dedupe(1000)
    loaded = CheckpointStore(LocalStorage(tmp_path)).load_newest()
    assert loaded is not None
    again.restore(*loaded.components["far"][:1], loaded.components["far"][1:])
    assert again.digest() == before
    worker.failure = None
    saver.commit(4, {})
    saver.wait()
    assert_holds(tmp_path, worker.target, own)
